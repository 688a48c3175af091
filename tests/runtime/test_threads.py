"""Threads are counted by the cores a process really has."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from camscribe.runtime import threads
from camscribe.runtime.threads import both, physical_cores


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of four cores with two hyper-threads each, all of them allowed."""
    for cpu in range(8):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    monkeypatch.setattr(threads, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(threads, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path


@pytest.mark.usefixtures("machine")
def test_hyper_threads_do_not_count() -> None:
    assert physical_cores() == 4


@pytest.mark.usefixtures("machine")
def test_only_allowed_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 2})
    assert physical_cores() == 2


@pytest.mark.parametrize(("quota", "cores"), [("200000 100000", 2), ("max 100000", 4), ("50000 100000", 1), ("odd", 4)])
def test_a_containers_quota_counts(machine: Path, quota: str, cores: int) -> None:
    (machine / "cpu.max").write_text(quota)
    assert physical_cores() == cores


def test_an_older_containers_quota_counts(machine: Path) -> None:
    (machine / "cpu").mkdir()
    (machine / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    (machine / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert physical_cores() == 3
    (machine / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert physical_cores() == 4


@pytest.mark.usefixtures("machine")
def test_there_is_a_core_where_nothing_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(threads, "_TOPOLOGY", tmp_path / "none")
    assert physical_cores() == 8
    monkeypatch.delattr(os, "sched_getaffinity")
    assert physical_cores() >= 1


def test_both_run_at_the_same_time_and_give_their_results() -> None:
    barrier = threading.Barrier(2, timeout=10)
    assert both(lambda: barrier.wait() >= 0, lambda: str(barrier.wait() >= 0)) == (True, "True")


def test_the_error_of_the_first_goes_before_that_of_the_second() -> None:
    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(KeyError):
        both(lambda: fail(KeyError()), lambda: fail(ValueError()))
    with pytest.raises(ValueError, match="second"):
        both(lambda: 1, lambda: fail(ValueError("second")))


def test_ctrl_c_does_not_leave_the_second_behind() -> None:
    """A thread that is still in C++ when the interpreter ends would abort the process."""
    ended = []

    def second() -> None:
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        both(lambda: None, second)
    assert ended
