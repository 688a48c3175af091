"""Readers of captioned images: every layout, parts of a split, and everything that can be wrong with a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from camscribe.runtime.errors import CamscribeError, DataError, OptionError
from camscribe.train.readers import read_dataset


def make_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (200, 10, 10)).save(path)


def make_flickr8k(root: Path, lines: list[str], names: tuple[str, ...] = ("b.jpg", "a.jpg")) -> Path:
    for name in names:
        make_image(root / "images" / name)
    (root / "captions.dev.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return root


GOOD = ["b.jpg#0\tA dog .", "b.jpg#1\tTwo  dogs .", "a.jpg#0\tA cat ."]


def test_flickr8k_is_read_in_the_order_of_the_names(tmp_path: Path) -> None:
    data = read_dataset("flickr8k", make_flickr8k(tmp_path, GOOD), split="dev")
    assert [image.image_id for image in data] == ["a.jpg", "b.jpg"]
    assert data[1].captions == ("A dog .", "Two dogs .")
    assert data[0].path == tmp_path / "images" / "a.jpg"
    assert data[0].split == "dev"
    assert data.captions == 3
    assert data.report() == "2 images with 3 captions"


def test_the_original_flickr8k_files_are_read(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        make_image(tmp_path / "Flicker8k_Dataset" / name)
    # The last line names an image that no split holds, as the original file does.
    lines = [*GOOD, "x.jpg.1#0\tNobody has this image ."]
    (tmp_path / "Flickr8k.token.txt").write_text("\r\n".join(lines), encoding="utf-8")
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("b.jpg\n", encoding="utf-8")
    data = read_dataset("flickr8k", tmp_path, split="train")
    assert [(image.image_id, len(image.captions)) for image in data] == [("b.jpg", 2)]


def test_slices_of_a_split_part_it_without_overlap(tmp_path: Path) -> None:
    names = tuple(f"{index}.jpg" for index in range(7))
    root = make_flickr8k(tmp_path, [f"{name}#0\tA dog ." for name in names], names)

    def ids(split: str) -> list[str]:
        return [image.image_id for image in read_dataset("flickr8k", root, split=split)]

    assert ids("dev[:3]") == ["0.jpg", "1.jpg", "2.jpg"]
    assert ids("dev[:3]") + ids("dev[3:]") == ids("dev")
    assert ids("dev[2:4]") == ["2.jpg", "3.jpg"]


@pytest.mark.parametrize("split", ["dev[", "dev[3]", "dev[-3:]", "", "dev[1:2:3]", "../dev"])
def test_a_split_of_another_form_is_refused(tmp_path: Path, split: str) -> None:
    with pytest.raises(OptionError, match=r"dev\[:500\]"):
        read_dataset("flickr8k", make_flickr8k(tmp_path, GOOD), split=split)


def test_an_empty_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dev\[2:\] holds no image of 2"):
        read_dataset("flickr8k", make_flickr8k(tmp_path, GOOD), split="dev[2:]")


def test_an_unknown_format_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="flickr8k, karpathy, coco"):
        read_dataset("flickr9k", tmp_path, split="dev")
    with pytest.raises(DataError, match="no such folder"):
        read_dataset("flickr8k", tmp_path / "missing", split="dev")
    with pytest.raises(DataError, match="--images"):
        read_dataset("flickr8k", tmp_path, split="dev")


BAD = [
    ("no tab here", r"captions\.dev\.tsv:4: broken line 'no tab here'"),
    ("a.jpg\tNo number .", r"captions\.dev\.tsv:4: broken line"),
    ("x" * 300 + ".jpg#0\tA name too long .", r"captions\.dev\.tsv:4: broken line"),
    ("#0\tNo name .", r"captions\.dev\.tsv:4: broken line"),
    ("../secret.jpg#0\tElsewhere .", r"captions\.dev\.tsv:4: broken line"),
    ("a.jpg#1\t", r"captions\.dev\.tsv:4: empty caption of a\.jpg"),
    ("a.jpg#1\t . ", r"captions\.dev\.tsv:4: empty caption of a\.jpg"),
    ("c.jpg#0\tA ghost .", r"c\.jpg: missing image"),
    ("a.jpg#1\tHalf a letter \ufffd", r"captions\.dev\.tsv:4: broken line, not UTF-8"),
]


@pytest.mark.parametrize(("line", "named"), BAD)
def test_a_bad_line_is_refused_with_its_number_and_skipped_only_when_asked(
    tmp_path: Path, line: str, named: str
) -> None:
    root = make_flickr8k(tmp_path, [*GOOD, line])
    with pytest.raises(DataError, match=f"1 bad entry: .*{named}.*--skip-bad") as refusal:
        read_dataset("flickr8k", root, split="dev")
    assert "\n" not in str(refusal.value)
    data = read_dataset("flickr8k", root, split="dev", skip_bad=True)
    assert data.captions == 3
    assert len(data.problems) == 1
    assert re.search(named, data.problems[0])
    assert "skipped 1 bad entry" in data.report()


def test_an_image_that_lost_all_its_captions_is_named(tmp_path: Path) -> None:
    root = make_flickr8k(tmp_path, ["a.jpg#0\tA cat .", "b.jpg#0\t."])
    with pytest.raises(DataError, match=r"2 bad entries: .*:2: empty caption of b\.jpg; .*b\.jpg: image without a cap"):
        read_dataset("flickr8k", root, split="dev")


def test_many_bad_lines_are_all_counted_and_the_first_are_named(tmp_path: Path) -> None:
    root = make_flickr8k(tmp_path, [*GOOD, *["broken"] * 20])
    with pytest.raises(DataError, match=r"20 bad entries: captions\.dev\.tsv:4: .*; and 15 more") as refusal:
        read_dataset("flickr8k", root, split="dev")
    assert str(refusal.value).count("broken line") == 5
    assert len(read_dataset("flickr8k", root, split="dev", skip_bad=True).problems) == 20


def test_bytes_that_are_no_utf8_are_named_by_their_line(tmp_path: Path) -> None:
    root = make_flickr8k(tmp_path, GOOD)
    with (root / "captions.dev.tsv").open("ab") as file:
        file.write(b"a.jpg#1\t\xff\xfe dog\n")
    with pytest.raises(DataError, match=r"captions\.dev\.tsv:4: broken line, not UTF-8"):
        read_dataset("flickr8k", root, split="dev")


def test_a_file_with_nothing_good_is_refused_even_when_bad_lines_are_skipped(tmp_path: Path) -> None:
    root = make_flickr8k(tmp_path, ["broken"])
    with pytest.raises(DataError, match=r"holds no image .*skipped 1 bad entry"):
        read_dataset("flickr8k", root, split="dev", skip_bad=True)


def karpathy_entry(name: str, split: str, *captions: str, **more: Any) -> dict[str, Any]:
    return {"filename": name, "split": split, "sentences": [{"raw": caption} for caption in captions], **more}


def make_karpathy(root: Path, entries: list[Any], folder: str = "images") -> Path:
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("filename"), str) and entry["filename"] != "gone.jpg":
            make_image(root / folder / entry.get("filepath", "") / entry["filename"])
    (root / "dataset_flickr8k.json").write_text(json.dumps({"images": entries}), encoding="utf-8")
    return root


def test_karpathys_restval_belongs_to_train(tmp_path: Path) -> None:
    entries = [
        karpathy_entry("1.jpg", "train", "A dog.", filepath="train2014"),
        karpathy_entry("2.jpg", "restval", "A cat.", "A cat sits.", filepath="val2014"),
        karpathy_entry("3.jpg", "val", "A bird.", filepath="val2014"),
    ]
    root = make_karpathy(tmp_path, entries)
    train = read_dataset("karpathy", root, split="train")
    assert [image.image_id for image in train] == ["1.jpg", "2.jpg"]
    assert train[1].path == root / "images" / "val2014" / "2.jpg"
    assert [image.captions for image in read_dataset("karpathy", root, split="val")] == [("A bird.",)]


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ("text", r"images\[1\]: not an object"),
        ({"filename": "b.jpg", "split": "train"}, r"images\[1\]: sentences is missing"),
        (karpathy_entry("../b.jpg", "train", "A dog."), r"images\[1\]: filename is not a plain"),
        (karpathy_entry("b.jpg", "train", "A dog.", ""), r"images\[1\]\.sentences\[1\]: empty caption"),
        ({"filename": "b.jpg", "split": "train", "sentences": [{"raw": "A."}, 7]}, r"sentences\[1\]: not an object"),
        (karpathy_entry("gone.jpg", "train", "A dog."), r"gone\.jpg: missing image"),
        (karpathy_entry("1.jpg", "train", "A dog."), r"images\[1\]: 1\.jpg stands here a second time"),
    ],
)
def test_a_bad_entry_of_karpathys_json_is_named(tmp_path: Path, entry: Any, named: str) -> None:
    root = make_karpathy(tmp_path, [karpathy_entry("1.jpg", "train", "A dog."), entry])
    with pytest.raises(DataError, match=f"1 bad entry: .*{named}"):
        read_dataset("karpathy", root, split="train")
    assert read_dataset("karpathy", root, split="train", skip_bad=True)[0].image_id == "1.jpg"


def make_coco(root: Path, images: list[Any], annotations: list[Any]) -> Path:
    for image in images:
        if isinstance(image, dict) and image.get("file_name") == "000000000007.jpg":
            make_image(root / "val2017" / image["file_name"])
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": annotations}
    (root / "annotations" / "captions_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    return root


IMAGE = {"id": 7, "file_name": "000000000007.jpg"}
ANNOTATION = {"id": 1, "image_id": 7, "caption": "A dog on\n a mat."}


def test_coco_is_read_with_its_usual_folders(tmp_path: Path) -> None:
    data = read_dataset("coco", make_coco(tmp_path, [IMAGE], [ANNOTATION]), split="val")
    assert data[0].image_id == "7"
    assert data[0].captions == ("A dog on a mat.",)
    assert data[0].path == tmp_path / "val2017" / "000000000007.jpg"


@pytest.mark.parametrize(
    ("images", "annotations", "named"),
    [
        ([{"id": 8}], [], r"images\[1\]: file_name is missing"),
        ([{"id": [], "file_name": "x.jpg"}], [], r"images\[1\]: id is missing or of another type"),
        ([{"id": 7, "file_name": "x.jpg"}], [], r"images\[1\]: the id 7 stands here a second time"),
        ([{"id": "7", "file_name": "x.jpg"}], [], r"images\[1\]: the id 7 stands here a second time"),
        ([], [{"image_id": 9, "caption": "A cat."}], r"annotations\[1\]: no image has the id 9"),
        ([], [{"image_id": 7, "caption": None}], r"annotations\[1\]: caption is missing"),
        ([], [{"image_id": 7, "caption": "\n"}], r"annotations\[1\]: empty caption of 7"),
    ],
)
def test_a_bad_entry_of_cocos_json_is_named(
    tmp_path: Path, images: list[Any], annotations: list[Any], named: str
) -> None:
    root = make_coco(tmp_path, [IMAGE, *images], [ANNOTATION, *annotations])
    with pytest.raises(DataError, match=f"1 bad entry: .*{named}"):
        read_dataset("coco", root, split="val")
    assert len(read_dataset("coco", root, split="val", skip_bad=True)) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"images": 3}', b"[" * 100_000])
@pytest.mark.parametrize("format", ["karpathy", "coco"])
def test_a_broken_json_file_is_refused_with_its_name(tmp_path: Path, content: bytes, format: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.json"):
        read_dataset(format, tmp_path, split="train", captions=path, images=tmp_path, skip_bad=True)


def test_a_choice_between_two_files_is_left_to_the_user(tmp_path: Path) -> None:
    for year in (2014, 2017):
        (tmp_path / f"captions_val{year}.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"2 files .*captions_val2014\.json, captions_val2017\.json.*--captions"):
        read_dataset("coco", tmp_path, split="val")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["images", "annotations", "id", "file_name", "filename", "split", "sentences", "raw"])
            | st.just("image_id"),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=100, deadline=None
)
@given(content=st.fixed_dictionaries({"images": json_values, "annotations": json_values}), skip=st.booleans())
def test_any_json_is_read_or_refused_with_an_error_of_ours(tmp_path: Path, content: Any, skip: bool) -> None:
    path = tmp_path / "wild.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    for format in ("karpathy", "coco"):
        with pytest.raises(CamscribeError):  # none of the images exists
            read_dataset(format, tmp_path, split="train", captions=path, images=tmp_path, skip_bad=skip)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=100, deadline=None
)
@given(content=st.binary(max_size=200))
def test_any_bytes_as_captions_are_refused_with_an_error_of_ours(tmp_path: Path, content: bytes) -> None:
    root = make_flickr8k(tmp_path, [])
    (root / "captions.dev.tsv").write_bytes(content)
    with pytest.raises(CamscribeError):
        read_dataset("flickr8k", root, split="dev", skip_bad=True)


def test_captions_alone_are_read_without_any_image(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"images": [IMAGE], "annotations": [ANNOTATION]}), encoding="utf-8")
    data = read_dataset("coco", tmp_path, split="val", captions=path, with_images=False)
    assert data[0].captions == ("A dog on a mat.",)
    with pytest.raises(DataError, match="missing image"):
        read_dataset("coco", tmp_path, split="val", captions=path, images=tmp_path)
