"""Readers of captioned images: Flickr8k's layout, Karpathy's JSON, COCO's captions JSON.

A reader never drops anything in silence. Broken lines, images without a file and empty captions are collected with the
place they stand at; ``read_dataset`` refuses the data with their number and the first few, or skips and reports them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from camscribe.runtime.errors import DataError, OptionError, SourceError
from camscribe.runtime.images import read
from camscribe.runtime.progress import ProgressBar
from camscribe.train.layouts import LAYOUTS, Reading

FORMATS = tuple(LAYOUTS)
_SHOWN = 5
_SPLIT = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<start>\d*):(?P<stop>\d*)\])?\Z")


@dataclass(frozen=True)
class CaptionedImage:
    """One image and what people wrote about it."""

    path: Path
    captions: tuple[str, ...]
    """As written; ``camscribe.train.text.words`` cuts them."""
    image_id: str
    """The file's name, or COCO's number."""
    split: str


@dataclass(frozen=True)
class Dataset:
    """The images of one split, ordered by ``image_id``, and what was left out of it."""

    images: tuple[CaptionedImage, ...]
    problems: tuple[str, ...]
    """What was skipped: one line each, with the place it stands at. Empty unless ``skip_bad`` was given."""

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[CaptionedImage]:
        return iter(self.images)

    def __getitem__(self, index: int) -> CaptionedImage:
        return self.images[index]

    @property
    def captions(self) -> int:
        """Number of captions of all images together."""
        return sum(len(image.captions) for image in self.images)

    def report(self) -> str:
        """One line for people: how much was read and what was skipped."""
        line = f"{len(self.images)} images with {self.captions} captions"
        return f"{line}; skipped {summary(self.problems)}" if self.problems else line


def read_dataset(
    format: str,
    root: Path,
    *,
    split: str,
    captions: Path | None = None,
    images: Path | None = None,
    skip_bad: bool = False,
    with_images: bool = True,
) -> Dataset:
    """Reads one split of a dataset.

    Args:
        format: ``flickr8k`` (``captions.<split>.tsv``, or ``Flickr8k.token.txt`` with
            ``Flickr_8k.<split>Images.txt``), ``karpathy`` (``dataset_*.json``; its ``restval`` counts as ``train``) or
            ``coco`` (``captions_<split>*.json``).
        root: the dataset's folder.
        split: the split's name, of which a slice takes a part: ``dev[:500]`` is the first 500 images in the order of
            their ids, ``dev[500:]`` the others.
        captions: the file of captions, when it is not found in ``root`` by its usual name.
        images: the folder of images, when it is not found in ``root`` by its usual name.
        skip_bad: leave bad entries out and report them, instead of refusing the data.
        with_images: False reads the captions alone; no image need exist then, nor a folder of them.

    Raises:
        OptionError: the format or the form of ``split`` is unknown.
        DataError: files are missing, nothing is left, or entries are bad and ``skip_bad`` was not given.
    """
    if format not in LAYOUTS:
        raise OptionError(f"format is {format!r}; expected one of {', '.join(FORMATS)}")
    name, part = part_of(split)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected a dataset of format {format}")
    try:
        reading = LAYOUTS[format](root, name, captions, images)
    except DataError:
        if with_images:
            raise
        reading = LAYOUTS[format](root, name, captions, root)
    found = _checked(reading, name, with_images)
    if reading.problems and not skip_bad:
        raise DataError(
            f"{root}, split {name}: {summary(reading.problems)}; correct them, or skip them with --skip-bad"
        )
    chosen = found[part]
    if not chosen:
        skipped = f" (skipped {summary(reading.problems)})" if reading.problems else ""
        raise DataError(f"{root}: split {split} holds no image of {len(found)} in {name}{skipped}")
    return Dataset(tuple(chosen), tuple(reading.problems))


def part_of(split: str) -> tuple[str, slice]:
    """A split's name, and the part of its images that is meant: ``dev[:500]`` are the first 500 of ``dev``.

    Raises:
        OptionError: it has another form.
    """
    found = _SPLIT.match(split)
    if found is None:
        raise OptionError(f"split is {split!r}; expected a name such as 'dev', or a part of it such as 'dev[:500]'")
    start, stop = (int(found[end]) if found[end] else None for end in ("start", "stop"))
    return found["name"], slice(start, stop)


def unreadable(data: Dataset, *, show: bool = True) -> dict[str, str]:
    """What is wrong with each image of a split that cannot be decoded, by ``image_id``. ``show`` draws a progress bar.

    JPEGs are decoded at an eighth of their size where that is possible: it takes little time, and every byte of them.
    """

    def wrong(image: CaptionedImage) -> str | None:
        try:
            read(image.path, at_least=1)
        except SourceError as error:
            return str(error)
        return None

    bad = {}
    with ThreadPoolExecutor(max_workers=4) as pool, ProgressBar("images checked", len(data), show=show) as bar:
        for done, (image, line) in enumerate(zip(data, pool.map(wrong, data), strict=True), start=1):
            if line is not None:
                bad[image.image_id] = line
            bar.update(done)
    return bad


def leave_out(data: Dataset, bad: Mapping[str, str], where: Path, skip_bad: bool) -> Dataset:
    """A split without images of which something that training needs is bad.

    Args:
        data: the split.
        bad: what is bad, by ``image_id``; other images may be among them.
        where: in which file or folder.
        skip_bad: leave these images out and report them, instead of refusing the data.

    Raises:
        DataError: there are some and ``skip_bad`` was not given, or nothing is left.
    """
    found = [bad[image.image_id] for image in data if image.image_id in bad]
    if found and not skip_bad:
        raise DataError(f"{where}: {summary(found)}; correct them, or skip them with --skip-bad")
    left = tuple(image for image in data if image.image_id not in bad)
    if not left:
        raise DataError(f"{where}: has no good entry for any of {len(data)} images ({summary(found)})")
    return Dataset(left, (*data.problems, *found))


def _checked(reading: Reading, split: str, with_images: bool) -> list[CaptionedImage]:
    """The images that have a file (where they need one) and a caption; the others join the problems."""
    found = []
    for image_id in sorted(reading.captions):
        path, captions = reading.files[image_id], tuple(reading.captions[image_id])
        if with_images and not path.is_file():
            reading.problems.append(f"{path}: missing image")
        elif not captions:
            reading.problems.append(f"{path}: image without a caption")
        else:
            found.append(CaptionedImage(path, captions, image_id, split))
    return found


def summary(problems: Sequence[str]) -> str:
    """How many entries are bad, and the first few of them."""
    shown = "; ".join(problems[:_SHOWN])
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return f"{len(problems)} bad {'entry' if len(problems) == 1 else 'entries'}: {shown}{more}"
