"""The cost of guided searches: all are timed in turn on the same photographs, and what a bundle cannot is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from camscribe.benchmarks import search_cost
from camscribe.runtime.errors import OptionError

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in ("two_dogs.jpg", "horses.jpg"):
        shutil.copy(EXAMPLES / name, folder)
    return folder


def test_every_search_is_measured_beside_the_plain_one(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "search_cost.json"
    assert search_cost.main(["--images", str(photographs), "--rounds", "1", "--out", str(out)]) == 0
    made = json.loads(out.read_text(encoding="utf-8"))
    costs = {cost["name"]: cost for cost in made["costs"]}
    assert list(costs) == [search.name for search in search_cost.searches(3, ("dog", "grass"))]
    assert made["left_out"] == {}
    assert (costs["plain"]["caption"]["median"], costs["plain"]["word"], costs["plain"]["other_captions"]) == (1, 1, 0)
    assert [costs[name]["beams"] for name in ("plain", "a required word", "two required words")] == [3, 6, 12]
    on_host = {name for name, cost in costs.items() if cost["select_ms"]}
    assert on_host == set(costs) - {"plain", "GNMT's length penalty"}
    for cost in costs.values():
        assert cost["caption"]["pairs"] == 2
        assert cost["caption"]["median"] > 0
        assert cost["select_ms"] < cost["decode_ms"]
    # The mean of a model with itself is that model.
    assert costs["ensemble of two"]["other_captions"] == 0
    assert costs["two required words"]["other_captions"] >= 1
    assert "two required words" in capsys.readouterr().out


def test_what_a_bundle_cannot_is_left_out(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "search_cost.json"
    arguments = ["--images", str(photographs), "--rounds", "1", "--words", "zyzzyva", "dog", "--out", str(out)]
    assert search_cost.main(arguments) == 0
    made = json.loads(out.read_text(encoding="utf-8"))
    assert set(made["left_out"]) == {"a required word", "two required words"}
    assert "left out: contain has 'zyzzyva'" in capsys.readouterr().out
    with pytest.raises(OptionError, match="--rounds is 0"):
        search_cost.main(["--rounds", "0"])
