"""The shipped enhancer: as a library, as a command, before a captioner, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.cli import main
from camscribe.runtime.enhancer import Enhancer, SmallImages
from camscribe.runtime.enhancer_bundle import DEFAULT_ENHANCER, EnhancerBundle
from camscribe.runtime.errors import BundleError, EngineError, OptionError, SourceError

EXAMPLES = Path(__file__).parents[2] / "examples"
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    """The shipped one, in float32."""
    return Enhancer.load(precision="float32", backend="cpu")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A small photograph, [50, 70, 3]."""
    return np.asarray(Image.open(EXAMPLES / "horses.jpg").convert("RGB").resize((70, 50), Image.Resampling.BOX))


def test_the_shipped_enhancer_is_small_and_whole() -> None:
    bundle = EnhancerBundle.load()
    size = sum(path.stat().st_size for path in bundle.path.iterdir())
    assert size <= 3_000_000
    assert set(bundle.manifest.variants) == {"psnr", "gan"}
    assert all(set(graphs) == {"float32", "fp16", "int8"} for graphs in bundle.manifest.variants.values())
    assert '"/' not in json.dumps(bundle.manifest.provenance), "a path of the machine it was made on"


@pytest.mark.parametrize("variant", ["psnr", "gan"])
def test_this_machine_makes_what_the_exporting_one_made(variant: str) -> None:
    with Enhancer.load(precision="float32", backend="cpu", variant=variant) as enhancer:
        found = enhancer.enlarge(enhancer.bundle.parity_image()).astype(int)
        assert np.abs(found - enhancer.bundle.parity_enhanced(variant).astype(int)).max() <= 1


