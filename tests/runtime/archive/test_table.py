"""The table on disk: exact whatever happens to the process, one line when it cannot be written."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from camscribe.runtime.archive import table as module
from camscribe.runtime.archive.table import Table
from camscribe.runtime.errors import OptionError, SinkError

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: camscribe[ray]")

SETTINGS = {"input": "/photos", "beams": 3, "ban": ("<unk>",)}
CONSTANTS = {"bundle": "toy", "bundle_sha256": "0" * 64, "precision": "float32", "camscribe": "1"}
JOURNAL = "_journal.jsonl"


def row(name: str, **columns: Any) -> dict[str, Any]:
    return {"file": name, "caption": f"caption of {name}", "score": -1.5, **columns}


def member(shard: str, index: int, **columns: Any) -> dict[str, Any]:
    return row(f"{shard}/{index}.jpg", shard=shard, member=f"{index}.jpg", index=index, **columns)


def files_in(folder: Path) -> list[str]:
    return sorted(pq.read_table(folder)["file"].to_pylist())


def killed(folder: Path, *units: list[dict[str, Any]]) -> None:
    """A run that adds units and is never closed."""
    table = Table(folder)
    table.begin(SETTINGS, CONSTANTS)
    for unit in units:
        table.add(unit)
    table._journal.close()  # as the kernel does


def test_a_table_is_one_for_its_readers(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    out = tmp_path / "captions.parquet"
    with Table(out) as table:
        table.begin(SETTINGS, CONSTANTS)
        table.add([row("a.jpg", width=4, height=3), row("b.jpg", error="b.jpg: is empty", caption=None)])
        assert (out / JOURNAL).exists()
    assert [item.name for item in out.iterdir()] == ["part-000000.parquet"]
    frame = pandas.read_parquet(out)
    assert frame["file"].tolist() == ["a.jpg", "b.jpg"]
    assert set(frame["precision"]) == {"float32"}
    assert frame["error"].notna().tolist() == [False, True]
    assert table.failed == 1


def test_a_run_continues_where_another_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_ROWS", 4)
    killed(tmp_path, *[[row(f"{index}a"), row(f"{index}b")] for index in range(5)])
    # Two parts, and one unit in the journal; a reader in between sees the parts.
    assert len(files_in(tmp_path)) == 8
    with Table(tmp_path) as table:
        assert table.done == 10
        assert table.files == {f"{index}{letter}" for index in range(5) for letter in "ab"}
        table.begin(SETTINGS, CONSTANTS)
        table.add([row("5a")])
    assert files_in(tmp_path) == sorted([*(f"{index}{letter}" for index in range(5) for letter in "ab"), "5a"])


def test_wherever_a_write_was_cut_off_whole_units_are_left(tmp_path: Path) -> None:
    units = [[row("a"), row("b")], [row("c")], [row("d", caption="dé\n")]]
    killed(tmp_path / "whole", *units)
    content = (tmp_path / "whole" / JOURNAL).read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for length in (0, 1, ends[0] - 1, *ends, ends[0] + 7, ends[1] + 1, ends[2] - 1, ends[3] - 1):
        folder = tmp_path / str(length)
        folder.mkdir(exist_ok=True)
        (folder / JOURNAL).write_bytes(content[:length])
        expected = {item["file"] for unit, end in zip(units, ends[1:], strict=True) if end <= length for item in unit}
        with Table(folder) as table:
            assert table.files == expected
            table.begin(SETTINGS, CONSTANTS)
            table.add([row("z")])
        assert files_in(folder) == sorted([*expected, "z"])


def test_a_kill_between_a_part_and_its_journal_repeats_nothing(tmp_path: Path) -> None:
    killed(tmp_path, [row("a")], [row("b")])
    journal = (tmp_path / JOURNAL).read_bytes()
    with Table(tmp_path) as table:
        table.begin(SETTINGS, CONSTANTS)
    (tmp_path / JOURNAL).write_bytes(journal)  # the part was renamed, the journal not emptied yet
    (tmp_path / ".part-000001.parquet.partial").write_bytes(b"half")
    with Table(tmp_path) as table:
        assert table.files == {"a", "b"}
        table.begin(SETTINGS, CONSTANTS)
        table.add([row("c")])
    assert files_in(tmp_path) == ["a", "b", "c"]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["part-000000.parquet", "part-000001.parquet"]


def test_images_of_shards_are_remembered_as_intervals(tmp_path: Path) -> None:
    killed(
        tmp_path,
        [member("s.tar", index) for index in (4, 5)],
        [member("s.tar", index) for index in (0, 1)],
        [{"file": "s.tar", "shard": "s.tar", "error": "s.tar: is broken"}],
        [member("s.tar", index) for index in (2, 3, 8)],
    )
    with Table(tmp_path) as table:
        assert table.members == {"s.tar": [(0, 6), (8, 9)]}
        assert (table.done, table.failed, table.broken) == (7, 1, {"s.tar"})


def test_what_failed_can_be_tried_again(tmp_path: Path) -> None:
    with Table(tmp_path) as table:
        table.begin(SETTINGS, CONSTANTS)
        table.add([row("a"), row("b", error="b: cannot be read", caption=None)])
    killed(tmp_path, [row("c", error="c: cannot be read"), row("d")])
    with Table(tmp_path) as table:
        assert (table.failed, table.files) == (2, set("abcd"))
    with Table(tmp_path, retry=True) as table:
        assert (table.failed, table.files) == (0, set("ad"))
        table.begin(SETTINGS, CONSTANTS)
        table.add([row("b"), row("c")])
    assert files_in(tmp_path) == ["a", "b", "c", "d"]
    assert pq.read_table(tmp_path)["error"].null_count == 4


def test_other_settings_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    killed(tmp_path, [row("a")])
    for _ in range(2):
        with pytest.raises(OptionError, match=r"was begun with beams 3 \(now 5\); go on"), Table(tmp_path) as table:
            table.begin({**SETTINGS, "beams": 5}, CONSTANTS)
    with Table(tmp_path) as table:
        table.begin(SETTINGS, CONSTANTS)
    with pytest.raises(OptionError, match="was begun with beams 3"), Table(tmp_path) as table:
        table.begin({**SETTINGS, "beams": 5}, CONSTANTS)
    assert files_in(tmp_path) == ["a"]


def test_another_release_continues_with_its_own_name(tmp_path: Path) -> None:
    killed(tmp_path, [row("a")])
    with Table(tmp_path) as table:
        table.begin(SETTINGS, {**CONSTANTS, "camscribe": "2"})
        table.add([row("b")])
    found = pq.read_table(tmp_path).to_pylist()
    assert {item["file"]: item["camscribe"] for item in found} == {"a": "1", "b": "2"}


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    code = (
        f"from camscribe.runtime.archive.table import Table; from pathlib import Path; Table(Path({str(tmp_path)!r}))"
    )
    with Table(tmp_path) as table:
        table.begin(SETTINGS, CONSTANTS)
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "another camscribe archive is writing into it" in other.stderr


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.parquet").touch()
    with pytest.raises(OptionError, match=r"holds thesis.parquet, which camscribe archive did not write"):
        Table(tmp_path)
    with pytest.raises(OptionError, match="is a file; expected a folder"):
        Table(tmp_path / "thesis.parquet")
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.parquet"]


def test_a_run_that_never_begins_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Table(tmp_path / "out"):
        raise RuntimeError
    assert not (tmp_path / "out").exists()


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    with Table(tmp_path) as table:
        table.begin(SETTINGS, CONSTANTS)
        table.add([row("a")])
    part = tmp_path / "part-000000.parquet"
    part.write_bytes(part.read_bytes()[:-5])
    with pytest.raises(OptionError, match=r"part-000000.parquet is damaged .*; remove it"):
        Table(tmp_path)


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Files larger than ``size`` bytes cannot be written, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [600, 1500])
def test_a_full_disk_loses_nothing_that_was_done(tmp_path: Path, size: int) -> None:
    """Whether it fills up in a unit of the journal or in a part."""
    added: list[str] = []

    def fill() -> None:
        with Table(tmp_path) as table:
            table.begin(SETTINGS, CONSTANTS)
            for index in range(1000 if size == 600 else 5):
                table.add([row(f"{index}")])
                added.append(f"{index}")

    with (
        at_most(size),
        pytest.raises(SinkError, match=r"cannot be written \(.*\); what was captioned before is kept: make"),
    ):
        fill()
    assert added
    with Table(tmp_path) as table:
        assert table.files == set(added)
        table.begin(SETTINGS, CONSTANTS)
        table.add([row("more")])
    assert files_in(tmp_path) == sorted([*added, "more"])
