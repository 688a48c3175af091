"""What viewers cost: a small real run."""

from __future__ import annotations

from pathlib import Path

import pytest

from camscribe.benchmarks.web_viewers import Report, main
from camscribe.runtime import typed_json
from camscribe.runtime.errors import OptionError

pytest.importorskip("aiohttp", reason='aiohttp is not installed: pip install "camscribe[web]"')


def test_readers_get_pictures_and_nobody_gets_none(tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.json"
    assert main(["--viewers", "4", "--rounds", "1", "--seconds", "2", "--threads", "1", "--out", str(out)]) == 0
    problems: list[str] = []
    report = typed_json.decode(Report, typed_json.parse(out.read_text(encoding="utf-8")), "report", problems)
    assert problems == []
    assert [(phase.reading, phase.stalled) for phase in report.phases.values()] == [(0, 0), (2, 0), (2, 2)]
    assert report.phases["nobody"].pictures_encoded_per_s == 0
    for name in ("readers", "readers and stalled"):
        assert report.phases[name].pictures_encoded_per_s > 0
        assert report.phases[name].pictures_read_per_s > 0
    assert all(rate > 0 for phase in report.phases.values() for rate in phase.captions_per_s)
    assert [item.pairs for item in report.ratios] == [1, 1, 1]


def test_what_would_never_end_is_refused() -> None:
    for wrong in (["--viewers", "51"], ["--viewers", "1000"], ["--seconds", "1e9"], ["--rounds", "0"]):
        with pytest.raises(OptionError, match="expected"):
            main(wrong)
