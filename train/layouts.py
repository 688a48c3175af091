"""How data sets lie on disk: Flickr8k's files, Karpathy's JSON, COCO's captions JSON.

A layout is read into a ``Reading``, which holds what was found and a line for everything that is bad.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from camscribe.runtime.errors import DataError
from camscribe.train.text import words

_CAPTIONS = "--captions (data.captions of a training)"
_FORMAT = "check that --format (data.format of a training) fits this file"


@dataclass
class Reading:
    """What was found so far. ``captions`` has an entry for every image of the split, in the file's order."""

    captions: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add_image(self, image_id: str, path: Path) -> None:
        if image_id not in self.captions:
            self.captions[image_id] = []
            self.files[image_id] = path

    def add_caption(self, image_id: str, caption: str, place: str) -> None:
        caption = " ".join(caption.split())
        if words(caption):
            self.captions[image_id].append(caption)
        else:
            self.problems.append(f"{place}: empty caption of {image_id}")


def _read_flickr8k(root: Path, split: str, captions: Path | None, images: Path | None) -> Reading:
    official = root / "Flickr8k.token.txt"
    listed: set[str] | None = None
    if captions is None:
        captions = root / f"captions.{split}.tsv"
        if not captions.is_file() and official.is_file():
            captions = official
    folder = image_folder(images, root, "images", "Flicker8k_Dataset", "Flickr8k_Dataset", "Images")
    reading = Reading()
    if captions.name == official.name:  # holds all splits: the list of the split's images stands beside it
        names = captions.parent / f"Flickr_8k.{split}Images.txt"
        listed = {line.strip() for _, line in _lines(names, reading) if line.strip()}
        for name in sorted(listed):
            reading.add_image(name, folder / name)
    for number, line in _lines(captions, reading):
        place = f"{captions.name}:{number}"
        name_and_index, tab, caption = line.partition("\t")
        name, _, index = name_and_index.rpartition("#")
        if not (tab and is_name(name) and index.isdecimal()):
            if line.strip():
                reading.problems.append(f"{place}: broken line {line[:40]!r}, expected 'name.jpg#0<TAB>caption'")
        elif listed is None or name in listed:
            reading.add_image(name, folder / name)
            reading.add_caption(name, caption, place)
    return reading


def _read_karpathy(root: Path, split: str, captions: Path | None, images: Path | None) -> Reading:
    captions = captions or only_file(root, "dataset*.json", split)
    folder = image_folder(images, root, "images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images")
    reading = Reading()
    wanted = {split, "restval"} if split == "train" else {split}
    for number, entry in enumerate(list_in(read_json(captions), "images", captions)):
        place = f"{captions.name}: images[{number}]"
        problem = first_missing(entry, {"filename": str, "split": str, "sentences": list})
        if problem or not is_name(entry["filename"]):
            reading.problems.append(f"{place}: {problem or 'filename is not a plain file name'}")
            continue
        if entry["split"] not in wanted:
            continue
        name = entry["filename"]
        subfolder = entry.get("filepath", "")  # train2014 or val2014, only for COCO
        if name in reading.captions:
            reading.problems.append(f"{place}: {name} stands here a second time")
            continue
        nested = isinstance(subfolder, str) and subfolder and is_name(subfolder) and (folder / subfolder).is_dir()
        reading.add_image(name, folder / subfolder / name if nested else folder / name)
        for index, sentence in enumerate(entry["sentences"]):
            if problem := first_missing(sentence, {"raw": str}):
                reading.problems.append(f"{place}.sentences[{index}]: {problem}")
            else:
                reading.add_caption(name, sentence["raw"], f"{place}.sentences[{index}]")
    return reading


