"""Quality beside latency: CIDEr and BLEU-4 on a split, and how many captions are those of float32.

The scores are those of ``camscribe evaluate``, run as a command, so that they are the very ones that it prints and this
folder needs nothing of the training side. Where there is no split, the shares alone are counted.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camscribe.benchmarks.schema import Missing, Quality
from camscribe.benchmarks.startup import command_line
from camscribe.benchmarks.variants import Opened
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import OptionError
from camscribe.runtime.pixels import Pixels


@dataclass(frozen=True)
class Split:
    """Photographs with captions that people wrote, as ``camscribe evaluate`` takes them."""

    data: Path
    split: str
    format: str = "flickr8k"
    captions: Path | None = None
    """The file of captions, where it has another name."""

    def __str__(self) -> str:
        return f"{self.data.name} {self.split}"


@dataclass(frozen=True)
class _Scored:
    scores: dict[str, float | None]
    captions: dict[str, str]
    """By image."""


class OnSplit:
    """Captions a split with one variant after the other and scores it.

    Args:
        split: with captions.
        threads: of a CPU.
        tell: told what is being done.
    """

    def __init__(self, split: Split, threads: int | None, tell: Callable[[str], None]) -> None:
        self._split, self._threads, self._tell = split, threads, tell
        self._found: dict[tuple[str, str, str], _Scored | str] = {}

    def of(self, variant: Opened) -> Quality | Missing:
        """The quality of a variant, beside float32 on the CPU, which is captioned once.

        Raises:
            OptionError: the split cannot be scored: it is not there, or has no captions.
        """
        path = variant.bundle.path
        ours = self._scored(path, variant.backend, variant.precision)
        if isinstance(ours, str):
            return Missing(ours)
        theirs = self._scored(path, "cpu", "float32")
        share = Missing(theirs) if isinstance(theirs, str) else same(ours.captions, theirs.captions)
        return Quality(str(self._split), len(ours.captions), _score(ours, "cider"), _score(ours, "bleu4"), share)

    def _scored(self, path: Path, backend: str, precision: str) -> _Scored | str:
        key = (str(path), backend, precision)
        if key not in self._found:
            self._tell(f"captions of {self._split} by {backend} {precision}")
            self._found[key] = _evaluate(path, backend, precision, self._split, self._threads)
        return self._found[key]


def on_images(
    variant: Opened, reference: Captioner | str, images: Mapping[str, Pixels], why: str
) -> tuple[Quality | Missing, dict[str, str]]:
    """Where there is no split: the share of the timed photographs' captions that are those of float32.

    Args:
        variant: makes the captions.
        reference: float32 on a CPU; or why there is none.
        images: decoded photographs by name.
        why: there are no scores.

    Returns:
        The quality, and the captions by image.
    """
    ours = {name: variant.captioner.caption(image, "rgb").text for name, image in images.items()}
    if isinstance(reference, str):
        return Missing(reference), ours
    theirs = {name: reference.caption(image, "rgb").text for name, image in images.items()}
    return Quality("the timed photographs", len(images), Missing(why), Missing(why), same(ours, theirs)), ours


def same(ours: Mapping[str, str], theirs: Mapping[str, str]) -> float | Missing:
    """Share of the images of both whose captions are equal."""
    both = ours.keys() & theirs.keys()
    if not both:
        return Missing("no image was captioned by both")
    return sum(ours[image] == theirs[image] for image in both) / len(both)


def _evaluate(path: Path, backend: str, precision: str, split: Split, threads: int | None) -> _Scored | str:
    """Runs ``camscribe evaluate``; a text says why it is not there."""
    with tempfile.TemporaryDirectory() as folder:
        report, captions = Path(folder) / "report.json", Path(folder) / "captions.jsonl"
        command = [*command_line(), "evaluate", str(path), "--backend", backend, "--precision", precision]
        command += ["--data", str(split.data), "--split", split.split, "--format", split.format, "--batch", "1"]
        command += ["--out", str(report), "--captions-out", str(captions)]
        command += ["--threads", str(threads)] if threads else []
        command += ["--captions", str(split.captions)] if split.captions else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            line = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            # Bench has no such option: what is skipped would be another split.
            line = line.removeprefix("camscribe: ").removesuffix(", or skip them with --skip-bad")
            if "not installed" in line or done.returncode not in (1, 2):
                return f"camscribe evaluate: {line:.300}"
            raise OptionError(f"--data {split.data} --split {split.split}: {line:.300}")
        scores: dict[str, float | None] = json.loads(report.read_text(encoding="utf-8"))["scores"]
        rows: list[dict[str, Any]] = [
            json.loads(line) for line in captions.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    return _Scored(scores, {str(row["image_id"]): str(row["caption"]) for row in rows})


def _score(scored: _Scored, name: str) -> float | Missing:
    value = scored.scores.get(name)
    return Missing("camscribe evaluate did not compute it") if value is None else value
