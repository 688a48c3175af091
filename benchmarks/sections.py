"""What ``caption_speed`` measures in its own process: overhead over the raw graphs, wide beams, and the tutorial."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from camscribe.benchmarks.measure import Ratio, Seconds, interleave, merge, milliseconds, ratio
from camscribe.benchmarks.raw import RawGraphs
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.executor import Executor, open_executor
from camscribe.runtime.pixels import Pixels, reduce
from camscribe.runtime.search import Floats, SearchOptions, Trace

Images = Mapping[str, Pixels]
"""Decoded photographs of native size, by name."""


@dataclass(frozen=True)
class Section:
    """Ratios, and what helps to understand them."""

    ratios: tuple[Ratio, ...]
    details: dict[str, Any] = field(default_factory=dict)


class Counted:
    """An executor that counts its steps. See ``camscribe.runtime.executor.Executor``."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.steps = 0

    @property
    def poll(self) -> int:
        """See ``Executor``."""
        return self.executor.poll

    def encode(self, images: Pixels, options: SearchOptions, bias: Floats) -> None:
        """See ``Executor``."""
        self.steps = 0
        self.executor.encode(images, options, bias)

    def step(self) -> None:
        """See ``Executor``."""
        self.steps += 1
        self.executor.step()

    def trace(self, *, attention: bool = False) -> Trace:
        """See ``Executor``."""
        return self.executor.trace(attention=attention)

    def boxes(self) -> Floats | None:
        """See ``Executor``."""
        return self.executor.boxes()

    def close(self) -> None:
        """See ``Executor``."""
        self.executor.close()


def banned(bundle: Bundle) -> list[int]:
    """Ids of words that the bundle never says."""
    return [int(index) for index in np.flatnonzero(bias(bundle))]


def bias(bundle: Bundle) -> npt.NDArray[np.float32]:
    """[V] the selection bias that bans them."""
    return bundle.vocabulary.bias(bundle.manifest.search.ban)


def overhead(path: Path | None, precision: str, images: Images, rounds: int) -> Section:
    """``Captioner.caption`` on decoded images beside the raw graphs with the same number of steps.

    Three variants are timed in turn: ``caption``; ``executor``, which is both graphs as they are with nothing around
    them; ``raw``, which is the encoder and the decoder without selection.
    """
    bundle, executor, choice = open_executor(path, "cpu", precision)
    options, weights = bundle.manifest.search, bias(bundle)
    counted = Counted(executor)
    counting, captioner = Captioner(bundle, counted, choice), Captioner(bundle, executor, choice)
    parts: list[Seconds] = []
    stages: list[dict[str, float]] = []
    per_image: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        raw = RawGraphs(bundle, precision, options.beams, Path(folder))
        for name, image in images.items():
            text = counting.caption(image, "rgb").text
            steps = counted.steps
            pixels = reduce(image, bundle.manifest.pixels)
            raw.set_image(pixels)

            def caption(image: Pixels = image) -> None:
                timings = captioner.caption(image, "rgb").timings
                stages.append({key: getattr(timings, key) for key in ("read_ms", "reduce_ms", "words_ms")})

            def bare(pixels: Pixels = pixels, steps: int = steps) -> None:
                executor.encode(pixels[None], options, weights)
                for _ in range(steps):
                    executor.step()

            def both(steps: int = steps) -> None:
                raw.run(steps)

            variants: dict[str, Callable[[], object]] = {
                "caption": caption,
                "executor": bare,
                "raw": both,
                "raw encoder": raw.encode,
            }
            part = interleave(variants, rounds)
            parts.append(part)
            per_image[name] = {
                "size": f"{image.shape[1]}x{image.shape[0]}",
                "steps": steps,
                "caption": text,
                "ratio": ratio("", part, "caption", "raw").median,
                "raw_step_ms": round(_difference(part, "raw", "raw encoder") / steps, 4),
                **{f"{key.replace(' ', '_')}_ms": milliseconds(values) for key, values in part.items()},
            }
    seconds = merge(parts)
    captioner.close()
    parts_ms = {key: statistics.median(item[key] for item in stages) for key in stages[0]}
    details = {
        "images": per_image,
        "overhead_ms": {
            "all": _difference(seconds, "caption", "raw"),
            "selection, and gathering of states, in the graph": _difference(seconds, "executor", "raw"),
            "around the graphs": _difference(seconds, "caption", "executor"),
            "of which reading the array": round(parts_ms["read_ms"], 4),
            "of which reducing pixels": round(parts_ms["reduce_ms"], 4),
            "of which ids to words": round(parts_ms["words_ms"], 4),
        },
        "nodes_cut_off": raw.cut_off,
    }
    name = f"caption / raw graphs, {precision}"
    return Section((ratio(name, seconds, "caption", "raw", "at most", 1.10),), details)


def _difference(seconds: Seconds, more: str, less: str) -> float:
    """Median of the paired differences, in milliseconds."""
    return milliseconds([a - b for a, b in zip(seconds[more], seconds[less], strict=True)])


