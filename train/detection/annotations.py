"""Annotated boxes in the form of COCO's instances JSON, with attributes as one more key of an annotation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from camscribe.runtime.errors import DataError
from camscribe.train.detection.config import DataConfig
from camscribe.train.layouts import first_missing, image_folder, is_name, list_in, only_file, read_json
from camscribe.train.readers import part_of, summary

_OVER = 1.0
"""So many pixels a box may reach out of its image: tools round, and COCO's own boxes do."""
_FARTHEST = 1e6
"""No corner is as far off; not a number is not less either."""
_EXPECTED = "expected COCO's instances JSON: images, annotations, categories"


@dataclass(frozen=True, slots=True)
class Box:
    """One thing in an image."""

    corners: tuple[float, float, float, float]
    """Left, top, right and bottom, in pixels of the image."""
    name: str
    """Of its class."""
    attributes: tuple[str, ...] | None = None
    """None where nobody said; empty where it has none."""
    crowd: bool = False
    """Many things in one box (COCO's ``iscrowd``): not trained on, and what is found there counts for nothing."""


@dataclass(frozen=True)
class AnnotatedImage:
    """One image and what is in it."""

    path: Path
    width: int
    height: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Annotations:
    """The images of one split, in the order of their ids, and what was left out of it."""

    images: tuple[AnnotatedImage, ...]
    classes: tuple[str, ...]
    """All that the file has, in the order of their ids."""
    problems: tuple[str, ...]
    """What was skipped, one line each. Empty unless ``skip_bad`` was given."""

    @property
    def boxes(self) -> list[Box]:
        """Those of all images that are no crowds."""
        return [box for image in self.images for box in image.boxes if not box.crowd]

    def report(self) -> str:
        """One line for people: how much was read and what was skipped."""
        boxes = self.boxes
        said = sum(box.attributes is not None for box in boxes)
        line = f"{len(self.images)} images with {len(boxes)} boxes, {said} of them annotated with attributes"
        return f"{line}; skipped {summary(self.problems)}" if self.problems else line


def read_annotations(config: DataConfig, split: str) -> Annotations:
    """Reads one split.

    Args:
        config: which folder and files.
        split: its name, of which a slice takes a part: ``val[:500]``.

    Raises:
        OptionError: the split has no such form.
        DataError: a file is missing or of another form, nothing is left, or entries are bad and ``skip_bad`` is off.
    """
    root, (name, part) = Path(config.root), part_of(split)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected a data set with boxes")
    if config.annotations:
        path = Path(config.annotations)
    else:
        home = root / "annotations" if (root / "annotations").is_dir() else root
        path = only_file(home, f"instances_{name}*.json", name, "annotations")
    year = path.stem.removeprefix("instances_")
    given = Path(config.images) if config.images else None
    folder = image_folder(given, root, year, f"images/{year}", name, f"images/{name}", "images", "")
    content = read_json(path, "annotations")
    entries = {key: list_in(content, key, path, _EXPECTED) for key in ("images", "annotations", "categories")}
    classes = _table(entries["categories"], "categories", path)
    named = None
    if "attributes" in content:
        named = _table(list_in(content, "attributes", path, "expected a list of objects"), "attributes", path)
    problems: list[str] = []
    found = _images(entries["images"], path.name, folder, problems)
    boxes: dict[Any, list[Box]] = {image_id: [] for image_id in found}
    for number, entry in enumerate(entries["annotations"]):
        box = _box_or_problem(entry, found, classes, named)
        if isinstance(box, str):
            problems.append(f"{path.name}: annotations[{number}]: {box}")
        else:
            boxes[entry["image_id"]].append(box)
    missing = [image_id for image_id, image in found.items() if not image.path.is_file()]
    problems += [f"{found[image_id].path}: missing image" for image_id in missing]
    if problems and not config.skip_bad:
        raise DataError(f"{path}: {summary(problems)}; correct them, or skip them with skip_bad")
    # An image none of whose boxes is good is no picture of nothing.
    told = {entry["image_id"] for entry in entries["annotations"] if _names(entry, found)}
    left = [key for key in sorted(found, key=str) if key not in missing and (boxes[key] or key not in told)]
    chosen = left[part]
    if not chosen:
        skipped = f" (skipped {summary(problems)})" if problems else ""
        raise DataError(f"{path}: split {split} holds no image of {len(left)}{skipped}")
    images = tuple(replace(found[key], boxes=tuple(boxes[key])) for key in chosen)
    return Annotations(images, tuple(classes.values()), tuple(problems))


def attribute_names(data: Annotations, min_count: int) -> tuple[str, ...]:
    """All attributes that at least so many boxes have, by name."""
    counts = Counter(name for box in data.boxes for name in set(box.attributes or ()))
    return tuple(sorted(name for name, count in counts.items() if count >= min_count))


