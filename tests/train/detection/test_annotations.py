"""Annotated boxes: what is read, and what is refused with one clear line."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from camscribe.runtime.errors import CamscribeError, DataError
from camscribe.runtime.pixels import PixelSpec
from camscribe.train.detection.annotations import (
    AnnotatedImage,
    Box,
    attribute_names,
    check_splits,
    read_annotations,
)
from camscribe.train.detection.config import DataConfig
from camscribe.train.detection.scenes import Names, Scenes

Content = dict[str, Any]
Write = Callable[[Callable[[Content], Any]], DataConfig]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a small set, changed by a function, and gives the configuration that reads it."""

    def written(change: Callable[[Content], Any]) -> DataConfig:
        (tmp_path / "images").mkdir(exist_ok=True)
        for name in ("a.png", "b.png", "c.png"):
            Image.new("RGB", (60, 40)).save(tmp_path / "images" / name)
        content: Content = {
            "images": [
                {"id": number, "file_name": f"{'abc'[number]}.png", "width": 60, "height": 40} for number in range(3)
            ],
            "annotations": [
                {"image_id": 0, "category_id": 18, "bbox": [10, 5, 20.5, 30], "attributes": ["wet", 7, "wet"]},
                {"image_id": 0, "category_id": 3, "bbox": [-0.5, 0, 61, 40], "attributes": []},
                {"image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 5], "iscrowd": 1},
            ],
            "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
            "attributes": [{"id": 7, "name": "brown"}, {"id": 2, "name": "wet"}],
        }
        change(content)
        (tmp_path / "boxes.json").write_text(json.dumps(content), encoding="utf-8")
        return DataConfig(str(tmp_path), annotations=str(tmp_path / "boxes.json"))

    return written


def test_boxes_and_attributes_are_read(write: Write, tmp_path: Path) -> None:
    found = read_annotations(write(lambda _: None), "all")
    assert found.classes == ("car", "dog")
    assert [image.path.name for image in found.images] == ["a.png", "b.png", "c.png"]
    dog, car = found.images[0].boxes
    assert dog == Box((10, 5, 30.5, 35), "dog", ("wet", "brown"))
    assert car == Box((0, 0, 60, 40), "car", ())
    assert found.images[1].boxes[0].attributes is None
    assert found.images[1].boxes[0].crowd
    assert found.images[2].boxes == ()
    assert found.report() == "3 images with 2 boxes, 2 of them annotated with attributes"
    assert attribute_names(found, 1) == ("brown", "wet")
    assert attribute_names(found, 2) == ()
    part = read_annotations(write(lambda _: None), "all[1:2]")
    assert [image.path for image in part.images] == [tmp_path / "images" / "b.png"]


def test_names_need_no_table_of_attributes(write: Write) -> None:
    def plain(content: Content) -> None:
        del content["attributes"]
        content["annotations"][0]["attributes"] = ["striped"]

    assert attribute_names(read_annotations(write(plain), "all"), 1) == ("striped",)


def box(number: int, **changes: Any) -> Callable[[Content], Any]:
    return lambda content: content["annotations"][number].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (box(0, bbox=[50, 0, 20, 10]), r"annotations\[0\]: box \[50, 0, 20, 10\] reaches out of its image of 60x40"),
        (box(0, bbox=[10, 10, 0, 5]), "is of no size"),
        (box(0, bbox=[10, 10, 5, -5]), "is of no size"),
        (box(0, bbox=[1, 2, 3]), r"bbox is \[1, 2, 3\]; expected \[x, y, width, height\]"),
        (box(0, bbox=[1, 2, 3, float("nan")]), r"bbox is \[1, 2, 3, nan\]"),
        (box(0, bbox=[1, 2, 3, 10**400]), r"bbox is \[1, 2, 3, 10"),
        (box(0, bbox="all"), "bbox is missing or of another type"),
        (box(0, category_id=5), "no category has the id 5"),
        (box(0, image_id=9), "no image has the id 9"),
        (box(0, attributes=["dry"]), "attribute 'dry' is not in the file's table attributes"),
        (box(0, attributes="wet"), "attributes is 'wet'; expected a list"),
        (lambda content: content["images"][0].update(file_name="../a.png"), "file_name is no file within the folder"),
        (lambda content: content["images"][0].update(file_name="no.png"), "no.png: missing image"),
        (lambda content: content["images"][0].pop("width"), r"images\[0\]: width is missing"),
        (lambda content: content["images"][1].update(id=0), "id 0 stands here a second time"),
    ],
)
def test_bad_entries_are_refused_or_skipped_and_named(
    write: Write, change: Callable[[Content], Any], message: str
) -> None:
    config = write(change)
    with pytest.raises(DataError, match=message) as caught:
        read_annotations(config, "all")
    assert "skip_bad" in str(caught.value)
    assert "\n" not in str(caught.value)
    left = read_annotations(replace(config, skip_bad=True), "all")
    assert len(left.images) >= 2
    assert "skipped" in left.report()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("images"), "has no list 'images'; expected COCO's instances JSON"),
        (lambda content: content.pop("annotations"), "has no list 'annotations'"),
        (lambda content: content.pop("categories"), "has no list 'categories'"),
        (lambda content: content.update(attributes={}), "has no list 'attributes'"),
        (lambda content: content.update(images=[], annotations=[]), "split all holds no image of 0"),
        (lambda content: content.update(categories=[]), "categories is empty"),
        (lambda content: content["categories"][0].update(id=3), r"categories\[1\]: id 3 .* stands here a second time"),
        (lambda content: content["categories"][0].pop("name"), r"categories\[0\]: name is missing"),
    ],
)
def test_a_file_of_another_form_is_refused_even_with_skip_bad(
    write: Write, change: Callable[[Content], Any], message: str
) -> None:
    config = write(change)
    with pytest.raises(DataError, match=message) as caught:
        read_annotations(DataConfig(config.root, annotations=config.annotations, skip_bad=True), "all")
    assert "\n" not in str(caught.value)


