"""The network: torchvision's losses and one more, which reaches annotated boxes alone; and the scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.ops import FrozenBatchNorm2d

from camscribe.runtime.errors import DataError
from camscribe.train.checkpoint import Checkpoint
from camscribe.train.config import ModelConfig as CaptionerConfig
from camscribe.train.detection import weights
from camscribe.train.detection.config import ModelConfig, from_dict, load_config
from camscribe.train.detection.network import build_detector, train_backbone
from camscribe.train.detection.scenes import Names, Targets
from camscribe.train.detection.scores import mean_average_precision, right_attributes
from camscribe.train.faster_rcnn import FasterRcnn

SIDE = 96
CONFIG = ModelConfig("fasterrcnn_tiny", "none", SIDE, SIDE, embedding_width=8, attribute_width=16)
NAMES = Names(("square", "disc"), ("red", "green"))
REAL = "fasterrcnn_mobilenet_v3_large_320_fpn"


def _network() -> FasterRCNN:
    torch.manual_seed(2)
    return build_detector(CONFIG, NAMES, "none")


def _targets(*shares: tuple[float, float, float]) -> Targets:
    """A square and a disc, with these attributes."""
    return {
        "boxes": torch.tensor([[4.0, 4, 44, 44], [50, 40, 90, 80]]),
        "labels": torch.tensor([1, 2]),
        "attributes": torch.tensor(shares),
        "crowd": torch.zeros(2, dtype=torch.bool),
    }


NOTHING, RED, NEITHER = (0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def _losses(network: FasterRCNN, *targets: Targets) -> dict[str, Tensor]:
    torch.manual_seed(4)
    made: dict[str, Tensor] = network.train()([torch.rand(3, SIDE, SIDE) for _ in targets], list(targets))
    return made


def test_the_other_losses_are_torchvisions_own() -> None:
    with_attributes = _losses(_network(), _targets(RED, NOTHING))
    torch.manual_seed(2)
    plain = build_detector(CONFIG, Names(NAMES.classes, ()), "none")
    alone = _losses(plain, _targets(RED, NOTHING))
    assert set(with_attributes) == {*alone, "loss_attributes"}
    assert all(torch.equal(value, with_attributes[name]) for name, value in alone.items())


def test_the_attributes_loss_reaches_annotated_boxes_alone() -> None:
    network = _network()
    nothing = _losses(network, _targets(NOTHING, NOTHING))["loss_attributes"]
    assert nothing == 0
    nothing.backward()
    head = network.roi_heads.attributes
    assert all(value.grad is not None and not value.grad.any() for value in head.parameters())
    network.zero_grad()
    loss = _losses(network, _targets(NOTHING, NOTHING), _targets(RED, NOTHING))["loss_attributes"]
    assert loss > 0.5
    loss.backward()
    background, square, disc = head.embedding.weight.grad
    assert square.any()
    assert not background.any()
    assert not disc.any()
    assert network.roi_heads.box_head.fc6.weight.grad.any()


def test_a_box_of_no_attributes_is_one_that_somebody_looked_at() -> None:
    network = _network()
    optimizer = torch.optim.Adam(network.roi_heads.attributes.parameters(), 0.05)
    for _ in range(15):
        optimizer.zero_grad()
        _losses(network, _targets(RED, NEITHER))["loss_attributes"].backward()
        optimizer.step()
    torch.manual_seed(4)
    (found,) = network.eval()([torch.rand(3, SIDE, SIDE)], [_targets(RED, NEITHER)])
    assert found["true_attributes"].argmax(dim=1).tolist() == [0, 2]
    torch.testing.assert_close(found["true_attributes"].exp().sum(dim=1), torch.ones(2))
    assert found["attributes"].shape == (len(found["boxes"]), 3)


def test_images_without_boxes_are_trained_on() -> None:
    empty = {name: value[:0] for name, value in _targets(RED, RED).items()}
    losses = _losses(_network(), empty, empty)
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses["loss_attributes"] == 0


def test_a_real_detector_trains_and_its_checkpoint_is_read(tmp_path: Path) -> None:
    torch.manual_seed(5)
    some = [torch.rand(3, SIDE, SIDE) for _ in range(2)]
    network = build_detector(replace(CONFIG, detector=REAL), NAMES, "none", some)
    with torch.no_grad():
        listed, _ = network.eval().transform(some)
        assert all(value.std() > 0.01 for value in network.backbone(listed.tensors).values())
    network.roi_heads.fg_bg_sampler.batch_size_per_image = 16
    train_backbone(network, 2)
    assert not any(value.requires_grad for value in network.backbone.body["0"].parameters())
    with pytest.raises(DataError, match="trained_backbone_stages is 18; the detector's backbone has 17"):
        train_backbone(network, 18)
    losses = _losses(network, _targets(RED, NEITHER))
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert network.roi_heads.attributes.hidden.weight.grad is not None
    path = tmp_path / "real.safetensors"
    meta = {"config": {"task": "detection", "model": {"detector": REAL}}}
    Checkpoint({f"model.{name}": value for name, value in network.state_dict().items()}, meta).save(path)
    config = CaptionerConfig(
        encoder="faster_rcnn", detector=REAL, weights=str(path), image_height=SIDE, image_width=SIDE
    )
    mine = FasterRcnn(config)
    mine.read()
    images = (torch.rand(1, SIDE, SIDE, 3) * 255).byte()
    with torch.no_grad():
        listed, _ = network.eval().transform([images[0].permute(2, 0, 1) / 255])
        for name, value in network.backbone(listed.tensors).items():
            torch.testing.assert_close(mine.maps(images)[name], value, rtol=1e-3, atol=1e-4 * float(value.abs().max()))
    for name in (
        "roi_heads.box_predictor.cls_score.weight",
        "roi_heads.box_head.fc7.bias",
        "rpn.head.bbox_pred.weight",
    ):
        assert torch.equal(mine.network.state_dict()[name], network.state_dict()[name])


@torch.no_grad()
def test_random_norms_settle_where_their_epsilon_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights._EPSILON, "fasterrcnn_tiny", 0.0)
    grey = [torch.full((3, SIDE, SIDE), 0.5)] * 2  # no variance but at the edges
    network = build_detector(CONFIG, NAMES, "none", grey).eval()
    norms = [module for module in network.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert [norm.eps for norm in norms] == [0.0] * 3
    assert any((norm.running_var != 1).any() for norm in norms)
    listed, _ = network.transform([torch.rand(3, SIDE, SIDE)])
    assert all(torch.isfinite(value).all() for value in network.backbone(listed.tensors).values())


def test_weights_that_cannot_be_downloaded_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(DataError, match=r"weights cannot be downloaded \(no route to host\); name a file in weights"):
        build_detector(replace(CONFIG, detector=REAL), NAMES, "torchvision")


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"roi_heads.box_predictor.cls_score.weight": torch.zeros(3, 64)}, path)
    with pytest.raises(DataError, match="does not fit torchvision's fasterrcnn_tiny"):
        build_detector(CONFIG, NAMES, str(path))
    with pytest.raises(DataError, match="is no Faster R-CNN of torchvision's"):
        build_detector(ModelConfig("ssd300_vgg16", "none"), NAMES, "none")


# -- scores -----------------------------------------------------------------------------------------------------------

TRUTH = [_targets(RED, NOTHING), _targets(NOTHING, NEITHER)]


def _found(*rows: tuple[list[float], int, float]) -> dict[str, Tensor]:
    boxes, labels, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": torch.tensor(scores),
    }


SQUARE, DISC, AWAY = [4.0, 4, 44, 44], [50.0, 40, 90, 80], [60.0, 0, 90, 30]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([_found((SQUARE, 1, 0.9), (DISC, 2, 0.8))] * 2, 1.0),
        ([_found()] * 2, 0.0),
        # Of squares all, of discs none.
        ([_found((SQUARE, 1, 0.9), (AWAY, 2, 0.8))] * 2, 0.5),
        # Half of the squares: precision 1 at the recalls 0, 0.01, ... 0.5 of 101.
        ([_found((SQUARE, 1, 0.9), (DISC, 2, 0.8)), _found((DISC, 2, 0.8))], (51 / 101 + 1) / 2),
        # A false square before the two true ones: precision 2/3 at every recall.
        ([_found((AWAY, 1, 0.95), (SQUARE, 1, 0.9), (DISC, 2, 0.8)), _found((SQUARE, 1, 0.7), (DISC, 2, 0.6))], 5 / 6),
        # An overlap of 20 in 40 x 40: 0.333, too little.
        ([_found(([24.0, 4, 64, 44], 1, 0.9), (DISC, 2, 0.8))] * 2, 0.5),
    ],
    ids=["all", "nothing", "one-class", "half", "false-first", "displaced"],
)
def test_mean_average_precision(
    found: list[dict[str, Tensor]], expected: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mean_average_precision(TRUTH, found, 3) == pytest.approx(expected, abs=1e-6)
    assert capsys.readouterr().out == ""


def test_what_is_found_in_a_crowd_counts_for_nothing() -> None:
    crowded = {**TRUTH[0], "crowd": torch.tensor([False, True])}
    found = _found((SQUARE, 1, 0.5), ([50.0, 40, 70, 60], 2, 0.9))
    assert mean_average_precision([crowded], [found], 2) == pytest.approx(1.0)


def test_the_right_attributes() -> None:
    red_and_neither = torch.tensor([[0.0, -9, -9], [-9, -9, 0.0]])
    assert right_attributes(_targets(RED, NOTHING), red_and_neither) == [True]
    assert right_attributes(_targets(RED, (0.5, 0.5, 0.0)), red_and_neither) == [True, False]
    assert right_attributes(_targets(NOTHING, NEITHER), red_and_neither) == []


# -- the configuration ------------------------------------------------------------------------------------------------

TABLE = {"task": "detection", "data": {"root": "x"}, "stage": [{"name": "a", "epochs": 1}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": []}, r"no \[\[stage\]\]"),
        ({"stage": [{"name": "a", "epochs": 0}]}, "epochs is 0; expected 1 or more"),
        ({"stage": [{"name": "a", "epochs": 1, "variants": 3}]}, r"variants is 3; expected 1 \(plain\) or 2"),
        ({"stage": [{"name": "a", "epochs": 1, "attribute_weight": -1}]}, "attribute_weight is -1"),
        ({"model": {"image_height": 100}}, "image_height is 100; expected a multiple of 32"),
        ({"model": {"detecter": "x"}}, "did you mean 'detector'"),
        ({"data": {}}, "root is missing"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_dict({**TABLE, **change})


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    folder = tmp_path
    text = 'task = "detection"\nstart = "a.safetensors"\n[data]\nroot = "d"\nannotations = "boxes.json"\n'
    (folder / "a.toml").write_text(text + '[model]\nweights = "w.pth"\n[[stage]]\nname = "s"\nepochs = 1\n')
    config = load_config(folder / "a.toml", ["model.fit=crop"])
    assert (config.start, config.data.root, config.data.annotations, config.model.weights) == tuple(
        str(folder / name) for name in ("a.safetensors", "d", "boxes.json", "w.pth")
    )
    assert config.data.images is None
    assert config.model.fit == "crop"
    assert load_config(folder / "a.toml", ["model.weights=torchvision"]).model.weights == "torchvision"