def test_all_forms_of_an_image(enhancer: Enhancer, photo: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    Image.fromarray(photo).save(file)
    expected = enhancer.enhance(photo, "rgb").pixels
    assert expected.shape == (200, 280, 3)
    assert expected.dtype == np.uint8
    made = enhancer.enhance([str(file), file, Image.fromarray(photo)])
    assert all(np.array_equal(item.pixels, expected) for item in made)
    assert np.array_equal(enhancer.enhance(photo[:, :, ::-1], "bgr").pixels, expected)
    assert enhancer.enhance(photo[:, :, 0]).pixels.shape == (200, 280, 3)
    assert made[0].enhance_ms > 0 and made[0].read_ms > 0  # noqa: PT018


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_tiles_leave_no_seams(photo: np.ndarray, precision: str) -> None:
    whole = Enhancer.load(precision=precision, backend="cpu")
    tiled = Enhancer.load(precision=precision, backend="cpu", tile=2 * whole.bundle.manifest.radius + 6)
    first, second = (item.enlarge(photo).astype(int) for item in (whole, tiled))
    assert np.abs(first - second).max() <= 1


def test_it_is_nearer_to_the_truth_than_bicubic(enhancer: Enhancer) -> None:
    truth = Image.open(EXAMPLES / "retriever.jpg").convert("RGB").resize((256, 256), Image.Resampling.BOX)
    small = truth.resize((64, 64), Image.Resampling.BICUBIC)
    plain = np.asarray(small.resize((256, 256), Image.Resampling.BICUBIC), float)
    made = enhancer.enhance(small).pixels.astype(float)
    errors = [np.mean((item - np.asarray(truth, float)) ** 2) for item in (made, plain)]
    assert errors[0] < 0.8 * errors[1]


def test_what_it_refuses(enhancer: Enhancer, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="7 x 40 pixels; this enhancer takes 8 x 8 or more"):
        enhancer.enhance(np.zeros((40, 7, 3), np.uint8), "rgb")
    with pytest.raises(SourceError, match="more than"):
        enhancer.enlarge(np.zeros((1, 1, 3), np.uint8).repeat(3000, 0).repeat(3000, 1))
    with pytest.raises(OptionError, match="color is not given"):
        enhancer.enhance(np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(SourceError, match="image 1 of 2"):
        enhancer.enhance([EXAMPLES / "horses.jpg", tmp_path / "none.png"])
    with pytest.raises(OptionError, match=r"variant is 'best'; enhancer .* has gan, psnr"):
        Enhancer.load(variant="best")
    with pytest.raises(OptionError, match="precision is 'int4'"):
        Enhancer.load(precision="int4")
    with pytest.raises(OptionError, match="backend is 'tpu'"):
        Enhancer.load(backend="tpu")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="tile is 8"):
        Enhancer.load(tile=8)
    closed = Enhancer.load(backend="cpu")
    closed.close()
    with pytest.raises(EngineError, match="closed"):
        closed.enlarge(np.zeros((40, 40, 3), np.uint8))


def test_bundles_of_the_other_kind_are_refused() -> None:
    with pytest.raises(BundleError, match="of kind 'enhancer'; expected 'captioner'"):
        Bundle.load(DEFAULT_ENHANCER)
    with pytest.raises(BundleError, match="of kind 'captioner'; expected 'enhancer'"):
        EnhancerBundle.load(Bundle.load().path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: m.update(scale=0), "scale is 0"),
        (lambda m: m.update(scale=2), r"has image .*enhanced uint8\[B,4\*H,4\*W,3\]; expected"),
        (lambda m: m.update(default_variant="x"), "not among variants"),
        (lambda m: m["files"].update({"../x": {"bytes": 1, "sha256": ""}}), "plain file name"),
        (lambda m: m["files"].pop("psnr.onnx"), "files lacks psnr.onnx"),
        (lambda m: m["variants"]["psnr"].pop("float32"), "variant psnr lacks float32"),
        (lambda m: m["files"]["psnr.onnx"].update(sha256="0"), "psnr.onnx is altered"),
    ],
)
def test_damaged_manifests_are_refused(tmp_path: Path, damage: object, message: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(DEFAULT_ENHANCER, folder)
    manifest = json.loads((folder / "bundle.json").read_text())
    damage(manifest)  # type: ignore[operator]
    (folder / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=message):
        EnhancerBundle.load(folder)


@pytest.mark.parametrize("tile", [384, 45])
def test_a_network_of_another_scale_than_its_bundle_says_is_refused(
    tmp_path: Path, photo: np.ndarray, tile: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sealed as it should be, so that only its pictures show it."""
    onnx = pytest.importorskip("onnx")
    folder = tmp_path / "copy"
    shutil.copytree(DEFAULT_ENHANCER, folder)
    model = onnx.load(folder / "psnr.onnx", load_external_data=False)
    # Half of the pixels in each axis, by way of a stride.
    last = model.graph.node[-1]
    last.output[0] = "all"
    names = ("starts", "ends", "axes", "steps")
    for name, value in zip(names, ([0, 0], [2**31, 2**31], [1, 2], [2, 2]), strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), name))
    model.graph.node.append(onnx.helper.make_node("Slice", ["all", *names], ["enhanced"]))
    data = model.SerializeToString()
    (folder / "psnr.onnx").write_bytes(data)
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["files"]["psnr.onnx"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "bundle.json").write_text(json.dumps(manifest))
    with (
        Enhancer.load(folder, "cpu", "float32", tile=tile) as enhancer,
        pytest.raises(BundleError, match=r"the network enlarges \d+ x \d+ pixels to .*, its bundle says x4: fetch"),
    ):
        enhancer.enlarge(photo)
    Image.fromarray(photo).save(tmp_path / "a.png")
    arguments = ["--bundle", str(folder), "--precision", "float32", "--backend", "cpu", "--tile", str(tile)]
    assert main(["enhance", str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_way_to_an_image_that_is_too_small_is_one_line(
    tmp_path: Path, photo: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny, fine = tmp_path / "tiny.png", tmp_path / "fine.png"
    Image.fromarray(photo[:40, :7]).save(tiny)
    Image.fromarray(photo).save(fine)
    assert main(["enhance", str(tiny), str(fine), "--out", str(tmp_path / "out"), "--backend", "cpu"]) == 1
    said = capsys.readouterr()
    assert said.err == f"camscribe: {tiny}: image is 7 x 40 pixels; this enhancer takes 8 x 8 or more\n"
    assert "fine.x4.png" in said.out
    assert main(["enhance", str(fine), "--out", str(tmp_path / "out"), "--tile", "38"]) == 2
    assert capsys.readouterr().err == "camscribe: tile is 38; expected more than 38, the tiles' overlap\n"
    # Before a captioner it is passed on: a captioner takes any.
    assert main(["caption", str(tiny), "--enhance", "64", "--json", "--backend", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["timings_ms"]["enhance"] == 0


def test_the_command(tmp_path: Path, photo: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(photo).save(tmp_path / folder / "photo.png")
    out = tmp_path / "out"
    files = [str(tmp_path / folder / "photo.png") for folder in ("a", "b")]
    assert main(["enhance", *files, "--out", str(out), "--backend", "cpu"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["file", "size", "ms", "picture"]
    assert table[1].split()[1] == "280x200"
    assert sorted(path.name for path in out.iterdir()) == ["photo-2.x4.png", "photo.x4.png"]
    with Image.open(out / "photo.x4.png") as written:
        assert written.size == (280, 200)
    arguments = ["enhance", files[0], str(tmp_path / "none.png"), "--out", str(out), "--json", "--variant", "gan"]
    assert main([*arguments, "--precision", "int8", "--backend", "cpu", "--bundle", "enhancer"]) == 1
    captured = capsys.readouterr()
    first, second = map(json.loads, captured.out.splitlines())
    assert (first["variant"], first["precision"], first["width"]) == ("gan", "int8", 280)
    assert "no such file" in second["error"]
    assert captured.err.count("\n") == 1
    assert main(["enhance", files[0], "--out", str(out), "--bundle", str(tmp_path)]) == 2
    assert "is not a bundle" in capsys.readouterr().err


def test_info_shows_and_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(DEFAULT_ENHANCER), "--check", "--backend", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "enhancer, schema 1" in text
    assert "check: gan float32 on cpu" in text
    assert main(["info", str(DEFAULT_ENHANCER), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scale"] == 4


def test_small_images_are_enhanced_before_they_are_captioned(photo: np.ndarray, enhancer: Enhancer) -> None:
    small = SmallImages(enhancer, 51)
    made, cost = small(photo)
    assert made.shape == (200, 280, 3)
    assert cost > 0
    assert small(made) == (pytest.approx(made), 0.0)
    assert small(photo[:5])[1] == 0.0, "below the enhancer's smallest size"
    with pytest.raises(OptionError, match="below 0 pixels"):
        SmallImages(enhancer, 0)
    with Captioner.load(backend="cpu") as captioner:
        plain = captioner.caption(photo, "rgb")
        assert plain.timings.enhance_ms == 0
        captioner.enhance_below(51, enhancer)
        sharper = captioner.caption(photo, "rgb")
        assert sharper.timings.enhance_ms > 0
        assert sharper.timings.total_ms > sharper.timings.enhance_ms
        assert captioner.caption(made, "rgb").text == sharper.text
        assert captioner.caption(made, "rgb").timings.enhance_ms == 0


def test_caption_enhances_on_request(tmp_path: Path, photo: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(photo).save(tmp_path / "photo.png")
    words = ["--enhance", "64", "--enhancer", "enhancer", "--json", "--backend", "cpu"]
    assert main(["caption", str(tmp_path / "photo.png"), *words]) == 0
    assert json.loads(capsys.readouterr().out)["timings_ms"]["enhance"] > 0
    assert main(["caption", str(tmp_path / "photo.png"), "--json", "--backend", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["timings_ms"]["enhance"] == 0
    assert main(["caption", str(tmp_path / "photo.png"), "--enhancer", str(DEFAULT_ENHANCER)]) == 2
    assert "without --enhance PIXELS" in capsys.readouterr().err
