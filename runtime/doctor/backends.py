"""Which backends work, and the bundle: judged by captions, not by what is installed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from camscribe.runtime.doctor.gpu import GpuFacts
from camscribe.runtime.doctor.machine import Answer, Machine
from camscribe.runtime.doctor.report import Item, Status

_SECONDS = 300
"""Opening a GPU for the first time may compile for minutes."""


def judge_bundle(answer: Mapping[str, Any], name: str) -> Item:
    """The bundle, from the captions that the CPU made with it."""
    if "error" not in answer:
        return Item("bundle", "bundle", "ok", f"{answer['bundle']}, every file as recorded", facts={"bundle": name})
    if answer.get("kind") == "BundleError":
        mend = "pip install --force-reinstall camscribe" if name == "default" else None
        return Item("bundle", "bundle", "broken", str(answer["error"]), mend=mend, facts={"bundle": name})
    return Item("bundle", "bundle", "absent", "not looked at: no captions on the CPU", facts={"bundle": name})


def ask_backend(machine: Machine, bundle: str, backend: str) -> Answer:
    """Captions the bundle's test images with a backend, in a child process."""
    return machine.ask(["captions", bundle, backend], _SECONDS)


def judge_backend(name: str, answer: Mapping[str, Any], needs: tuple[Item, ...]) -> Item:
    """A backend, from its captions; where it makes none, what it needs tells how to mend it."""
    if "error" in answer:
        return _unusable(name, str(answer["error"]), needs)
    checks = [
        {key: check[key] for key in ("backend", "precision", "images", "same")} for check in answer.get("checks", ())
    ]
    facts = {"checks": checks}
    texts = [
        f"{check['precision']}: {check['same']} of {check['images']} test captions as expected" for check in checks
    ]
    status: Status = "ok"
    for check in checks:
        # Another kind of CPU may round an int8 step differently, and so turn a word here and there.
        if check["same"] < check["images"]:
            status = "warning" if 2 * check["same"] >= check["images"] and status != "broken" else "broken"
    return Item(name, name, status, "; ".join(texts), facts=facts)


def judge_tensorrt_backend(answer: Mapping[str, Any], gpu: GpuFacts, needs: tuple[Item, ...]) -> Item:
    """The TensorRT backend, from what ``--backend auto`` did: that builds nothing, while asking for it would.

    Args:
        answer: of the probe ``captions`` with ``auto``.
        gpu: as read.
        needs: TensorRT and what else its executor cannot do without.
    """
    if not gpu.present:
        return Item("tensorrt", "tensorrt", "absent", "needs an NVIDIA GPU")
    unmet = [item for item in needs if not item.works]
    if unmet:
        return _unusable("tensorrt", f"needs {' and '.join(item.title for item in unmet)}", needs)
    if "error" in answer:
        return _unusable("tensorrt", str(answer["error"]), needs)
    checks = answer.get("checks") or [{}]
    if checks[0].get("backend") == "tensorrt":
        return judge_backend("tensorrt", answer, needs)
    reasons = [str(reason) for reason in checks[0].get("reasons", ()) if str(reason).startswith("tensorrt:")]
    reason = reasons[0].partition(":")[2].strip() if reasons else "--backend auto took another"
    command = re.search(r"camscribe build(?: .*--beams \d+)?", reason)
    return Item("tensorrt", "tensorrt", "absent", reason, mend=command[0] if command else None)


def _unusable(name: str, reason: str, needs: tuple[Item, ...]) -> Item:
    """A backend that makes no captions; the first thing it needs that does not work tells the command."""
    mends = [item.mend for item in needs if not item.works and item.mend is not None]
    broken = any(item.status == "broken" for item in needs)
    absent = not broken and any(item.status == "absent" for item in needs)
    return Item(name, name, "absent" if absent else "broken", reason, mend=mends[0] if mends else None)
