"""The form of ``report.json``, which ``camscribe bench`` writes; docs/bench.md explains it field by field.

The dataclasses are the schema: every field is required, an unknown one is refused, and a change of them raises
``SCHEMA``. What could not be measured is a ``Missing`` with its reason, never a zero; a zero is a measurement.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from camscribe.runtime import typed_json
from camscribe.runtime.errors import DataError
from camscribe.runtime.files import write_atomically

SCHEMA = 1
"""Version of the report this release writes, and the only one it reads."""


@dataclass(frozen=True)
class Missing:
    """What stands where something was not measured."""

    missing: str
    """The reason, in plain words."""


@dataclass(frozen=True)
class Spread:
    """Statistics of samples, in the unit of the field that holds it."""

    count: int
    min: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    max: float
    variation: float | None
    """Coefficient of variation, standard deviation over mean; None of fewer than two samples or a mean of zero."""


@dataclass(frozen=True)
class Stage:
    """One stage of a caption."""

    time_ms: Spread
    per_caption: float
    """How often it happens in a caption, on average: 1, or the number of steps."""
    where: Literal["host", "device"]
    """Whose clock: the host's, or events on the device's stream."""


@dataclass(frozen=True)
class Quality:
    """How good the captions are."""

    data: str
    """Name of the data set and the split, ``flickr8k dev[:500]``."""
    images: int
    cider: float | Missing
    """1 is 100 %."""
    bleu4: float | Missing
    same_as_float32: float | Missing
    """Share of captions that equal those of float32 on the CPU, word for word."""


@dataclass(frozen=True)
class Memory:
    """The most memory a fresh process held that captioned with this variant alone."""

    host_bytes: int
    device_bytes: int | Missing


@dataclass(frozen=True)
class Build:
    """How long the engines of both graphs take to build, seconds."""

    cold_s: float
    timing_cache_s: float | Missing
    """The same again with TensorRT's timing cache, as after a small change of the model."""


@dataclass(frozen=True)
class Floor:
    """The graphs alone, timed in turn with the captions: without our loop, selection and pixels."""

    time_ms: Spread
    """Encoder and as many steps as the caption took."""
    ratio: float
    """Median of caption / floor, of pairs timed one after the other."""
    without: str
    """What a caption has and this has not."""


@dataclass(frozen=True)
class FixedRate:
    """Frames that come at a fixed rate, of which one waits at most: a newer one takes its place."""

    rate_hz: float
    seconds: float
    frames: int
    dropped: int
    age_ms: Spread | Missing
    """From the arrival of a frame to its caption."""
    captions_per_s: float


@dataclass(frozen=True)
class SweepPoint:
    """One value of what is varied."""

    value: int
    time_ms: Spread
    """Of the whole batch."""
    images_per_s: float
    """By the median."""


@dataclass(frozen=True)
class Variant:
    """One row: a bundle on a backend in a precision."""

    name: str
    """``BUNDLE BACKEND PRECISION``."""
    bundle: str
    backend: str
    precision: str
    notes: tuple[str, ...]
    """What a reader should know of how it runs."""
    size_bytes: int
    """Of the files that it reads, weights included."""
    latency_ms: Spread
    """Single stream: from the decoded photograph (native size, in memory) to the words."""
    samples_ms: tuple[float, ...]
    """What ``latency_ms`` is made of, in the order of time."""
    words: float
    """Mean number of words of the captions."""
    stages: Missing | dict[str, Stage]
    """By name, in the order of a caption."""
    quality: Quality | Missing
    memory: Memory | Missing
    build: Build | Missing
    energy: Missing | dict[str, Any]
    """Joules per caption and their source, see ``energy.py``."""
    floor: Floor | Missing
    roofline: Missing | dict[str, Any]
    """What the bytes and operations of its graphs cost at least on this machine, see ``roofline.py``."""
    fixed_rate: FixedRate | Missing
    batch_sweep: tuple[SweepPoint, ...] | Missing
    beam_sweep: tuple[SweepPoint, ...] | Missing
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class PeerRow:
    """Something else that makes captions with the same weights, timed in turn with the variants."""

    name: str
    description: str
    latency_ms: Spread | Missing
    samples_ms: tuple[float, ...]
    ratios: dict[str, float]
    """By the name of a variant: median of peer / variant, of pairs timed one after the other."""
    same_as_float32: float | Missing
    """Share of the timed images whose caption equals that of float32."""


