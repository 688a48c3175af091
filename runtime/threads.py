"""Threads: how many are worth starting on this machine, and starting some."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from camscribe.runtime.errors import OptionError

_TOPOLOGY = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")


First = TypeVar("First")
Second = TypeVar("Second")


def both(first: Callable[[], First], second: Callable[[], Second]) -> tuple[First, Second]:
    """Calls two functions at the same time.

    Raises:
        Exception: what ``first`` raised, else what ``second`` did.
    """
    results: list[Second] = []
    errors: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            results.append(second())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    # No daemon: one that is still in C++ when the interpreter ends would abort the process.
    threading.Thread(target=run).start()
    try:
        result = first()
    finally:
        try:
            ended.wait()  # join(), once Ctrl-C has ended it, takes the thread for ended (Python 3.11)
        except BaseException:
            ended.wait()
            raise
    if errors:
        raise errors[0]
    return result, results[0]


def check_threads(threads: int | None) -> None:
    """Refuses what is no number of CPU threads; None leaves it to who opens a network.

    Raises:
        OptionError: it is no whole number from 1 to 1024.
    """
    if threads is not None and (type(threads) is not int or not 1 <= threads <= 1024):
        raise OptionError(f"threads is {threads!r}; expected 1 to 1024, a whole number")


def nothing() -> None:
    """Does nothing: a default for functions that are called."""


def physical_cores() -> int:
    """Cores this process may use, at least 1: no hyper-threads, no cores outside its affinity or its container's quota.

    Matrix products gain nothing from a second thread on a core, and a thread without a core makes the others wait.
    """
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return max(1, (os.cpu_count() or 1) // 2)
    cores = {_siblings(cpu) for cpu in allowed}
    quota = _quota()
    return max(1, len(cores) if quota is None else min(len(cores), round(quota)))


def _siblings(cpu: int) -> str:
    """The hyper-threads that share a core with ``cpu``, as the kernel writes them."""
    try:
        return (_TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> float | None:
    """CPUs the container may keep busy, None where there is no limit."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (_CGROUP / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (_CGROUP / "cpu" / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        return int(quota) / int(period) if int(quota) > 0 else None
    except (ValueError, ZeroDivisionError):  # "max" means no limit
        return None
