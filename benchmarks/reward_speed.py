"""How many captions a second self-critical training can reward, beside pycocoevalcap's own scorers.

    python -m camscribe.benchmarks.reward_speed --data FLICKR8K --out benchmarks/results/reward_speed.json

The captions are five for each photograph of a split: two of its own with one word changed, and three of the next
photograph's. Ours (train/rewards.py) rewards them in batches as a stage does, in a process of its own with one thread;
the scorers of pycocoevalcap take all photographs at once, one caption of each at a time. Both are timed in turn, and
must give the same scores. Of ours the document frequencies are counted once a run of training, beforehand
(``prepare_s``); the peer counts them in every call, as it has no other way.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from camscribe.benchmarks import scripts
from camscribe.benchmarks.flickr8k import read_captions
from camscribe.benchmarks.measure import Environment, Ratio, Seconds, environment, package_version, ratio
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import DataError, EngineError, OptionError

ASKED = 2000
"""Captions a second."""
SAMPLES = 5
"""Of a photograph."""
KINDS = {"CIDEr-D": 0.0, "CIDEr-D and BLEU-4": 1.0}
"""What is rewarded, and the weight of BLEU-4 then."""
_CHILD = """
import json, sys, time
from camscribe.train.rewards import CaptionReward

given = json.loads(sys.stdin.readline())
began = time.perf_counter()
reward = CaptionReward(given["references"], given["end_id"], given["words"])
print(json.dumps(time.perf_counter() - began), flush=True)
samples, batch = given["samples"], given["batch"]
starts = range(0, len(samples), batch)
for line in sys.stdin:
    reward.bleu4_weight = json.loads(line)
    began = time.perf_counter()
    made = [reward(range(start, min(start + batch, len(samples))), samples[start : start + batch]) for start in starts]
    seconds = time.perf_counter() - began
    print(json.dumps([seconds, [value for part in made for value in part.tolist()]]), flush=True)
"""
Captions = Sequence[Sequence[tuple[int, ...]]]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """One kind of reward."""

    rewarded: str
    captions_per_s: float
    """Ours, from the median."""
    asked: int
    met: bool
    peer_captions_per_s: float
    ratio: Ratio
    """The peer's time / ours."""


@dataclass(frozen=True)
class RewardSpeed:
    """The whole of ``reward_speed.json``."""

    environment: Environment
    pycocoevalcap: str | None
    data: str
    photographs: int
    captions: int
    """Rewarded in a round."""
    batch: int
    """Photographs that ours rewards in a call."""
    prepare_s: float
    """Of ours, once a run: counting the document frequencies."""
    rates: tuple[Rate, ...]


class Ours:
    """The reward of training in a process of its own.

    Args:
        references: of each photograph.
        samples: [photographs][SAMPLES].
        end_id: id of ``</s>``.
        words: size of the vocabulary.
        batch: photographs of a call.

    Raises:
        EngineError: the process failed.
    """

    def __init__(self, references: Captions, samples: Captions, end_id: int, words: int, batch: int) -> None:
        command = [sys.executable, "-c", _CHILD]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        given = {"references": references, "samples": samples, "end_id": end_id, "words": words, "batch": batch}
        self.prepare_s = float(self._ask(given))

    def __enter__(self) -> Ours:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def score(self, bleu4_weight: float) -> tuple[float, Scores]:
        """Seconds and rewards [photographs, SAMPLES]."""
        seconds, rewards = self._ask(bleu4_weight)
        return float(seconds), np.asarray(rewards)

    def _ask(self, what: object) -> Any:
        given, taken = self._process.stdin, self._process.stdout
        if given is None or taken is None:
            raise EngineError("the process that rewards has no pipes")
        try:
            given.write(json.dumps(what) + "\n")
            given.flush()
            return json.loads(taken.readline())
        except (OSError, ValueError) as error:
            raise EngineError(f"the process that rewards has failed: exit status {self._process.wait()}") from error