@dataclass(frozen=True)
class BundleFacts:
    """Which bundle was measured."""

    name: str
    manifest_sha256: str
    """Of its bundle.json without measured quality (``bundle.content_sha256``), which holds the sha256 of every file."""
    search: dict[str, Any]
    """The options of the search."""


@dataclass(frozen=True)
class Protocol:
    """How it was measured."""

    images: tuple[str, ...]
    """The photographs that were captioned, each with its size: ``examples/dog.jpg 640x480``."""
    warm_up: int
    """Captions of each variant before the first that counts."""
    rounds: int
    """Times that each variant captioned each image, as far as ``seconds`` allowed."""
    seconds: float | None
    """Limit of the single stream of all variants together."""
    seed: int
    """Of the order of images and variants within a round."""
    threads: int
    """CPU threads of every variant."""
    beams: int


@dataclass(frozen=True)
class Report:
    """The whole of ``report.json``."""

    schema: int
    kind: Literal["camscribe bench"]
    command: tuple[str, ...]
    partial: bool
    """True where the run was interrupted: what stands here was measured, the rest is missing."""
    environment: dict[str, Any]
    """See ``machine.py``."""
    protocol: Protocol
    bundles: tuple[BundleFacts, ...]
    variants: tuple[Variant, ...]
    left_out: dict[str, str]
    """Variants and peers that were not measured, and why."""
    peers: tuple[PeerRow, ...]
    roofline: Missing | dict[str, Any]
    """What this machine can do at most: measured bandwidth and rates, see ``roofline.py``."""
    scaling: Missing | dict[str, Any]
    training: Missing | dict[str, Any]
    warnings: tuple[str, ...]
    """Of the whole run; those of a variant stand in its row."""


def read(path: Path) -> Report:
    """Reads a report.

    Raises:
        DataError: there is none, or it is of another version or damaged; one line that lists everything wrong.
    """
    return parse(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The text of a report; see ``read``."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text"
        raise DataError(f"{path}: cannot be read ({why}); expected a report.json of camscribe bench") from error


def parse(text: str, where: str = "report.json") -> Report:
    """Reads a report's text; see ``read``."""
    report: Report = parse_as(Report, "camscribe bench", text, where)
    return report


def parse_as(form: type[Any], kind: str, text: str, where: str) -> Any:
    """Reads a report of any kind.

    Args:
        form: its dataclass, which has ``schema`` and ``kind``.
        kind: what its ``kind`` says.
        text: of the report.
        where: its name, for messages.

    Raises:
        DataError: see ``read``.
    """
    value = _object(text, where)
    if value.get("kind") != kind:
        raise DataError(f"{where}: is no report of {kind}; expected the report.json that it writes")
    if value.get("schema") != SCHEMA:
        raise DataError(
            f"{where}: has schema {value.get('schema')!r:.20}; this release reads schema {SCHEMA}: "
            "measure again, or compare with the release that wrote it"
        )
    problems: list[str] = []
    report = typed_json.decode(form, value, "report", problems)
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DataError(f"{where}: {'; '.join(problems[:5])}{more}")
    return report


def kind_of(text: str, where: str) -> str:
    """What kind of report a text says it is; see ``read``."""
    return str(_object(text, where).get("kind"))


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = typed_json.parse(text)
    except ValueError as error:
        raise DataError(f"{where}: is not JSON ({error}); expected a report.json of camscribe bench") from error
    return value if isinstance(value, dict) else {}


def to_json(report: Any) -> dict[str, Any]:
    """The plain dicts, lists and scalars of a report; zeros are kept, what is not finite becomes null."""
    value = _finite(typed_json.encode(report))
    if not isinstance(value, dict):
        raise DataError("a report is an object")
    return value


def write(report: Any, path: Path) -> None:
    """Writes a report of any kind whole or not at all, after reading it back as a reader would.

    Raises:
        SourceError: it cannot be written.
    """
    text = json.dumps(to_json(report), indent=1, ensure_ascii=False, allow_nan=False)
    parse_as(type(report), report.kind, text, "report.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"{text}\n".encode())


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))) else value
