"""The parity gate: what engines compute is compared with ONNX Runtime's float32 graphs before they are used.

On the bundle's parity images, in tensors (the encoder's outputs, and the decoder's over the steps of a real search) and
in captions. TensorRT has been seen to compute wrong numbers without an error, so no engine is stored without this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import EngineError
from camscribe.runtime.executor import Executor, search
from camscribe.runtime.manifest import BOXES, Manifest
from camscribe.runtime.onnxruntime_executor import OnnxRuntimeExecutor, open_session
from camscribe.runtime.pixels import Pixels
from camscribe.runtime.search import Floats, Hypothesis, SearchOptions, initial_score
from camscribe.runtime.tensorrt.positions import align

Arrays = dict[str, npt.NDArray[Any]]

_PLAUSIBLE = np.float32(-6)
"""Log-probabilities above this are compared one by one: words of at least a quarter of a percent. The rest of the
vocabulary never gets into a caption, and its logarithms are the noisiest."""


class Limits(NamedTuple):
    """The largest differences that pass."""

    relative: float
    """Root mean square of a tensor's difference, divided by that of the tensor."""
    log_prob: float
    """Largest difference of the log-probability of a plausible word."""
    boxes: float
    """Share of the boxes that may be others, where the encoder finds boxes."""
    score: float
    """Captions may differ where float32 scores them (log-probability / length**alpha) closer than this."""


LIMITS = {
    "float32": Limits(1e-3, 0.01, 0.02, 0.05),
    "fp16": Limits(0.03, 0.2, 0.1, 0.05),
    "int8": Limits(0.3, 1.5, 0.3, 0.25),
}
"""By precision. The bundled model's graphs on ONNX Runtime's CPU differ from its float32 ones by 0.0047 and 0.031 in
fp16 (types and weights rounded, most sums in float32), and by 0.12 and 0.57 in int8 as TensorRT gets it (with signed
activations): half-precision sums get six times the room, int8, which is the same sums everywhere, over twice. Its
captions are other ones where a step decides closely: by up to 0.09 of the score over 1,000 images on a CPU
(benchmarks/results/agreement-int8.json), with a captioner before by 0.22. Float32 gets what another order of summation
may take. Boxes come and go at thresholds; how many do was not measured yet, and the captions decide."""