def beams(path: Path | None, precision: str, image: Pixels, rounds: int, steps: int = 20) -> Section:
    """A decoder step of beam 5 beside one of beam 1, encoder excluded."""
    bundle, executor, _ = open_executor(path, "cpu", precision)
    pixels, weights = reduce(image, bundle.manifest.pixels)[None], bias(bundle)
    each: Seconds = {f"beam {count}": [] for count in (1, 3, 5)}
    for turn in range(rounds + 3):
        for count in (1, 3, 5):
            executor.encode(pixels, SearchOptions(beams=count, max_words=steps), weights)
            start = time.perf_counter()
            for _ in range(steps):
                executor.step()
            if turn >= 3:  # warm by then
                each[f"beam {count}"].append((time.perf_counter() - start) / steps)
    executor.close()
    details = {f"beam_{count}_step_ms": milliseconds(each[f"beam {count}"]) for count in (1, 3, 5)}
    name = f"step of beam 5 / step of beam 1, {precision}"
    return Section((ratio(name, each, "beam 5", "beam 1", "at most", 1.5),), details)


def _caption_and_note(captioner: Captioner, image: Pixels, changes: Any, encode_ms: list[float]) -> None:
    encode_ms.append(captioner.caption(image, "rgb", **changes).timings.encode_ms)


def versus_tutorial(
    checkpoint: Path | None,
    bundle_path: Path | None,
    limits: Mapping[str, float | None],
    images: Images,
    rounds: int,
    options: SearchOptions | None = None,
    more: Images | None = None,
) -> Section:
    """The tutorial's loop in PyTorch beside ``Captioner.caption``: same weights, beams and stop rule.

    Ours is timed from the decoded photograph, the peer from the reduced pixels.

    Args:
        checkpoint: what the bundle was exported from; None for its own weights.
        bundle_path: None for the default bundle.
        limits: by precision, how many times faster ours is asked to be; None asks nothing.
        images: timed, and their tokens compared.
        rounds: of each image.
        options: None for the bundle's own.
        more: images whose tokens are compared, too.
    """
    from camscribe.benchmarks.peers.bundle_weights import weights_for

    captioners = {precision: Captioner.load(bundle_path, "cpu", precision) for precision in limits}
    bundle = captioners["float32"].bundle
    options = options or bundle.manifest.search
    changes = {
        "beams": options.beams,
        "max_words": options.max_words,
        "min_words": options.min_words,
        "length_penalty": options.length_penalty,
        "stop": options.stop,
    }
    weights = weights_for(bundle, checkpoint)
    peer, never = weights.tutorial(), banned(bundle)
    parts, compared, different, steps = [], 0, [], []
    encode_ms: dict[str, list[float]] = {precision: [] for precision in captioners}
    for name, image in {**images, **(more or {})}.items():
        pixels = reduce(image, bundle.manifest.pixels)
        theirs = peer.caption_as(pixels, options, never)
        ours = captioners["float32"].caption(image, "rgb", **changes)  # type: ignore[call-overload]
        compared += 1
        if tuple(bundle.vocabulary.decode(theirs.tokens)) != ours.words or theirs.truncated != ours.truncated:
            different.append(
                {
                    "image": name,
                    "peer": " ".join(bundle.vocabulary.decode(theirs.tokens)),
                    "ours": ours.text,
                    "peer_log_prob": theirs.log_prob,
                    "our_log_prob": ours.log_prob,
                }
            )
        if name not in images:
            continue
        steps.append(theirs.steps)
        variants: dict[str, Callable[[], object]] = {"tutorial": partial(peer.caption_as, pixels, options, never)}
        for precision, captioner in captioners.items():
            variants[precision] = partial(_caption_and_note, captioner, image, changes, encode_ms[precision])
        # PyTorch's threads spin for a while after their work.
        parts.append(interleave(variants, rounds, pause_s=0.01))
    seconds = merge(parts)
    for captioner in captioners.values():
        captioner.close()
    ratios = tuple(
        ratio(f"tutorial's loop / caption, {precision}", seconds, "tutorial", precision, "at least", limit)
        for precision, limit in limits.items()
    )
    details = {
        "backbone": weights.model["backbone"],
        "image": f"{bundle.manifest.pixels.width}x{bundle.manifest.pixels.height}",
        "positions": int(np.prod(bundle.manifest.attention_grid)),
        "words": len(bundle.vocabulary),
        "search": changes,
        "peer_steps": steps,
        # The whole peer beside our encoder alone: no decoder, however fast, makes a caption faster than that.
        "encoder_alone": {
            precision: {
                "encode_ms": round(statistics.median(values), 4),
                "peer_over_encode": round(statistics.median(seconds["tutorial"]) * 1e3 / statistics.median(values), 2),
            }
            for precision, values in encode_ms.items()
        },
        "float32_tokens": {"compared": compared, "identical": compared - len(different), "different": different},
    }
    return Section(ratios, details)
