"""The comparison of models: trained, exported, scored and measured beside the shipped one, and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from camscribe.benchmarks import compare_models
from camscribe.runtime.errors import OptionError

CONFIG = """
[data]
root = "{shapes}"
tune = "dev"
min_count = 1
max_words = 9
[model]
backbone = "mobilenet_v2"
image_height = 64
image_width = 64
memory_width = 48
attention_width = 32
state_width = 64
embedding_width = 32
[[stage]]
name = "cross-entropy"
epochs = 1
[[stage]]
name = "self-critical"
objective = "self_critical"
epochs = 1
"""


def test_a_kind_is_trained_exported_scored_and_measured_and_not_twice(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "small.toml"
    config.write_text(CONFIG.format(shapes=shapes), encoding="utf-8")
    monkeypatch.setattr(compare_models, "CONFIG", config)
    monkeypatch.setattr(compare_models, "SPLITS", {"test": "dev"})
    runs, out = tmp_path / "runs", tmp_path / "models.json"
    arguments = ["--data", str(shapes), "--runs", str(runs), "--kinds", "grid-soft_attention", "--rounds", "1"]
    assert compare_models.main([*arguments, "--out", str(out)]) == 0
    made = json.loads(out.read_text(encoding="utf-8"))
    models = {(model["name"], model["stage"]): model for model in made["models"]}
    kind = "grid-soft_attention"
    assert list(models) == [(kind, "cross-entropy"), (kind, "self-critical"), ("shipped", "")]
    assert models["shipped", ""]["to_shipped"] == 1
    for (_, stage), model in models.items():
        assert model["scores"]["test"]["cider"] >= 0
        assert 0 < model["encode_ms"] < model["caption_ms"]
        assert (model["tune_cider"] is None) == (not stage)
    assert models[kind, "cross-entropy"]["bundle_mb"] < models["shipped", ""]["bundle_mb"]
    first = capsys.readouterr().out
    assert first.count("$ camscribe export") == 2
    kept = {path: path.stat().st_mtime_ns for path in (runs / "bundles").rglob("*")}
    again = ["--bundle", f"other/by hand={runs / 'bundles' / f'{kind}-cross-entropy'}", "--kinds", ""]
    assert compare_models.main([*arguments[:4], *again, "--rounds", "1", "--out", str(out)]) == 0
    names = [(model["name"], model["stage"]) for model in json.loads(out.read_text(encoding="utf-8"))["models"]]
    assert names == [("other", "by hand"), ("shipped", "")]
    assert {path: path.stat().st_mtime_ns for path in (runs / "bundles").rglob("*")} == kept
    # What was scored is not scored again.
    assert capsys.readouterr().out.count("$ camscribe evaluate") == 1


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--kinds has 'grid-rnn'; expected some of grid-soft_attention"):
        compare_models.main(["--data", str(tmp_path), "--runs", str(tmp_path), "--kinds", "grid-rnn"])
