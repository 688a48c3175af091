"""The kept results, whose figures the documents show, are of the bundles that ship."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from camscribe.runtime import cli
from camscribe.runtime.bundle import DEFAULT_BUNDLE, MANIFEST, content_sha256
from camscribe.runtime.errors import BundleError

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
ENHANCER = DEFAULT_BUNDLE.parent / "enhancer"
DATA = "../shared/data/flickr8k"
QUALITY = f"python -m camscribe.benchmarks.quality --data {DATA} --out benchmarks/results"
MADE_BY = {
    "bench-cpu": f"benchmarks/reproduce.sh {DATA} bench tables",
    "caption_speed": f"benchmarks/reproduce.sh {DATA} caption_speed tables",
    "enhance_captions": f"python -m camscribe.benchmarks.enhance_captions --data {DATA} "
    "--out benchmarks/results/enhance_captions.json",
    "enhancer_speed": f"benchmarks/reproduce.sh {DATA} enhancer tables",
    "models": "python -m camscribe.benchmarks.compare_models, with the arguments that models.json has",
    "scaling": f"benchmarks/reproduce.sh {DATA} scaling tables",
    "search_cost": f"benchmarks/reproduce.sh {DATA} searches tables",
    **{f"quality-{name}-{part}": QUALITY for name in ("float32", "int8", "fp16") for part in ("tune", "test", "all")},
}
"""The command that makes a result anew."""


def load(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def named(value: Any, key: str = "") -> Iterator[str]:
    """The sha256 of every bundle that a result says it is of."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from named(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from named(item)
    elif key == "sha256" or key.endswith("_sha256"):
        yield value


def stale(found: str, folder: Path) -> bool:
    """Whether a hash is of another bundle than that in a folder.

    Results of before ``content_sha256`` have the manifest's own: as it is, or, which gives the same as
    ``content_sha256``, as it was before what they measured was written into it.
    """
    return found not in (content_sha256(folder), hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest())


@pytest.mark.parametrize("name", MADE_BY)
def test_a_kept_result_is_of_the_bundle_that_ships(name: str) -> None:
    hashes = list(named(load(name)))
    assert hashes, f"{name}.json does not say which bundle it is of; make it anew: {MADE_BY[name]}"
    folder = ENHANCER if name == "enhancer_speed" else DEFAULT_BUNDLE
    assert not any(stale(found, folder) for found in hashes), (
        f"benchmarks/results/{name}.json is of another bundle than runtime/bundles/{folder.name}, whose figures the "
        f"documents claim; make it anew, on a machine that does nothing else: {MADE_BY[name]}"
    )


def test_every_result_that_names_a_bundle_is_looked_at() -> None:
    assert {path.stem for path in RESULTS.glob("*.json") if list(named(load(path.stem)))} <= MADE_BY.keys()


def test_quality_makes_no_other_bundle_and_another_graph_does(tmp_path: Path) -> None:
    folder = shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle")
    before, manifest = content_sha256(folder), (folder / MANIFEST).read_bytes()
    assert before == content_sha256(DEFAULT_BUNDLE)
    report = load("quality-int8-test")
    report["scores"]["cider"] = 0.5
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    update = ["--update", str(folder), "--quality", f"int8={tmp_path / 'report.json'}"]
    assert cli.main(["export", *update]) == 0
    assert (folder / MANIFEST).read_bytes() != manifest
    assert content_sha256(folder) == before
    changed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    changed["files"]["decoder.int8.onnx"]["sha256"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(changed), encoding="utf-8")
    assert content_sha256(folder) != before
    assert stale(before, folder)


def test_a_folder_without_a_manifest_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle\.json: cannot be read .*; expected a bundle's manifest"):
        content_sha256(tmp_path)
    (tmp_path / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match=r"bundle\.json: is not JSON"):
        content_sha256(tmp_path)
