"""Pixels are reduced by area in each axis that shrinks, and nothing but the spec decides how."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camscribe.runtime.errors import BundleError
from camscribe.runtime.images import read
from camscribe.runtime.pixels import PixelSpec, reduce


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 10007 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_spec_survives_the_manifest() -> None:
    spec = PixelSpec(224, 288, fit="crop")
    assert PixelSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    "change",
    [{"height": 0}, {"height": "224"}, {"height": True}, {"width": 5000}, {"fit": "pad"}, {"filter": ["area"]}],
)
def test_spec_without_meaning_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BundleError, match=next(iter(change))):
        PixelSpec.from_dict({**PixelSpec(224, 224).to_dict(), **change})


@pytest.mark.parametrize("entry", [{}, {"height": 1}, None, [], {**PixelSpec(8, 8).to_dict(), "mean": 0.5}])
def test_spec_with_other_fields_is_refused(entry: object) -> None:
    with pytest.raises(BundleError, match="expected the fields"):
        PixelSpec.from_dict(entry)  # type: ignore[arg-type]


def mean_over_areas(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Exact means over the areas that the smaller image's pixels cover, in floating point."""

    def weights(source: int, target: int) -> np.ndarray:
        edges = np.linspace(0, source, target + 1)
        left, right = (
            np.maximum(edges[:-1, None], np.arange(source)),
            np.minimum(edges[1:, None], np.arange(source) + 1),
        )
        overlap = np.maximum(right - left, 0)
        return overlap / overlap.sum(axis=1, keepdims=True)

    rows, columns = weights(image.shape[0], height), weights(image.shape[1], width)
    return np.stack([rows @ image[:, :, channel].astype(float) @ columns.T for channel in range(3)], axis=2)


@pytest.mark.parametrize("factor", [2, 4])
def test_shrinking_by_a_power_of_two_is_the_mean_of_the_blocks(factor: int) -> None:
    image = noise(32 * factor, 16 * factor)
    found = reduce(image, PixelSpec(32, 16)).astype(float)
    assert np.abs(found - mean_over_areas(image, 32, 16)).max() <= 1


@pytest.mark.parametrize("name", ["retriever", "two_dogs", "horses", "astronaut"])
@pytest.mark.parametrize("size", [None, (375, 500), (480, 640), (1080, 1920), (300, 260), (250, 1200)])
def test_photographs_shrink_to_the_means_over_areas(repository: Path, name: str, size: tuple[int, int] | None) -> None:
    image = read(repository / "examples" / f"{name}.jpg")
    if size is not None:
        image = reduce(image, PixelSpec(*size))
    difference = reduce(image, PixelSpec(224, 224)) - mean_over_areas(image, 224, 224)
    assert np.abs(difference).mean() < 1.2
    assert abs(difference.mean()) < 0.5


@pytest.mark.parametrize(
    "size", [(375, 500), (480, 640), (1080, 1920), (250, 1200), (900, 900), (672, 672), (3000, 4000)]
)
def test_noise_is_averaged_away_as_by_means_over_areas(size: tuple[int, int]) -> None:
    image = noise(*size)
    assert reduce(image, PixelSpec(224, 224)).std() < 1.2 * mean_over_areas(image, 224, 224).std() + 1


def test_an_axis_that_shrinks_is_averaged_though_the_other_grows() -> None:
    # One-pixel stripes along the shrinking axis: without an area filter they alias to black and white.
    for columns in (128, 192, 512, 1000):
        image = np.zeros((8, columns, 3), dtype=np.uint8)
        image[:, ::2] = 255
        reduced = reduce(image, PixelSpec(32, 64))
        assert reduced.shape == (32, 64, 3)
        wide = mean_over_areas(image, 8, 64)[0]
        assert np.abs(reduced - wide).mean() <= 25


def test_an_image_of_the_right_size_is_passed_through_unchanged() -> None:
    image = noise(64, 48)
    assert reduce(image, PixelSpec(64, 48)) is image


def test_crop_takes_the_centre() -> None:
    image = noise(40, 100)
    np.testing.assert_array_equal(reduce(image, PixelSpec(40, 40, fit="crop")), image[:, 30:70])
    np.testing.assert_array_equal(
        reduce(image, PixelSpec(20, 10, fit="crop")), reduce(image[:, 40:60].copy(), PixelSpec(20, 10))
    )


def test_squash_keeps_the_whole_picture() -> None:
    image = np.zeros((100, 400, 3), dtype=np.uint8)
    image[:, :200] = (255, 0, 10)
    reduced = reduce(image, PixelSpec(16, 16))
    assert (reduced[:, :8] == (255, 0, 10)).all()
    assert (reduced[:, 8:] == 0).all()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(8, 64),
    st.integers(8, 64),
    st.sampled_from(["squash", "crop"]),
    st.integers(0, 255),
)
def test_any_size_becomes_the_size_of_the_spec_and_a_flat_image_stays_flat(
    height: int, width: int, rows: int, columns: int, fit: str, level: int
) -> None:
    image = np.full((height, width, 3), (level, 255 - level, 7), dtype=np.uint8)
    reduced = reduce(image, PixelSpec(rows, columns, fit=fit))  # type: ignore[arg-type]
    assert reduced.shape == (rows, columns, 3)
    assert reduced.dtype == np.uint8
    assert (reduced == image[0, 0]).all()


@pytest.mark.parametrize("shape", [(1, 70_000), (70_000, 1)])
def test_very_long_images_are_reduced(shape: tuple[int, int]) -> None:
    assert reduce(noise(*shape), PixelSpec(32, 32)).shape == (32, 32, 3)
    assert reduce(noise(*shape), PixelSpec(32, 32, fit="crop")).shape == (32, 32, 3)
