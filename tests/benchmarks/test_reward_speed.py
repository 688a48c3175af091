"""The rate of the reward: both sides give the same scores of the same captions, and what differs is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camscribe.benchmarks import reward_speed
from camscribe.benchmarks.flickr8k import read_captions
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import DataError, EngineError

pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed")

LINES = ["A dog runs over the grass .", "The dog is running", "a brown dog", "dog on grass", "A dog in the sun ."]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Captions of six photographs in Flickr8k's layout."""
    words = ("dog", "boy", "girl", "man", "woman", "child")
    lines = [
        f"{index}.jpg#{row}\t{line.replace('dog', word)}"
        for index, word in enumerate(words)
        for row, line in enumerate(LINES)
    ]
    (tmp_path / "captions.dev.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_a_run_says_what_was_rewarded_and_how_fast(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data / "made" / "reward_speed.json"
    assert reward_speed.main(["--data", str(data), "--rounds", "2", "--batch", "4", "--out", str(out)]) == 0
    made: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert (made["photographs"], made["captions"]) == (6, 30)
    assert made["environment"]["cpu"]
    assert [rate["rewarded"] for rate in made["rates"]] == list(reward_speed.KINDS)
    for rate in made["rates"]:
        assert rate["met"] == (rate["captions_per_s"] >= rate["asked"])
        assert rate["captions_per_s"] == pytest.approx(30e3 / rate["ratio"]["denominator_ms"], rel=0.05)
    assert capsys.readouterr().out.count("captions a second") == 2


def test_what_is_rewarded_is_partly_right(data: Path) -> None:
    vocabulary = Bundle.load(None).vocabulary
    references = list(read_captions(data, "dev", vocabulary).values())
    samples = reward_speed.make_samples(references, vocabulary.end_id)
    _, scores = reward_speed.peer(references, samples, vocabulary.end_id, 1.0)
    assert scores.shape == (6, 5)
    assert (scores[:, :2].mean(axis=1) > scores[:, 2:].mean(axis=1)).all(), "a photograph's own captions score more"


def test_other_scores_are_an_error(data: Path) -> None:
    vocabulary = Bundle.load(None).vocabulary
    references = list(read_captions(data, "dev", vocabulary).values())
    samples = reward_speed.make_samples(references, vocabulary.end_id)
    with reward_speed.Ours(references, samples, vocabulary.end_id, len(vocabulary), 4) as ours:
        with pytest.raises(EngineError, match="CIDEr-D: ours and pycocoevalcap's are 99 apart"):
            reward_speed.measure(ours, lambda weight: (1.0, ours.score(weight)[1] + 99.0), 30, 1)
        assert np.isfinite(ours.score(0.0)[1]).all(), "the process lives on"


def test_missing_and_broken_captions_are_one_line(data: Path) -> None:
    with pytest.raises(DataError, match=r"captions\.test\.tsv: cannot be read"):
        reward_speed.main(["--data", str(data), "--split", "test"])
    (data / "captions.test.tsv").write_text("nothing\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"captions\.test\.tsv:1: is 'nothing'; expected 'name\.jpg#0<TAB>caption'"):
        reward_speed.main(["--data", str(data), "--split", "test"])