def peer(references: Captions, samples: Captions, end_id: int, bleu4_weight: float) -> tuple[float, Scores]:
    """Seconds and the same rewards by pycocoevalcap; text is made of the ids beforehand."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    def text(caption: Sequence[int]) -> str:
        return " ".join(map(str, caption))

    targets = [[text((*caption, end_id)) for caption in own] for own in references]
    texts = [[text(caption) for caption in own] for own in samples]
    began = time.perf_counter()
    columns = []
    for column in range(SAMPLES):
        cider = CiderScorer()
        for own, captions in zip(texts, targets, strict=True):
            cider += (own[column], captions)
        scores = np.asarray(cider.compute_score()[1])
        if bleu4_weight:
            bleu = BleuScorer()
            for own, captions in zip(texts, targets, strict=True):
                bleu += (own[column], captions)
            scores = scores + bleu4_weight * np.asarray(bleu.compute_score(option="closest")[1][3])
        columns.append(scores)
    return time.perf_counter() - began, np.stack(columns, axis=1)


def make_samples(references: Captions, end_id: int) -> list[list[tuple[int, ...]]]:
    """Captions to reward, see above."""
    generator = np.random.default_rng(0)
    made = []
    for own, following in zip(references, [*references[1:], *references[:1]], strict=True):
        drawn = []
        for caption in own[:2]:
            changed = list(caption)
            changed[int(generator.integers(len(caption)))] = following[0][0]
            drawn.append((*changed, end_id))
        drawn += [(*caption, end_id) for caption in following[: SAMPLES - 2]]
        made.append(drawn)
    return made


def measure(
    ours: Ours, theirs: Callable[[float], tuple[float, Scores]], captions: int, rounds: int
) -> tuple[Rate, ...]:
    """Times both in turn.

    Raises:
        EngineError: they give other scores.
    """
    rates = []
    for rewarded, weight in KINDS.items():
        seconds: Seconds = {"camscribe": [], "pycocoevalcap": []}
        for turn in range(rounds + 1):
            mine, found = ours.score(weight)
            other, wanted = theirs(weight)
            if not np.allclose(found, wanted, rtol=1e-4, atol=1e-5):
                raise EngineError(f"{rewarded}: ours and pycocoevalcap's are {np.abs(found - wanted).max():.3g} apart")
            if turn:  # the first one warms up
                seconds["camscribe"].append(mine)
                seconds["pycocoevalcap"].append(other)
        rate, peer_rate = (captions / float(np.median(values)) for values in seconds.values())
        found_ratio = ratio(f"pycocoevalcap / camscribe, {rewarded}", seconds, "pycocoevalcap", "camscribe")
        rates.append(Rate(rewarded, round(rate), ASKED, rate >= ASKED, round(peer_rate), found_ratio))
    return tuple(rates)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Flickr8k: captions.SPLIT.tsv")
    parser.add_argument("--split", default="dev", help="whose captions are rewarded (default: dev)")
    parser.add_argument("--batch", type=int, default=32, help="photographs of a step of training (default: 32)")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each (default: 7)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    for name in ("batch", "rounds"):
        if not 1 <= getattr(options, name) <= 10_000:
            raise OptionError(f"--{name} is {getattr(options, name)}; expected 1 to 10000")
    scripts.prepare(options.out)
    where, vocabulary = environment(), Bundle.load(None).vocabulary
    found = read_captions(options.data, options.split, vocabulary)
    references = [captions for captions in found.values() if len(captions) >= SAMPLES - 2 and all(captions)]
    if len(references) < 2:
        raise DataError(f"{options.data}: has {len(references)} photographs with captions; expected 2 or more")
    samples = make_samples(references, vocabulary.end_id)
    total = sum(map(len, samples))
    with Ours(references, samples, vocabulary.end_id, len(vocabulary), options.batch) as ours:
        rates = measure(
            ours, lambda weight: peer(references, samples, vocabulary.end_id, weight), total, options.rounds
        )
        made = RewardSpeed(
            where,
            package_version("pycocoevalcap"),
            f"Flickr8k {options.split}",
            len(references),
            total,
            options.batch,
            round(ours.prepare_s, 4),
            rates,
        )
    if options.out:
        scripts.write(made, options.out)
    for item in rates:
        verdict = "met" if item.met else "MISSED"
        print(
            f"{item.rewarded}: {item.captions_per_s:.0f} captions a second, at least {item.asked} asked: {verdict}; "
            f"{item.ratio.median:.1f} times as many as pycocoevalcap ({item.peer_captions_per_s:.0f})"
        )
    return 0


if __name__ == "__main__":
    scripts.end(main, "reward_speed")
