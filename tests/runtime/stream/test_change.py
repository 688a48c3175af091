"""What counts as a changed scene."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camscribe.runtime.images import read
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.stream.change import SceneChange
from camscribe.runtime.stream.frame import Frame

PHOTOGRAPHS = ("dune", "horses", "shepherd", "tourist", "car")


def frame(pixels: Pixels) -> Frame:
    return Frame(np.ascontiguousarray(pixels), "rgb", 0, 0.0, 0)


def changed(before: Pixels, after: Pixels) -> bool:
    scene = SceneChange()
    assert scene.look(frame(before))
    return scene.look(frame(after))


@pytest.fixture(params=PHOTOGRAPHS)
def photo(request: pytest.FixtureRequest, repository: Path) -> Pixels:
    return read(repository / "examples" / f"{request.param}.jpg")


def test_noise_compression_and_a_flicker_of_light_are_no_change(photo: Pixels) -> None:
    generator = np.random.default_rng(0)
    noisy = (photo + generator.normal(0, 15, photo.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "jpeg", quality=30)
    brighter = (photo * 1.03).clip(0, 255).astype(np.uint8)
    shaken = np.roll(photo, 2, axis=1)
    for after in (photo, noisy, np.asarray(Image.open(file)), brighter, shaken):
        assert not changed(photo, after)


def test_a_person_at_the_edge_a_dark_room_and_another_scene_are(photo: Pixels, repository: Path) -> None:
    height, width = photo.shape[:2]
    entered = photo.copy()
    part = entered[height // 3 :, : width // 8]  # a twelfth of the picture
    part[:] = np.where(part.mean() > 128, part.mean() - 80, part.mean() + 80)
    other = read(repository / "examples" / "concert.jpg")
    for after in (entered, photo // 2, other):
        assert changed(photo, after)


def test_slow_changes_add_up() -> None:
    """What is compared with is the last frame that counted, not the last frame."""
    scene = SceneChange()
    looks = [scene.look(frame(np.full((60, 80, 3), level, np.uint8))) for level in range(100, 125)]
    assert [index for index, look in enumerate(looks) if look] == [0, 10, 20]


def test_every_form_of_frame() -> None:
    grey, nv12 = np.full((48, 64), 90, np.uint8), np.full((72, 64), 128, np.uint8)
    nv12[:48] = 90
    for pixels, color in ((grey, None), (nv12, "nv12"), (np.full((1, 1, 3), 7, np.uint8), "bgr")):
        scene = SceneChange()
        one = Frame(pixels, color, 0, 0.0, 0)  # type: ignore[arg-type]
        assert scene.look(one)
        assert not scene.look(one)
