"""The table of captions: a folder of Parquet files that grows part by part, exact after any interruption.

The folder is one table for pandas, pyarrow, Polars and DuckDB. Beside its parts lies, while there is work to do, a
journal: one line for each unit of work, appended when the unit is done. Once it holds enough rows they become the next
part, which is written aside, synced and renamed, and the journal begins anew. A process killed at any moment loses the
units it was at, no others: what the journal has counts as done, and a journal whose part already exists is old.

Only the process that began the run writes here, and it holds a lock: no worker that outlives it can add anything.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from camscribe.runtime.archive.inputs import Interval
from camscribe.runtime.errors import OptionError, SinkError
from camscribe.runtime.files import make_folder

if TYPE_CHECKING:
    import pyarrow

Row = dict[str, Any]
"""A row of the table, by column; those that all rows of a run share are left out."""

PART_ROWS = 50_000
_JOURNAL = "_journal.jsonl"
"""Readers of Parquet folders ignore names that begin with an underscore."""
_KEY = b"camscribe.archive"
"""Where a part keeps the settings it was made with, in its metadata."""


def schema() -> pyarrow.Schema:
    """The columns."""
    import pyarrow as pa

    sentence = pa.struct([("caption", pa.string()), ("score", pa.float64()), ("log_prob", pa.float64())])
    return pa.schema(
        [
            pa.field("file", pa.string(), nullable=False),
            ("shard", pa.string()),
            ("member", pa.string()),
            ("index", pa.int64()),
            ("caption", pa.string()),
            ("score", pa.float64()),
            ("log_prob", pa.float64()),
            ("truncated", pa.bool_()),
            ("nbest", pa.list_(sentence)),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("error", pa.string()),
            ("bundle", pa.string()),
            ("bundle_sha256", pa.string()),
            ("precision", pa.string()),
            ("camscribe", pa.string()),
        ]
    )


class Table:
    """The folder, open for one run. ``begin`` comes before the first ``add``."""

    def __init__(self, folder: Path, *, retry: bool = False) -> None:
        """Opens or makes the folder, and reads what is done.

        Args:
            folder: the table.
            retry: images that failed are taken out and count as not done.

        Raises:
            OptionError: it cannot be written into, is something else, or another process writes into it.
            SinkError: the disk is full.
        """
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise OptionError(f"--out {folder}: is a file; expected a folder of parts, or a name that is free")
        foreign = [item.name for item in folder.iterdir() if not _ours(item.name)] if folder.is_dir() else []
        if foreign:
            raise OptionError(
                f"--out {folder}: holds {foreign[0]}, which camscribe archive did not write; name another"
            )
        make_folder(folder, "--out")
        self.files: set[str] = set()
        """Image files that were done before, captioned or failed."""
        self.members: dict[str, list[Interval]] = {}
        """Images that were done before, by shard."""
        self.broken: set[str] = set()
        """Shards with a row that says what is wrong with them."""
        self.failed = 0
        """Rows with an error, those of this run included."""
        self._rows: list[Row] = []
        self._settings: dict[str, Any] = {}
        self._header: dict[str, Any] = {}
        self._begun = False
        self._retry = retry
        self._journal = self._lock()
        try:
            for path in folder.glob(".part-*.partial"):
                path.unlink()
            for path in self._parts():
                self._read_part(path, retry=retry)
            self._read_journal(retry=retry)
        except BaseException:
            self.close()
            raise
        self.members = {shard: _joined(spans) for shard, spans in self.members.items()}

    @property
    def done(self) -> int:
        """Images that were done before this run."""
        return len(self.files) + sum(stop - start for spans in self.members.values() for start, stop in spans)

    def begin(self, settings: Mapping[str, Any], constants: Mapping[str, Any]) -> None:
        """Starts or continues the table.

        Args:
            settings: what decides the captions. JSON values.
            constants: columns that all rows to come share.

        Raises:
            OptionError: the rows that are there were made with other settings.
            SinkError: the disk is full.
        """
        new: dict[str, Any] = json.loads(json.dumps(settings))
        if self._settings:
            differing = [
                f"{name} {_short(self._settings.get(name))} (now {_short(new.get(name))})"
                for name in {**self._settings, **new}
                if self._settings.get(name) != new.get(name)
            ]
            if differing:
                raise OptionError(
                    f"--out {self.folder}: was begun with {', '.join(differing)}; go on as it was begun, or name "
                    "another"
                )
        self._settings, self._begun = new, True
        header = {"part": self._next_part(), "settings": new, "constants": dict(constants)}
        if self._rows and (header != self._header or self._retry):
            self._write_part()  # what another release captioned, or what is left of the journal without what failed
        if not self._rows:
            self._begin_journal(constants)

    def add(self, rows: list[Row]) -> None:
        """Adds the rows of a unit, all or none.

        Raises:
            SinkError: the disk is full.
        """
        self.failed += sum(row.get("error") is not None for row in rows)
        self._append(rows)
        self._rows += rows
        if len(self._rows) >= PART_ROWS:
            self._write_part()
            self._begin_journal(self._header["constants"])

    def close(self) -> None:
        """Makes the last part of what was added. The folder then holds nothing but parts.

        Raises:
            SinkError: the disk is full.
        """
        if self._journal.closed:
            return
        journal = self.folder / _JOURNAL
        try:
            if self._begun and self._rows:
                self._write_part()
            if self._begun or not journal.stat().st_size:
                journal.unlink()
                with contextlib.suppress(OSError):
                    self.folder.rmdir()  # where nothing came of it
        finally:
            self._journal.close()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, SinkError):
            self._journal.close()  # as it is
        else:
            self.close()

    def _lock(self) -> FileIO:
        """The journal, opened by this process alone."""
        path = self.folder / _JOURNAL
        try:
            while True:
                file = FileIO(path, "a+")
                if not _locked(file):
                    file.close()
                    raise OptionError(f"--out {self.folder}: another camscribe archive is writing into it; wait for it")
                # A run that ended meanwhile has removed the file that was locked.
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                        return file
                file.close()
        except OSError as error:
            raise OptionError(f"--out {self.folder}: cannot be written into ({error.strerror})") from error

    def _read_part(self, path: Path, *, retry: bool) -> None:
        """Takes note of what a part holds; ``retry`` takes the rows with an error out of it."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        failed = False
        try:
            with pq.ParquetFile(path) as file:
                self._settings = json.loads((file.schema_arrow.metadata or {})[_KEY])
                for batch in file.iter_batches(columns=["file", "shard", "index", "error"]):
                    rows = batch.to_pylist()
                    good = [row for row in rows if row["error"] is None] if retry else rows
                    failed = failed or len(good) < len(rows)
                    self._count(good)
            if failed:
                table = pq.read_table(path)
                self._replace(path, table.filter(pc.is_null(table["error"])))
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise OptionError(
                f"--out {self.folder}: {path.name} is damaged or not of camscribe archive; remove it, and what it held "
                "is captioned again"
            ) from error

    def _read_journal(self, *, retry: bool) -> None:
        """Takes the rows that are in no part yet. What was being written when a run was killed is cut off."""
        self._journal.seek(0)
        entries, length = [], 0
        for line in self._journal.readall().splitlines(keepends=True):
            try:
                entries.append(json.loads(line))
            except ValueError:
                break
            if not line.endswith(b"\n"):
                entries.pop()
                break
            length += len(line)
        self._journal.truncate(length)
        if entries and not (self.folder / entries[0]["part"]).exists():
            self._header, *units = entries
            self._settings = self._header["settings"]
            self._rows = [row for rows in units for row in rows if not retry or row.get("error") is None]
            self._count(self._rows)

    def _count(self, rows: list[Row]) -> None:
        """Takes note of rows that were done before."""
        for row in rows:
            self.failed += row.get("error") is not None
            shard, index = row.get("shard"), row.get("index")
            if shard is None:
                self.files.add(row["file"])
            elif index is None:
                self.broken.add(shard)
            else:
                spans = self.members.setdefault(shard, [])
                if spans and index == spans[-1][1]:
                    spans[-1] = (spans[-1][0], index + 1)
                else:
                    spans.append((index, index + 1))

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def _next_part(self) -> str:
        parts = self._parts()
        return f"part-{int(parts[-1].stem.partition('-')[2]) + 1 if parts else 0:06d}.parquet"

    def _begin_journal(self, constants: Mapping[str, Any]) -> None:
        """Begins the journal of the next part. All that is in the old one is in a part."""
        self._header = {"part": self._next_part(), "settings": self._settings, "constants": dict(constants)}
        with self._disk():
            self._journal.truncate(0)
        self._append(self._header)

    def _append(self, entry: object) -> None:
        line = memoryview(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        with self._disk():
            while line:
                line = line[self._journal.write(line) :]

    def _write_part(self) -> None:
        import pyarrow as pa

        columns = schema().with_metadata({_KEY: json.dumps(self._settings)})
        constants = self._header["constants"]
        table = pa.Table.from_pylist([{**row, **constants} for row in self._rows], columns)
        self._replace(self.folder / self._next_part(), table)
        self._rows = []

    def _replace(self, path: Path, table: pyarrow.Table) -> None:
        """Writes a part whole or not at all."""
        import pyarrow.parquet as pq

        partial = path.with_name(f".{path.name}.partial")
        with self._disk():
            try:
                pq.write_table(table, partial, compression="zstd")
                _sync(partial)
                partial.rename(path)
                _sync(self.folder)
            finally:
                with contextlib.suppress(OSError):
                    partial.unlink()

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Failures of the disk as one line."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            remedy = "make room" if full else "mend that"
            raise SinkError(
                f"{self.folder}: cannot be written ({error.strerror or error}); what was captioned before is kept: "
                f"{remedy} and run the same command again"
            ) from error


def _ours(name: str) -> bool:
    return name == _JOURNAL or (name.lstrip(".").startswith("part-") and ".parquet" in name)


def _joined(spans: list[Interval]) -> list[Interval]:
    """Sorted, with neighbours made one: few are left of a shard."""
    joined: list[Interval] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


def _locked(file: FileIO) -> bool:
    """Locks a file for this process, until it ends; False where another one has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
