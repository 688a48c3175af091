"""What a worker does with a unit, without Ray: a row for each image, whatever is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from camscribe.runtime.archive import worker
from camscribe.runtime.archive.inputs import Files, Unit, cut_shard
from camscribe.runtime.archive.worker import TRIES, Job, Tries, bundle_sha256, caption_unit, try_captioner
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner

Photo = Callable[[int], bytes]
WriteTar = Callable[[Path, list[tuple[str, bytes]]], Path]


@pytest.fixture
def job(tmp_path: Path, toy_bundle: Bundle) -> Job:
    return Job(tmp_path, toy_bundle.path, bundle_sha256(toy_bundle.path), "cpu", "float32", 1, 2, {"nbest": 2}, ())


@pytest.fixture
def rows(job: Job) -> Iterator[Callable[[Unit], list[dict[str, Any]]]]:
    with job.load() as captioner, ThreadPoolExecutor(2) as readers:
        yield lambda unit: list(caption_unit(captioner, job, unit, readers))


def test_rows_are_the_captioners_captions_in_order(
    tmp_path: Path, rows: Any, photo: Photo, write_tar: WriteTar, toy_bundle: Bundle
) -> None:
    names = tuple(f"{index}.png" for index in range(5))
    for index, name in enumerate(names):
        (tmp_path / name).write_bytes(photo(index))
    (tmp_path / "empty.png").touch()
    write_tar(tmp_path / "s.tar", [(name, photo(index)) for index, name in enumerate(names)])
    units, _ = cut_shard(tmp_path, "s.tar", [(0, 1)], 3)
    found = rows(Files((*names[:2], "empty.png", "gone.png", *names[2:])))
    members = [row for unit in units for row in rows(unit)]
    assert [row["file"] for row in found] == [*names[:2], "empty.png", "gone.png", *names[2:]]
    assert found[2] == {"file": "empty.png", "error": f"{tmp_path}/empty.png: is empty; expected an image"}
    assert found[3]["error"] == f"{tmp_path}/gone.png: cannot be read (No such file or directory)"
    assert [(row["index"], row["member"]) for row in members] == list(enumerate(names))[1:]
    good = [row for row in found if "error" not in row]
    with Captioner.load(toy_bundle.path, "cpu", threads=1) as captioner:
        for index, row in enumerate(good):
            caption = captioner.caption(str(tmp_path / names[index]), nbest=2)
            for each in (row, *([members[index - 1]] if index else [])):
                assert (each["caption"], each["truncated"]) == (caption.text, caption.truncated)
                assert each["score"] == pytest.approx(caption.score, abs=1e-5)
                assert [item["caption"] for item in each["nbest"]] == [item.text for item in caption.hypotheses]
                assert (each["width"], each["height"]) == (24, 16 + index)


def test_a_shard_that_changed_since_has_a_row_for_each_image_all_the_same(
    tmp_path: Path, rows: Any, photo: Photo, write_tar: WriteTar
) -> None:
    path = write_tar(tmp_path / "s.tar", [(f"{index}.png", photo(index)) for index in range(4)])
    (unit,), _ = cut_shard(tmp_path, "s.tar", [], 10)
    write_tar(path, [("0.png", photo(0))])
    found = rows(unit)
    assert [row["index"] for row in found] == [0, 1, 2, 3]
    assert [row.get("error") for row in found] == [None, *[f"{path}: has fewer images than before"] * 3]
    path.write_bytes(path.read_bytes()[:700])
    found = rows(unit)
    assert found[0]["error"].startswith(f"{path}/0.png: cannot be read (unexpected end of data")
    assert [row["index"] for row in found] == [0, 1, 2, 3]


def test_a_member_too_large_for_an_image_is_not_read(
    tmp_path: Path, rows: Any, photo: Photo, write_tar: WriteTar, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "s.tar", [("0.png", photo(0))])
    monkeypatch.setattr(worker, "_LARGEST_BYTES", 100)
    (unit,), _ = cut_shard(tmp_path, "s.tar", [], 10)
    assert "bytes; expected at most 100" in rows(unit)[0]["error"]


def test_a_trial_tells_what_would_fail_for_all(job: Job, toy_bundle: Bundle) -> None:
    good = try_captioner(job)
    assert (good["error"], good["precision"], good["options"].nbest) == (None, "float32", 2)
    assert "which is not a word of this model" in str(try_captioner(replace(job, ban=("zebra",)))["error"])
    assert "is another bundle here" in str(try_captioner(replace(job, bundle_sha256="0" * 64))["error"])


def test_a_unit_is_given_up_after_so_many_tries() -> None:
    tries = Tries()
    assert [tries.begin(7) for _ in range(TRIES + 1)] == [True] * TRIES + [False]
    assert tries.begin(8)
    tries.end(7)
    assert tries.begin(7)