class Runner(Protocol):
    """One graph on one device, for comparisons: copies everything in and out."""

    def __call__(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """All outputs for these inputs."""


class Side(NamedTuple):
    """One of the two that are compared."""

    encoder: Runner
    decoder: Runner
    executor: Executor


@dataclass
class Verdict:
    """What the gate found."""

    images: int
    relative: dict[str, float] = field(default_factory=dict)
    """By tensor, the largest over all batches and steps."""
    log_prob: float = 0.0
    boxes: int = 0
    """That float32 finds, with images that fill up a batch counted again."""
    other_boxes: int = 0
    """Of these: not found, or another one instead."""
    same_captions: int = 0
    gaps: list[float] = field(default_factory=list)
    """Of the captions that differ: how much better float32 scores its own."""
    problems: list[str] = field(default_factory=list)

    def notes(self) -> dict[str, Any]:
        """The figures as JSON."""
        return {
            "images": self.images,
            "relative": {name: round(value, 6) for name, value in self.relative.items()},
            "log_prob": round(self.log_prob, 5),
            **({"boxes": self.boxes, "other_boxes": self.other_boxes} if self.boxes else {}),
            "same_captions": self.same_captions,
            "gaps": [round(gap, 5) for gap in self.gaps],
        }

    def __str__(self) -> str:
        worst = max(self.relative.values(), default=0.0)
        return (
            f"{self.same_captions} of {self.images} captions as in float32, log-probabilities within "
            f"{self.log_prob:.2g}, other tensors within {worst:.2g}"
            + (f", {self.boxes - self.other_boxes} of {self.boxes} boxes" if self.boxes else "")
        )


class SessionRunner:
    """An ONNX Runtime session as a ``Runner``."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._names = [output.name for output in session.get_outputs()]

    def __call__(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        return dict(zip(self._names, self._session.run(self._names, dict(feeds)), strict=True))


def onnxruntime_side(bundle: Bundle, precision: str = "float32") -> Side:
    """The bundle on ONNX Runtime's CPU: the reference.

    Raises:
        EngineError: ONNX Runtime is missing, or does not open the graphs.
    """
    encoder, decoder = (open_session(bundle.graph(precision, graph), "cpu") for graph in ("encoder", "decoder"))
    executor = OnnxRuntimeExecutor(bundle, precision, "cpu")
    return Side(SessionRunner(encoder), SessionRunner(decoder), executor)


def compare(
    bundle: Bundle, reference: Side, candidate: Side, images: int, beams: int, limits: Limits, steps: int | None = None
) -> Verdict:
    """Compares two executions of one bundle on its parity images.

    Args:
        bundle: a loaded bundle.
        reference: takes any sizes.
        candidate: may be frozen for ``images`` and ``beams``; gets no others.
        images, beams: B and K.
        limits: what passes.
        steps: of the decoder; None for the bundle's ``max_words``.

    Returns:
        The verdict; it passed if ``problems`` is empty.
    """
    options = bundle.manifest.search.override(beams=beams, nbest=1)
    bias = bundle.vocabulary.bias(options.ban)
    pixels = np.stack(bundle.parity_images())
    verdict = Verdict(len(pixels))
    for batch in _batches(pixels, images):
        _compare_tensors(bundle.manifest, reference, candidate, batch, beams, bias, steps or options.max_words, verdict)
    for name, value in verdict.relative.items():
        if not value <= limits.relative:  # NaN is no number that passes
            verdict.problems.append(f"{name} is off by {value:.3g} of its size, expected at most {limits.relative:g}")
    if not verdict.log_prob <= limits.log_prob:
        verdict.problems.append(f"log_prob is off by {verdict.log_prob:.3g}, expected at most {limits.log_prob:g}")
    if not verdict.other_boxes <= limits.boxes * verdict.boxes:
        verdict.problems.append(
            f"{verdict.other_boxes} of {verdict.boxes} boxes are others, expected at most {limits.boxes:.0%}"
        )
    if verdict.problems:
        return verdict  # captions of wrong numbers tell nothing more
    wanted, found = (
        [best for batch in _batches(pixels, images) for best in _captions(side.executor, batch, options, bias)]
        for side in (reference, candidate)
    )
    for index, image in enumerate(pixels):
        mine, theirs = found[index], wanted[index]
        if mine.tokens == theirs.tokens:
            verdict.same_captions += 1
            continue
        gap = theirs.score - score_of(bundle.manifest, reference, image, mine, options, bias)
        verdict.gaps.append(gap)
        if not gap < limits.score:
            words = " ".join(bundle.vocabulary.decode(mine.tokens)), " ".join(bundle.vocabulary.decode(theirs.tokens))
            verdict.problems.append(
                f"parity image {index} has caption {words[0]!r:.80}, expected {words[1]!r:.80}, which float32 scores "
                f"{gap:.3g} better"
            )
    return verdict


class Finding(Protocol):
    """What a comparison found, of whichever kind of bundle."""

    problems: list[str]
    """Why the engines do not pass; empty where they do."""

    def notes(self) -> dict[str, Any]:
        """The figures as JSON."""


def check(verdict: Finding, name: str) -> None:
    """Refuses engines that did not pass.

    Raises:
        EngineError: with what is wrong.
    """
    if verdict.problems:
        more = f" (and {len(verdict.problems) - 3} more)" if len(verdict.problems) > 3 else ""
        raise EngineError(
            f"{name}: the engines differ from ONNX Runtime and are not used: {'; '.join(verdict.problems[:3])}{more}: "
            "take another precision, or report this with the versions that camscribe doctor shows"
        )


def score_of(
    manifest: Manifest, reference: Side, image: Pixels, caption: Hypothesis, options: SearchOptions, bias: Floats
) -> float:
    """The score that the reference gives to a caption: ``log_prob / length**alpha``, with its bans."""
    made = reference.encoder({"image": image[None]})
    memory, states = _split(made, beams=1)
    end, start = manifest.special_tokens.end, manifest.special_tokens.start
    wanted = caption.tokens if caption.truncated else (*caption.tokens, end)
    total, token = 0.0, start
    for step, word in enumerate(wanted):
        feeds = _feeds(memory, states, step, options.min_words, bias)
        feeds["token"] = np.array([[token]], np.int32)
        feeds["parent"] = np.zeros((1, 1), np.int32)
        feeds["score"] = np.zeros((1, 1), np.float32)
        outputs = reference.decoder(feeds)
        banned = word == end and step < options.min_words
        total += -1e9 if banned else float(outputs["log_prob"][0, 0, word] + bias[word])
        states = {name: outputs[f"next_{name}"] for name in states}
        token = word
    length = float(len(wanted))
    return float(total / length**options.length_penalty)


def _compare_tensors(
    manifest: Manifest,
    reference: Side,
    candidate: Side,
    batch: Pixels,
    beams: int,
    bias: Floats,
    steps: int,
    verdict: Verdict,
) -> None:
    """Both decoders take the words that the reference chooses, each on its own memory and states.

    Boxes are compared as far as both encoders find them; of those that only one finds the decoders get the reference's.
    """
    encoded = [side.encoder({"image": batch}) for side in (reference, candidate)]
    if manifest.has_boxes and all(made[BOXES].shape == encoded[0][BOXES].shape for made in encoded):
        specs = manifest.precisions["float32"].encoder.outputs
        encoded[1], others = align(specs, manifest.attention_grid[1], encoded[0], encoded[1])
        verdict.boxes += int(encoded[0][BOXES].any(axis=2).sum())
        verdict.other_boxes += others
    _note(verdict, encoded[0], encoded[1], encoded[0])
    split = [_split(made, beams) for made in encoded]
    memories, states = [memory for memory, _ in split], [state for _, state in split]
    shape = (len(batch), beams)
    forced: Arrays = {
        "token": np.full(shape, manifest.special_tokens.start, np.int32),
        "parent": np.tile(np.arange(beams, dtype=np.int32), (len(batch), 1)),
        "score": initial_score(*shape),
    }
    for step in range(steps):
        outputs = []
        for side, memory, state in zip((reference, candidate), memories, states, strict=True):
            outputs.append(side.decoder({**_feeds(memory, state, step, manifest.search.min_words, bias), **forced}))
        states = [{name: made[f"next_{name}"] for name in states[0]} for made in outputs]
        _note(verdict, outputs[0], outputs[1], ["attention", *(f"next_{name}" for name in states[0])])
        plausible = np.fmax(*(made["log_prob"] for made in outputs)) > _PLAUSIBLE  # of which one may be no number
        difference = np.abs(outputs[1]["log_prob"][plausible].astype(np.float64) - outputs[0]["log_prob"][plausible])
        verdict.log_prob = _worse(verdict.log_prob, float(difference.max(initial=0.0)))
        forced = {name: outputs[0][f"next_{name}"] for name in ("token", "parent", "score")}


def _note(verdict: Verdict, mine: Arrays, theirs: Arrays, names: Sequence[str] | Arrays) -> None:
    """Keeps the largest relative difference of each tensor of fractions; integers must be equal."""
    for name in names:
        expected, found = mine[name].astype(np.float64), theirs[name].astype(np.float64)
        if expected.shape != found.shape:
            verdict.relative[name] = float("inf")
            continue
        # Of integers any difference is an infinite one.
        size = float(np.sqrt(np.mean(expected**2))) if mine[name].dtype.kind == "f" else 0.0
        error = float(np.sqrt(np.mean((found - expected) ** 2)))
        value = error / size if size else (float("inf") if error else 0.0)
        verdict.relative[name] = _worse(verdict.relative.get(name, 0.0), value)


def _worse(one: float, other: float) -> float:
    """The larger of two differences, where NaN is the largest."""
    return float(np.maximum(one, other))


def _captions(executor: Executor, batch: Pixels, options: SearchOptions, bias: Floats) -> list[Hypothesis]:
    executor.encode(batch, options, bias)
    return [found[0] for found in search(executor, options)]


def _batches(pixels: Pixels, size: int) -> Iterator[Pixels]:
    """Batches of exactly ``size`` images; the last one is filled up with its last image."""
    for start in range(0, len(pixels), size):
        batch = pixels[start : start + size]
        yield np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])


def _split(made: Arrays, beams: int) -> tuple[Arrays, Arrays]:
    """Memory and states of an encoder's outputs, the states spread over the beams."""
    memory = {name: value for name, value in made.items() if name.startswith("memory.")}
    states = {
        name: np.ascontiguousarray(np.repeat(value[:, None], beams, axis=1))
        for name, value in made.items()
        if name.startswith("state.")
    }
    return memory, states


def _feeds(memory: Arrays, states: Arrays, step: int, min_words: int, bias: Floats) -> Arrays:
    return {
        **memory,
        **states,
        "step": np.array([step], np.int32),
        "min_words": np.array([min_words], np.int32),
        "bias": bias,
    }