def check_splits(train: Annotations, tune: Annotations) -> None:
    """Refuses splits that cannot be trained and tuned on.

    Raises:
        DataError: they share images, one has no box, or the second has classes that the first has not.
    """
    shared = {image.path for image in train.images} & {image.path for image in tune.images}
    if shared:
        raise DataError(
            f"data: train and tune share {len(shared)} images; expected other ones, such as parts of one file "
            'named like train = "all[500:]" and tune = "all[:500]"'
        )
    for name, data in (("train", train), ("tune", tune)):
        if not data.boxes:
            raise DataError(f"data: {name} has no box in {len(data.images)} images; expected annotations of some")
    new = sorted({box.name for image in tune.images for box in image.boxes} - set(train.classes))
    if new:
        raise DataError(f"data: tune has {len(new)} classes that train has not ({', '.join(new[:5])}); expected none")


def _table(entries: Sequence[Any], key: str, path: Path) -> dict[Any, str]:
    """Names by id, in the order of the ids.

    Raises:
        DataError: an entry is bad: what the boxes say depends on it.
    """
    named: dict[Any, str] = {}
    for number, entry in enumerate(entries):
        problem = first_missing(entry, {"id": (int, str), "name": str})
        if not problem and (not entry["name"].strip() or entry["name"] in named.values() or entry["id"] in named):
            problem = f"id {entry['id']!r} or name {entry['name']!r} is empty or stands here a second time"
        if problem:
            raise DataError(f"{path}: {key}[{number}]: {problem}")
        named[entry["id"]] = entry["name"]
    if not named:
        raise DataError(f"{path}: {key} is empty; expected at least one")
    numbers = all(isinstance(key, int) for key in named)
    return dict(sorted(named.items(), key=lambda item: item[0] if numbers else str(item[0])))


def _images(entries: Sequence[Any], file: str, folder: Path, problems: list[str]) -> dict[Any, AnnotatedImage]:
    found: dict[Any, AnnotatedImage] = {}
    for number, entry in enumerate(entries):
        problem = first_missing(entry, {"id": (int, str), "file_name": str, "width": int, "height": int})
        if not problem and not all(is_name(part) for part in entry["file_name"].split("/")):
            problem = "file_name is no file within the folder of images"
        elif not problem and (entry["width"] < 1 or entry["height"] < 1):
            problem = f"is of {entry['width']}x{entry['height']} pixels"
        elif not problem and entry["id"] in found:
            problem = f"id {entry['id']} stands here a second time"
        if problem:
            problems.append(f"{file}: images[{number}]: {problem}")
        else:
            found[entry["id"]] = AnnotatedImage(folder / entry["file_name"], entry["width"], entry["height"], ())
    return found


def _names(entry: Any, found: dict[Any, AnnotatedImage]) -> bool:
    """Whether an annotation says of which image it is, be the rest of it good or bad."""
    return not first_missing(entry, {"image_id": (int, str)}) and entry["image_id"] in found


def _box_or_problem(entry: Any, *known: Any) -> Box | str:
    """The box of one annotation, or what is bad about it."""
    try:
        return _box(entry, *known)
    except ValueError as error:
        return str(error)


def _box(
    entry: Any, found: dict[Any, AnnotatedImage], classes: dict[Any, str], attributes: dict[Any, str] | None
) -> Box:
    """The box of one annotation.

    Raises:
        ValueError: it is bad; says how.
    """
    if problem := first_missing(entry, {"image_id": (int, str), "category_id": (int, str), "bbox": list}):
        raise ValueError(problem)
    if entry["image_id"] not in found:
        raise ValueError(f"no image has the id {entry['image_id']}")
    if entry["category_id"] not in classes:
        raise ValueError(f"no category has the id {entry['category_id']}")
    image, corners = found[entry["image_id"]], _corners(entry["bbox"])
    left, top, right, bottom = corners
    if min(left, top) < -_OVER or right > image.width + _OVER or bottom > image.height + _OVER:
        raise ValueError(f"box {entry['bbox']} reaches out of its image of {image.width}x{image.height} pixels")
    inside = max(left, 0.0), max(top, 0.0), min(right, float(image.width)), min(bottom, float(image.height))
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        raise ValueError(f"box {entry['bbox']} is of no size")
    said = None
    if entry.get("attributes") is not None:
        said = _attributes(entry["attributes"], attributes)
    return Box(inside, classes[entry["category_id"]], said, bool(entry.get("iscrowd", 0)))


def _corners(bbox: list[Any]) -> tuple[float, float, float, float]:
    if len(bbox) != 4 or not all(type(value) in (int, float) and abs(value) < _FARTHEST for value in bbox):
        raise ValueError(f"bbox is {bbox!r:.60}; expected [x, y, width, height]")
    left, top, width, height = bbox
    return left, top, left + width, top + height


def _attributes(entry: Any, named: dict[Any, str] | None) -> tuple[str, ...]:
    if not isinstance(entry, list):
        raise ValueError(f"attributes is {entry!r:.60}; expected a list of names or ids")
    found = []
    for each in entry:
        if named is not None and type(each) in (int, str) and (each in named or each in named.values()):
            found.append(named.get(each, each))
        elif named is None and isinstance(each, str) and each.strip():
            found.append(each)
        else:
            table = (
                "is in no table attributes of the file" if named is None else "is not in the file's table attributes"
            )
            raise ValueError(f"attribute {each!r} {table}")
    return tuple(dict.fromkeys(found))