wild = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def mostly(good: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Objects of which a value in ten is wild."""
    values = {
        key: st.integers(0, 9).flatmap(lambda draw, v=value: st.just(v) if draw else wild)
        for key, value in good.items()
    }
    return st.fixed_dictionaries(values)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=80)
@given(
    image=mostly({"id": 1, "file_name": "a.png", "width": 60, "height": 40}),
    box=mostly({"image_id": 1, "category_id": 3, "bbox": [1, 2, 30, 20], "attributes": [7], "iscrowd": 0}),
    category=mostly({"id": 3, "name": "car"}),
    attribute=mostly({"id": 7, "name": "red"}),
    whole=wild | st.fixed_dictionaries(dict.fromkeys(("images", "annotations", "categories"), wild)),
    skip=st.booleans(),
)
def test_any_file_is_read_or_refused_with_an_error_of_ours(
    tmp_path: Path, image: Any, box: Any, category: Any, attribute: Any, whole: Any, skip: bool
) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    content = {"images": [image], "annotations": [box], "categories": [category], "attributes": [attribute]}
    for each in (content, whole):
        (tmp_path / "wild.json").write_text(json.dumps(each), encoding="utf-8")
        config = DataConfig(str(tmp_path), annotations=str(tmp_path / "wild.json"), skip_bad=skip)
        with contextlib.suppress(CamscribeError):
            found = read_annotations(config, "all")
            scene = Scenes(found.images, Names(found.classes, attribute_names(found, 1)), PixelSpec(32, 32))
            assert torch.isfinite(scene.targets(0, 1, crowds=True)["boxes"]).all()


def test_missing_files_and_folders_are_named(write: Write, tmp_path: Path) -> None:
    config = write(lambda _: None)
    (tmp_path / "torn.json").write_text("{", encoding="utf-8")
    for changed, message in (
        (DataConfig(str(tmp_path / "none")), "none: no such folder"),
        (
            DataConfig(str(tmp_path)),
            r"0 files instances_all\*.json for split all, expected one; name it with annotation",
        ),
        (DataConfig(str(tmp_path), annotations=str(tmp_path / "no.json")), r"no.json: cannot be read .*annotations"),
        (DataConfig(str(tmp_path), annotations=str(tmp_path / "torn.json")), "not a JSON file"),
        (DataConfig(str(tmp_path), annotations=config.annotations, images=str(tmp_path / "x")), "no folder of images"),
    ):
        with pytest.raises(CamscribeError, match=message):
            read_annotations(changed, "all")


def test_splits_that_cannot_be_compared_are_refused(write: Write) -> None:
    config = write(lambda _: None)
    whole = read_annotations(config, "all")
    with pytest.raises(DataError, match="train and tune share 3 images; expected other ones"):
        check_splits(whole, whole)
    first, rest = (read_annotations(config, f"all{part}") for part in ("[:1]", "[1:]"))
    with pytest.raises(DataError, match="tune has no box in 2 images"):
        check_splits(first, rest)
    other = read_annotations(write(lambda content: content["categories"][0].update(name="cat")), "all[:1]")
    with pytest.raises(DataError, match=r"tune has 1 classes that train has not \(cat\)"):
        check_splits(
            type(first)((AnnotatedImage(Path("z.png"), 9, 9, first.images[0].boxes),), first.classes, ()), other
        )


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """60x40 pixels, the left half white."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30] = 255
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


NAMES = Names(("left hand", "right hand", "nose"), ("left", "right", "big"))


def scene(photo: Path, spec: PixelSpec, *boxes: Box, size: tuple[int, int] = (60, 40)) -> Scenes:
    return Scenes([AnnotatedImage(photo, *size, boxes)], NAMES, spec)


def test_boxes_follow_the_pixels_squashed_cropped_and_mirrored(photo: Path) -> None:
    white = Box((0, 0, 30, 40), "nose")
    (image,), (target,) = scene(photo, PixelSpec(64, 64), white).batch([0], [0])
    assert image.shape == (3, 64, 64)
    assert target["boxes"].tolist() == [[0, 0, 32, 64]]
    assert image[0, :, :32].min() > 0.9 > 0.1 > image[0, :, 32:].max()
    (image,), (target,) = scene(photo, PixelSpec(64, 64), white).batch([0], [1])
    assert target["boxes"].tolist() == [[32, 0, 64, 64]]
    assert image[0, :, 32:].min() > 0.9 > 0.1 > image[0, :, :32].max()
    # The centre of 40x40 begins 10 pixels from the left; a box that it cuts off is gone.
    cropped = scene(photo, PixelSpec(64, 64, fit="crop"), white, Box((0, 0, 10, 40), "nose"))
    assert cropped.targets(0)["boxes"].tolist() == [[0, 0, 32, 64]]


def test_attributes_become_shares_and_change_sides_in_a_mirrored_image(photo: Path) -> None:
    boxes = (
        Box((0, 0, 9, 9), "left hand", ("left", "big")),
        Box((0, 0, 9, 9), "nose", ()),
        Box((0, 0, 9, 9), "nose"),
        Box((0, 0, 9, 9), "nose", ("unheard of",)),
        Box((0, 0, 9, 9), "nose", ("unheard of", "big"), crowd=True),
    )
    found = scene(photo, PixelSpec(64, 64), *boxes)
    plain, mirrored = (found.targets(0, variant, crowds=True) for variant in (0, 1))
    assert len(found.targets(0)["boxes"]) == 4
    assert plain["labels"].tolist() == [1, 3, 3, 3, 3]
    assert mirrored["labels"].tolist() == [2, 3, 3, 3, 3]
    assert plain["attributes"].tolist() == [[0.5, 0, 0.5, 0], [0, 0, 0, 1], [0] * 4, [0] * 4, [0, 0, 1, 0]]
    assert mirrored["attributes"][0].tolist() == [0, 0.5, 0.5, 0]
    assert plain["crowd"].tolist() == [False] * 4 + [True]


def test_an_image_without_boxes_and_one_of_another_size(photo: Path) -> None:
    empty = scene(photo, PixelSpec(64, 64)).targets(0)
    assert empty["boxes"].shape == (0, 4)
    assert empty["labels"].dtype == torch.int64
    assert empty["attributes"].shape == (0, 4)
    with pytest.raises(DataError, match=r"photo.png: is 60x40; its annotations are of 40x60"):
        scene(photo, PixelSpec(64, 64), size=(40, 60)).batch([0], [0])


def blocks(repository: Path, language: str) -> list[str]:
    """The code of a language in the guide's section on detectors."""
    text = (repository / "docs" / "training.md").read_text(encoding="utf-8").partition("## 5.")[2]
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_the_guides_example_is_read(repository: Path, tmp_path: Path) -> None:
    (block,) = blocks(repository, "json")
    (tmp_path / "train").mkdir()
    Image.new("RGB", (640, 480)).save(tmp_path / "train" / "7.jpg")
    (tmp_path / "instances_train.json").write_text(block, encoding="utf-8")
    found = read_annotations(DataConfig(str(tmp_path)), "train")
    assert [box.attributes for box in found.images[0].boxes] == [("wet", "brown"), (), None]


def test_visual_genome_is_converted_as_the_guide_says(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "objects_vocab.txt").write_text("Dog,puppy\nman\n", encoding="utf-8")
    (tmp_path / "attributes_vocab.txt").write_text("brown,tan\nwet\n", encoding="utf-8")
    url = "https://example.org/rak248/VG_100K_2/1.jpg"
    images = [{"image_id": 1, "url": url, "width": 80, "height": 60, "coco_id": None}]
    things = [
        {"object_id": 5, "names": ["puppy"], "x": -3, "y": 10, "w": 40, "h": 70, "attributes": ["Tan ", "happy"]},
        {"object_id": 6, "names": ["Man "], "x": 70, "y": 0, "w": 30, "h": 20},
        {"object_id": 7, "names": ["tree"], "x": 0, "y": 0, "w": 9, "h": 9, "attributes": ["wet"]},
        {"object_id": 8, "names": ["man"], "x": 90, "y": 0, "w": 5, "h": 9, "attributes": None},
    ]
    (tmp_path / "image_data.json").write_text(json.dumps(images), encoding="utf-8")
    (tmp_path / "attributes.json").write_text(json.dumps([{"image_id": 1, "attributes": things}]), encoding="utf-8")
    (tmp_path / "VG_100K_2").mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "VG_100K_2" / "1.jpg")
    (block,) = blocks(repository, "python")
    exec(compile(block, "training.md", "exec"), {})
    config = DataConfig(str(tmp_path), annotations=str(tmp_path / "instances_all.json"))
    (image,) = read_annotations(config, "all").images
    assert image.path == tmp_path / "VG_100K_2" / "1.jpg"
    assert image.boxes == (Box((0, 10, 37, 60), "dog", ("brown",)), Box((70, 0, 80, 20), "man", ()))
