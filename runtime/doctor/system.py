"""Python, Java and cameras."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from camscribe.runtime.doctor.known import support
from camscribe.runtime.doctor.machine import Machine
from camscribe.runtime.doctor.report import Item


def judge_python(machine: Machine) -> Item:
    """The interpreter. Older ones than 3.10 cannot even install camscribe."""
    known = support("Python", machine.python)
    return Item("python", "Python", "ok", machine.python, machine.python, known)


def judge_java(machine: Machine) -> Item:
    """Java, which only the METEOR metric and the PTB tokenizer of ``camscribe evaluate`` need."""
    outcome = machine.run(["java", "-version"], 20)
    lines = [line for line in outcome.lines if "version" in line]
    if outcome.status == 0 and lines:
        version = lines[0].split('"')[1] if lines[0].count('"') > 1 else lines[0]
        return Item("java", "Java", "ok", version, version)
    mend = "sudo apt install default-jre-headless"
    if outcome.status is None and not outcome.timed_out:
        return Item("java", "Java", "absent", "only camscribe evaluate needs it, for METEOR", mend=mend)
    return Item("java", "Java", "broken", "java -version fails", mend=mend)


def judge_cameras(machine: Machine, opencv: Mapping[str, Any], *, jetson: bool) -> Item:
    """Cameras that the kernel shows; none is opened.

    Args:
        machine: this machine.
        opencv: answer of the probe ``opencv``.
        jetson: whether this is a Jetson, whose CSI cameras need GStreamer.
    """
    nodes = machine.names("/dev", "video[0-9]*")
    cameras = {f"/dev/{node}": machine.read(f"/sys/class/video4linux/{node}/name") or "unnamed" for node in nodes}
    facts = {"cameras": cameras}
    if not cameras:
        return Item("cameras", "cameras", "absent", "no /dev/video*", facts=facts)
    detail = ", ".join(f"{node} ({name})" for node, name in cameras.items())
    closed = [node for node in cameras if not os.access(machine.path(node), os.R_OK | os.W_OK)]
    if closed:
        mend = "sudo usermod --append --groups video $USER"
        detail += f"; {', '.join(closed)} may not be opened by this user (log in again after mending)"
        return Item("cameras", "cameras", "broken", detail, mend=mend, facts=facts)
    csi = [node for node, name in cameras.items() if jetson and name.startswith("vi-output")]
    if csi and str(opencv.get("gstreamer", "NO")).upper().startswith("NO"):
        detail += f"; OpenCV cannot open {', '.join(csi)}: CSI cameras need an OpenCV with GStreamer"
        return Item("cameras", "cameras", "warning", detail, facts=facts)
    return Item("cameras", "cameras", "ok", detail, facts=facts)