def _read_coco(root: Path, split: str, captions: Path | None, images: Path | None) -> Reading:
    if captions is None:
        home = root / "annotations" if (root / "annotations").is_dir() else root
        captions = only_file(home, f"captions_{split}*.json", split)
    year = captions.stem.removeprefix("captions_")
    folder = image_folder(images, root, year, f"images/{year}", split, f"images/{split}", "images")
    content = read_json(captions)
    reading = Reading()
    names: dict[object, str] = {}
    for number, entry in enumerate(list_in(content, "images", captions)):
        place = f"{captions.name}: images[{number}]"
        problem = first_missing(entry, {"id": (int, str), "file_name": str})
        if problem or not is_name(entry["file_name"]):
            reading.problems.append(f"{place}: {problem or 'file_name is not a plain file name'}")
            continue
        if str(entry["id"]) in reading.captions:
            reading.problems.append(f"{place}: the id {entry['id']} stands here a second time")
            continue
        names[entry["id"]] = str(entry["id"])
        reading.add_image(str(entry["id"]), folder / entry["file_name"])
    for number, entry in enumerate(list_in(content, "annotations", captions)):
        place = f"{captions.name}: annotations[{number}]"
        if problem := first_missing(entry, {"image_id": (int, str), "caption": str}):
            reading.problems.append(f"{place}: {problem}")
        elif entry["image_id"] not in names:
            reading.problems.append(f"{place}: no image has the id {entry['image_id']}")
        else:
            reading.add_caption(names[entry["image_id"]], entry["caption"], place)
    return reading


LAYOUTS: dict[str, Callable[[Path, str, Path | None, Path | None], Reading]] = {
    "flickr8k": _read_flickr8k,
    "karpathy": _read_karpathy,
    "coco": _read_coco,
}


def image_folder(given: Path | None, root: Path, *usual: str) -> Path:
    """The folder of images: the given one, else the first of the usual ones that exists."""
    for folder in (given,) if given is not None else tuple(root / name for name in usual):
        if folder.is_dir():
            return folder
    tried = given if given is not None else f"{root}: none of {', '.join(usual)}"
    raise DataError(f"{tried}: no folder of images; name it with --images (data.images of a training)")


def only_file(folder: Path, pattern: str, split: str, option: str = _CAPTIONS) -> Path:
    """The one file of a pattern that a split has; ``option`` is what names it where there is no such."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = f" ({', '.join(path.name for path in found)})" if found else ""
        raise DataError(
            f"{folder}: {len(found)} files {pattern}{names} for split {split}, expected one; name it with {option}"
        )
    return found[0]


def is_name(text: str) -> bool:
    """Whether ``text`` names a file of the folder of images itself, not one elsewhere."""
    plain = not set(text) & set("/\\\0") and text not in ("", ".", "..")
    return plain and len(text.encode("utf-8", "surrogatepass")) <= 255  # the longest that file systems allow


def _bytes(path: Path, option: str = _CAPTIONS) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name the file with {option}") from error


def _lines(path: Path, reading: Reading) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers from 1; a line that is no UTF-8 joins the problems."""
    text = _bytes(path).removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="replace")
    for number, line in enumerate(text.split("\n"), start=1):
        if "\ufffd" in line:
            reading.problems.append(f"{path.name}:{number}: broken line, not UTF-8")
        else:
            yield number, line.rstrip("\r")


def read_json(path: Path, option: str = _CAPTIONS) -> Any:
    """The content of a JSON file; ``option`` is what names it where it cannot be read."""
    try:
        return json.loads(_bytes(path, option))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file ({error}); fetch it again") from error


def list_in(content: Any, key: str, path: Path, expected: str = _FORMAT) -> list[Any]:
    """The list that a JSON object holds under a key."""
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise DataError(f"{path}: has no list {key!r}; {expected}")
    return content[key]


def first_missing(entry: Any, expected: dict[str, Any]) -> str | None:
    """What is wrong with a JSON object that should have these keys of these types, or None."""
    if not isinstance(entry, dict):
        return "not an object"
    for key, kind in expected.items():
        if not isinstance(entry.get(key), kind):
            return f"{key} is missing or of another type"
    return None
