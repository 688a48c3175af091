"""The parity gate on captioners with boxes: another order is no difference, another box is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import EngineError
from camscribe.runtime.manifest import TensorSpec
from camscribe.runtime.tensorrt import gate
from camscribe.runtime.tensorrt.engines import build_engines
from camscribe.runtime.tensorrt.positions import SAME, align, match, overlaps

Made = dict[str, np.ndarray]


def random_boxes(seed: int, count: int) -> np.ndarray:
    """float32 [1, count + 2, 4]: the whole image first, and a last one that is none."""
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 0.6, (count, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(0.05, 0.4, (count, 2))], axis=1)
    return np.concatenate([[[0, 0, 1, 1]], boxes, [[0, 0, 0, 0]]]).astype(np.float32)[None]


@given(seed=st.integers(0, 1000), count=st.integers(1, 12))
def test_boxes_in_another_order_are_found_again(seed: int, count: int) -> None:
    mine = random_boxes(seed, count)
    moved = np.random.default_rng(seed + 1).permutation(mine.shape[1])
    order, same = match(mine, mine[:, moved])
    assert same.all()
    np.testing.assert_array_equal(np.take_along_axis(mine[:, moved], order[..., None], 1), mine)


def test_overlaps_are_those_of_a_count_of_pixels() -> None:
    generator = np.random.default_rng(0)
    corners = generator.integers(0, 20, (8, 2))
    boxes = np.concatenate([corners, corners + generator.integers(1, 12, (8, 2))], axis=1)
    masks = np.zeros((8, 32, 32), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    both = (masks[:, None] & masks[None]).sum(axis=(2, 3)) / (masks[:, None] | masks[None]).sum(axis=(2, 3))
    np.testing.assert_allclose(overlaps(boxes.astype(np.float32), boxes.astype(np.float32)), both, atol=1e-6)
    none = np.zeros((1, 4), np.float32)
    assert overlaps(none, none) == 1
    assert not overlaps(none, boxes.astype(np.float32)).any()


def test_what_one_encoder_lacks_is_counted_and_taken_from_the_other() -> None:
    mine = {"boxes": random_boxes(3, 4)}
    theirs = {"boxes": mine["boxes"][:, [0, 3, 2, 1, 4, 5]].copy()}
    theirs["boxes"][0, 4] = 0.001, 0.001, 0.002, 0.002  # instead of the last box
    generator = np.random.default_rng(0)
    shapes = {"memory.keys": (1, 6, 8), "memory.turned": (1, 8, 6), "state.h": (1, 6)}
    specs = [TensorSpec("boxes", "float32", ("B", "P", 4))]
    for name, shape in shapes.items():
        mine[name] = generator.normal(0, 1, shape).astype(np.float32)
        theirs[name] = generator.normal(0, 1, shape).astype(np.float16)
        specs.append(TensorSpec(name, "float32", ("B", *shape[1:])))
    made, others = align(specs, 6, mine, theirs)
    assert others == 1
    order = [0, 3, 2, 1]
    np.testing.assert_array_equal(made["boxes"], mine["boxes"])
    np.testing.assert_array_equal(made["memory.keys"][:, :4], theirs["memory.keys"][:, order])
    np.testing.assert_array_equal(made["memory.turned"][..., :4], theirs["memory.turned"][..., order])
    np.testing.assert_array_equal(made["memory.keys"][:, 4], mine["memory.keys"][:, 4].astype(np.float16))
    np.testing.assert_array_equal(made["state.h"], mine["state.h"].astype(np.float16))
    assert made["memory.keys"].dtype == np.float16


def test_boxes_that_are_no_numbers_are_no_boxes() -> None:
    mine = random_boxes(0, 3)
    assert not match(mine, np.full_like(mine, np.nan))[1].any()
    assert 0.5 < SAME < 1


# --- In the gate


@pytest.fixture
def side(boxes_bundle: Bundle) -> Iterator[gate.Side]:
    side = gate.onnxruntime_side(boxes_bundle)
    yield side
    side.executor.close()


def changed(side: gate.Side, change: Callable[[Made], None]) -> gate.Side:
    """A side whose encoder gives something else."""

    def encoder(feeds: Any) -> Made:
        made = {name: value.copy() for name, value in side.encoder(feeds).items()}
        change(made)
        return made

    return side._replace(encoder=encoder)


def reorder(made: Made) -> None:
    for name in ("boxes", "memory.features", "memory.keys", "memory.mask"):
        made[name] = made[name][:, [0, 4, 1, 3, 2]]


def drop(made: Made) -> None:
    """Of the first image one box is not found."""
    made["boxes"][0, 2], made["memory.mask"][0, 2] = 0, -1e4
    made["memory.features"][0, 2] = made["memory.keys"][0, 2] = 0
    made["state.h"][0] *= 1.5


@pytest.mark.parametrize(("images", "beams"), [(1, 3), (3, 2), (8, 3)])
def test_the_same_boxes_pass_in_any_order(boxes_bundle: Bundle, side: gate.Side, images: int, beams: int) -> None:
    for candidate in (side, changed(side, reorder)):
        verdict = gate.compare(boxes_bundle, side, candidate, images, beams, gate.LIMITS["float32"])
        assert verdict.problems == []
        assert set(verdict.relative) >= {"boxes", "memory.features", "memory.keys", "memory.mask", "attention"}
        assert max(verdict.relative.values()) < 1e-5
        assert verdict.boxes >= 16
        assert verdict.other_boxes == 0
        assert verdict.notes()["other_boxes"] == 0
        assert f"{verdict.boxes} of {verdict.boxes} boxes" in str(verdict)


def test_a_box_that_is_not_found_passes_where_some_may_differ(boxes_bundle: Bundle, side: gate.Side) -> None:
    candidate = changed(side, drop)
    verdict = gate.compare(boxes_bundle, side, candidate, 8, 3, gate.LIMITS["fp16"])
    assert verdict.problems == []
    assert verdict.other_boxes == 1
    strict = gate.compare(boxes_bundle, side, candidate, 8, 3, gate.LIMITS["float32"])
    with pytest.raises(EngineError, match=r"1 of \d+ boxes are others, expected at most 2%"):
        gate.check(strict, "boxes")


def test_other_boxes_and_wrong_features_of_the_same_boxes_do_not_pass(boxes_bundle: Bundle, side: gate.Side) -> None:
    def elsewhere(made: Made) -> None:
        made["boxes"][:, 1:] = made["boxes"][:, 1:] * 0.5 + 0.01

    def wrong(made: Made) -> None:
        made["memory.features"][:, 1] *= 3

    for change, expected in ((elsewhere, "boxes are others"), (wrong, "memory.features is off by")):
        verdict = gate.compare(boxes_bundle, side, changed(side, change), 8, 3, gate.LIMITS["int8"])
        assert any(expected in problem for problem in verdict.problems), verdict.problems


def test_engines_of_a_bundle_with_boxes_are_built_and_compared(
    boxes_bundle: Bundle, device: Any, toolchain: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = build_engines(boxes_bundle, "float32", 2, 3, device, toolchain=toolchain)
    assert built.verdict is not None
    assert built.verdict.same_captions == 8
    assert built.verdict.other_boxes == 0
