"""Captions an archive with Ray Data: units of images go to worker processes, rows come back and are written here."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from camscribe import __version__
from camscribe.runtime.archive.inputs import Files, Found, Unit, cut_files, find, shown
from camscribe.runtime.archive.progress import Progress
from camscribe.runtime.archive.table import Row, Table
from camscribe.runtime.archive.worker import (
    TRIES,
    Job,
    Result,
    Trial,
    Tries,
    Worker,
    bundle_sha256,
    cut,
    packed,
    try_captioner,
)
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import BATCH, check_batch
from camscribe.runtime.errors import EngineError, OptionError, SourceError
from camscribe.runtime.executor import Backend
from camscribe.runtime.guided.options import GuidedChanges, GuidedOptions, OwnChanges
from camscribe.runtime.threads import physical_cores

UNIT_BATCHES = 16
"""Batches in a unit of work. At a kill each worker loses at most one unit."""
_TASKS = 2000
"""Ray hands units out in so many portions at most: each costs it a millisecond, and the last ones should be small."""
_SHARDS_HERE = 16
"""The headers of so many shards are read sooner than Ray has started to do it."""
_OBJECT_STORE_BYTES = 200_000_000
"""Only names and captions go through it, never pixels."""


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    captioned: int
    """Images of this run, those that failed included."""
    before: int
    """Images that earlier runs had done."""
    failed: int
    """Rows with an error in the whole table."""
    problems: tuple[SourceError, ...]
    """Folders that could not be read; they have no row."""


@dataclass(frozen=True)
class Cluster:
    """Where the work is done."""

    address: str | None = None
    """Of a Ray cluster; None for ``RAY_ADDRESS``, else this machine alone."""
    workers: int | None = None
    """Processes; None for one on each GPU, where there is one, else as many as the CPUs allow."""
    threads: int = 1
    """CPU threads of each."""


def archive(
    source: str,
    out: Path,
    *,
    bundle: Path | None = None,
    backend: Backend = "auto",
    precision: str | None = None,
    search: GuidedChanges | None = None,
    ban: tuple[str, ...] = (),
    batch: int = BATCH,
    retry: bool = False,
    cluster: Cluster = Cluster(),
    progress: Progress | None = None,
) -> Summary:
    """Captions all images of a folder or of tar shards into a table, or what an earlier run left to do.

    Args:
        source: see ``inputs.find``.
        out: the table, a folder of Parquet files; see ``table``.
        bundle, backend, precision: see ``Captioner.load``.
        search, ban: see ``Captioner.options``. With ``nbest`` the table has the n best of each image.
        batch: images captioned together.
        retry: images that failed in earlier runs are tried again.
        cluster: where the work is done.
        progress: told what happens.

    Raises:
        SourceError: ``source`` holds no images, or cannot be read.
        OptionError: an option has no meaning, ``out`` is something else, or was begun with other settings.
        BundleError, EngineError: the captioner cannot be used, or Ray is missing or does not answer.
        SinkError: the disk is full; what was done before is kept.
    """
    check_batch(batch)
    for name, value in (("workers", cluster.workers), ("threads", cluster.threads)):
        if value is not None and not 1 <= value <= 4096:
            raise OptionError(f"{name} is {value}; expected 1 to 4096")
    progress = progress or Progress()
    search = search or {}
    # What is wrong here needs no worker to tell.
    GuidedOptions(**vars(Bundle.load(bundle).manifest.search)).override(ban=None, **search)
    ray = _import_ray()
    found = find(source)
    job = Job(
        Path(os.path.abspath(found.root)),  # noqa: PTH100 - resolve() would not show what was given
        None if bundle is None else bundle.absolute(),
        bundle_sha256(bundle),
        backend,
        precision,
        cluster.threads,
        batch,
        search,
        ban,
    )
    with Table(out, retry=retry) as table, _started(ray, cluster):
        workers, gpus = _workers(ray, cluster, backend)
        trial = _tried(ray, job, gpus)
        for reason in trial["reasons"]:
            progress.note(f"backend {reason}")
        # The same on every worker, whatever each would take by itself.
        job = replace(job, precision=trial["precision"])
        constants = {
            "bundle": Bundle.load(bundle).manifest.name,
            "bundle_sha256": job.bundle_sha256,
            "precision": job.precision,
            "camscribe": __version__,
        }
        # What a guided search has besides is only named where it is used, so that tables without it can go on.
        options = {
            name: value
            for name, value in asdict(trial["options"]).items()
            if name != "poll" and not (name in OwnChanges.__annotations__ and value == getattr(GuidedOptions, name))
        }
        settings = {
            "input": shown(os.path.abspath(source)),  # noqa: PTH100 - as above
            "bundle_sha256": job.bundle_sha256,
            "precision": job.precision,
            "has_nbest": bool(search.get("nbest")),
            **options,
        }
        table.begin(settings, constants)
        before = table.done
        units, broken = _units(ray, found, table, job)
        run = _Run(ray, table, job, workers, gpus, progress)
        progress.begin(before, before + sum(unit.images for unit in units))
        if broken:
            run.add(broken)
        captioned = run.caption(units)
    return Summary(captioned, before, table.failed, tuple(found.problems))


class _Run:
    """The captioning of units, until each has its rows."""

    def __init__(self, ray: ModuleType, table: Table, job: Job, workers: int, gpus: float, progress: Progress) -> None:
        self._ray, self._table, self._job = ray, table, job
        self._workers, self._gpus, self._progress = workers, gpus, progress

    def caption(self, units: list[Unit]) -> int:
        """Captions all; returns how many images."""
        captioned = 0
        died: list[Unit] = []
        for rows, unit in self._pass(units):
            if rows is None:
                died.append(unit)
            else:
                captioned += len(rows)
                self.add(rows)
        if not died:
            return captioned
        _tried(self._ray, self._job, self._gpus)  # else it is not the images' fault
        # Which of the images it is that ends a worker shows when each is tried alone.
        singles = [single for unit in died for single in unit.singles()]
        for rows, single in self._pass(singles):
            captioned += 1
            self.add(_fatal(self._job.root, single) if rows is None else rows)
        return captioned

    def add(self, rows: list[Row]) -> None:
        """Keeps the rows of a unit, and tells of them."""
        self._table.add(rows)
        self._progress.add(rows)

    def _pass(self, units: list[Unit]) -> Iterator[tuple[list[Row] | None, Unit]]:
        """Hands out units; gives each with its rows as they come, or with None where its workers died."""
        if not units:
            return
        ray = self._ray
        tries = ray.remote(Tries).options(num_cpus=0).remote()
        workers = min(self._workers, len(units))
        data = _dataset(ray, list(enumerate(units)), min(len(units), _TASKS)).map_batches(
            Worker,
            fn_constructor_args=(self._job, tries),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=self._job.threads,
            num_gpus=self._gpus or None,
        )
        left = dict(enumerate(units))
        for item in _items(data):
            result: Result = item
            if result["error"] is not None:
                raise result["error"]
            # Ray repeats what a lost node had done; each unit counts once.
            unit = left.pop(result["unit"], None)
            if unit is not None:
                yield None if result["died"] else result["rows"], unit
        if left:
            raise EngineError(f"Ray lost {len(left)} units of work; run the same command again to do them")


def _units(ray: ModuleType, found: Found, table: Table, job: Job) -> tuple[list[Unit], list[Row]]:
    """What is to be done, and a row for each shard with a damage that has none yet."""
    size = UNIT_BATCHES * job.batch
    names = (name for name in found.files if shown(name) not in table.files)
    units: list[Unit] = list(cut_files(names, size))
    broken: list[Row] = []
    if found.shards:
        shards = [(shard, table.members.get(shown(shard), [])) for shard in found.shards]
        cutter = partial(cut, job.root, size)
        if len(shards) <= _SHARDS_HERE:
            cuts: Iterator[Any] = map(pickle.loads, cutter({"item": packed(shards)})["item"])
        else:
            cuts = _items(_dataset(ray, shards, min(len(shards), _TASKS)).map_batches(cutter, batch_size=1))
        for shard, members, problem in sorted(cuts, key=lambda item: str(item[0])):
            units += members
            if problem is not None and shown(shard) not in table.broken:
                broken.append({"file": shown(shard), "shard": shown(shard), "error": shown(problem)})
    return units, broken


def _fatal(root: Path, unit: Unit) -> list[Row]:
    """The row of an image that ends the process that captions it."""
    if isinstance(unit, Files):
        row: Row = {"file": shown(unit.names[0])}
    else:
        row = {"file": shown(unit.shard), "shard": shown(unit.shard), "index": unit.start}
    problem = f"{root / row['file']}: ended the worker process that read it, {TRIES} times"
    return [{**row, "error": shown(problem)}]


def _dataset(ray: ModuleType, items: list[Any], blocks: int) -> Any:
    """A Ray dataset of pickled objects, the results of which come one by one."""
    data = ray.data.from_items([{"item": item} for item in packed(items)], override_num_blocks=blocks)
    data.context.enable_progress_bars = False
    data.context.target_max_block_size = 1  # a result leaves the worker when it is there, not with a hundred megabytes
    return data


def _items(data: Any) -> Iterator[Any]:
    for block in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for item in block["item"]:
            yield pickle.loads(item.as_py())


def _import_ray() -> ModuleType:
    """Ray, if it and pyarrow are there, told to keep quiet.

    Raises:
        ModuleNotFoundError: one of them is missing.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import pyarrow.parquet  # noqa: F401 - to find out now that it is missing
    import ray
    import ray.data

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    module: ModuleType = ray
    return module


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Standard error goes nowhere, Ray's C++ part included, which greets even where it is told to be quiet."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - no path
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _started(ray: ModuleType, cluster: Cluster) -> Iterator[None]:
    """Ray, on a cluster or on this machine alone. One that the program has started is used as it is.

    Raises:
        EngineError: it does not start, or the cluster does not answer.
    """
    if ray.is_initialized():
        yield
        return
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    local = address == "local"
    cores = (cluster.workers or max(1, physical_cores() // cluster.threads)) * cluster.threads
    own = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES} if local else {}
    try:
        _check_answers(address)
        with _quiet_stderr():
            ray.init(address=address, log_to_driver=False, logging_level="CRITICAL", **own)
    except Exception as error:  # Ray raises whatever went wrong: ConnectionError, RuntimeError, ValueError, OSError
        reason = " ".join(str(error).split())[:200]
        what = "Ray does not start on this machine" if local else f"no Ray cluster answers at {address}"
        raise EngineError(f"{what} ({reason})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Connects to HOST:PORT: where nobody answers, Ray tries for minutes.

    Raises:
        OSError, ValueError, OverflowError: nobody answers there, or it is no port.
    """
    host, colon, port = address.rpartition(":")
    if colon and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def _workers(ray: ModuleType, cluster: Cluster, backend: Backend) -> tuple[int, float]:
    """How many worker processes, and which share of a GPU each takes."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if backend != "cpu" else 0
    workers = cluster.workers or gpus or max(1, int(resources.get("CPU", 1)) // cluster.threads)
    # Ray hides the GPUs from a process that asks for none of them.
    return workers, 1 / -(-workers // gpus) if gpus else 0


def _tried(ray: ModuleType, job: Job, gpus: float) -> Trial:
    """Loads the captioner on a worker, as all of them will.

    Raises:
        CamscribeError: it does not work there.
    """
    task = ray.remote(try_captioner).options(num_cpus=job.threads, num_gpus=gpus, max_retries=1)
    try:
        trial: Trial = ray.get(task.remote(job))
    except ray.exceptions.RayError as error:
        line = next(iter(str(error).splitlines()), "")
        raise EngineError(
            f"a worker process ended while it captioned a first image ({line[:200]}); see camscribe doctor"
        ) from error
    if trial["error"] is not None:
        raise trial["error"]
    return trial
