"""A stream over a long time: memory, age of frames, threads; and a camera that is killed and comes back.

    python -m camscribe.benchmarks.soak [--seconds 1800] [--rate 30] [--sinks jsonl,video] [--kills 20] --out FILE

First ``test://`` at ``--rate`` with the sinks on, for ``--seconds``. Then a real MJPEG camera in a process of its own,
killed (SIGKILL) and started again ``--kills`` times. Prints what was asked for and whether it was met, and writes all
figures as JSON, with how they were made. The exit status is 1 where something was not met.

What is asked for:

- memory (resident, of this process; medians of the second tenth of the time and of the last) grows by 5 % at most;
- the age of a frame at its caption, 95th percentile, is below 1.2 times one interval of the camera and one caption's
  (medians of what was measured);
- no thread, no child process and no open file is left at the end;
- the files that the sinks wrote hold every caption, and the video the whole time;
- the camera is back after each kill, with nobody's help.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from camscribe.benchmarks.machine import environment
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.commands.stream import SINKS
from camscribe.runtime.errors import CamscribeError
from camscribe.runtime.files import write_atomically
from camscribe.runtime.stream.counters import Counts
from camscribe.runtime.stream.frame import Captioned, Frame
from camscribe.runtime.stream.sink import Control, Sink
from camscribe.runtime.stream.stream import CaptionStream

MEMORY_GROWTH, AGE_FACTOR = 1.05, 1.2


class Log:
    """Rows of numbers that lie in memory from the start: what measures growth may not grow itself."""

    def __init__(self, rows: int, width: int) -> None:
        self._rows, self._count = np.full((rows, width), np.nan), 0  # filled, so that its pages are there

    def add(self, *values: float) -> None:
        """Notes a row; the last one again when all are full."""
        self._rows[min(self._count, len(self._rows) - 1)] = values
        self._count += 1

    @property
    def columns(self) -> npt.NDArray[np.float64]:
        """[width, rows]"""
        return self._rows[: self._count].T


class Watch:
    """A sink that notes when frames and captions came, and how much memory the process holds each second."""

    name = "watch"
    wants_frames = True

    def __init__(self, seconds: float, rate: float) -> None:
        frames = int(1.5 * seconds * rate) + 1000
        self.captured = Log(frames, 1)
        """Moment in s."""
        self.captions = Log(frames, 3)
        """Moment in s, age in ms, time of the captioner in ms."""
        self.memory = Log(int(1.5 * seconds) + 1000, 2)
        """Moment in s, resident bytes."""

    def open(self, control: Control) -> None:
        pass

    def frame(self, frame: Frame) -> None:
        self.captured.add(frame.captured_s)

    def caption(self, item: Captioned) -> None:
        self.captions.add(time.monotonic(), item.age_ms, item.caption.timings.total_ms)

    def counts(self, counts: Counts) -> None:
        self.memory.add(time.monotonic(), resident_bytes())

    def close(self) -> None:
        pass


def resident_bytes() -> int:
    """Memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def held() -> dict[str, Any]:
    """What a stream must give back: threads, open files, child processes."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    files = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]  # noqa: PTH115
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "native_threads": len(list(Path("/proc/self/task").iterdir())),
        "files": sorted(name.replace(str(Path.home()), "~") for name in files if "/fd" not in name),
        "children": len(children),
    }


def soak(captioner: Captioner, seconds: float, rate: float, names: Sequence[str], folder: Path) -> dict[str, Any]:
    """Streams the synthetic scene; returns what was measured."""
    captioner.caption(np.zeros((480, 640, 3), np.uint8), "rgb")  # makes its buffers and threads
    before = held()
    watch = Watch(seconds, rate)
    values: dict[str, Any] = {
        "jsonl": folder / "soak.jsonl",
        "video": folder / "soak.avi",
        "mcap": folder / "soak.mcap",
    }
    values |= {"web": "127.0.0.1:0", "ros2": "camscribe_soak", "zenoh": "camscribe/soak"}
    sinks: list[Sink] = [watch, *(SINKS[name](f"--{name}", values[name]) for name in names)]
    said: list[str] = []
    began = time.monotonic()
    with CaptionStream(captioner, f"test://?rate={rate:g}", sinks, report=said.append) as stream:
        stream.start()
        while not stream.wait(0.5) and time.monotonic() - began < seconds:
            pass
        closing = time.monotonic()
    closed_s = time.monotonic() - closing
    time.sleep(0.2)
    after, counts = held(), stream.counts()
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    lines = len((folder / "soak.jsonl").read_text().splitlines()) if "jsonl" in names else None
    return {
        "seconds": seconds,
        "source": f"test://?rate={rate:g}",
        "sinks": list(names),
        "counts": counts.to_dict(),
        "said": said,
        "close_s": round(closed_s, 3),
        "memory": _memory(watch, began, seconds),
        "age": _age(watch),
        "before": before,
        "after": after,
        "left": _left(before, after),
        "files_bytes": files,
        "jsonl_lines": lines,
        "video_s": _video_s(folder) if "video" in names else None,
    }


def _memory(watch: Watch, began: float, seconds: float) -> dict[str, Any]:
    moments, sizes = watch.memory.columns
    times, sizes = moments - began, sizes / 1e6
    warm = sizes[times >= 0.1 * seconds]
    some = max(1, len(warm) // 9)
    first_mb, last_mb = (float(np.median(part)) for part in (warm[:some], warm[-some:]))
    growth = last_mb / first_mb
    return {
        "first_mb": round(first_mb, 2),
        "last_mb": round(last_mb, 2),
        "growth": round(growth, 4),
        "limit": MEMORY_GROWTH,
        "met": growth <= MEMORY_GROWTH,
        "every_30_s_mb": [round(float(size), 2) for size in sizes[::30]],
    }


def _age(watch: Watch) -> dict[str, Any]:
    moments, ages, latencies = watch.captions.columns
    camera_ms = float(np.median(np.diff(watch.captured.columns[0]))) * 1e3
    caption_ms = float(np.median(np.diff(moments))) * 1e3
    limit_ms = AGE_FACTOR * (camera_ms + caption_ms)
    p50, p95, p99 = np.percentile(ages, [50, 95, 99])
    return {
        "captions": len(ages),
        "p50_ms": round(p50, 2),
        "p95_ms": round(p95, 2),
        "p99_ms": round(p99, 2),
        "most_ms": round(float(ages.max()), 2),
        "camera_interval_ms": round(camera_ms, 2),
        "caption_interval_ms": round(caption_ms, 2),
        "caption_interval_p95_ms": round(float(np.percentile(np.diff(moments), 95)) * 1e3, 2),
        "caption_p50_ms": round(float(np.median(latencies)), 2),
        "caption_p95_ms": round(float(np.percentile(latencies, 95)), 2),
        "limit_ms": round(limit_ms, 2),
        "met": bool(p95 < limit_ms),
    }


def _left(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    left = [f"thread {name}" for name in after["threads"] if name not in before["threads"]]
    left += [f"file {name}" for name in after["files"] if name not in before["files"]]
    return left + ["child process"] * (after["children"] - before["children"])


def _video_s(folder: Path) -> float:
    """How much time the recording shows."""
    import cv2

    frames = 0
    for path in sorted(folder.glob("soak*.avi")):
        video = cv2.VideoCapture(str(path))
        while video.grab():
            frames += 1
    return frames / 25


def kills(captioner: Captioner, count: int) -> dict[str, Any]:
    """Streams a camera that is killed and started again; returns what was measured."""
    before = held()
    camera = _start_camera(0)
    port = int(camera.stdout.readline()) if camera.stdout else 0
    said: list[str] = []
    last: list[Captioned] = []
    away: list[float] = []
    with CaptionStream(captioner, f"http://127.0.0.1:{port}/", report=said.append) as stream:
        stream.start(lambda item: last.__setitem__(slice(None), [item]))
        for index in range(count):
            _until(lambda: bool(last), "a caption")
            camera.kill()
            camera.communicate()
            _until(lambda at=index: len(said) == 2 * at + 1, "the loss")
            camera = _start_camera(port)
            if camera.stdout:
                camera.stdout.readline()
            started = time.monotonic()
            last.clear()
            _until(lambda: bool(last), "a caption after the kill")
            away.append(time.monotonic() - started)
        closing = time.monotonic()
    closed_s = time.monotonic() - closing
    camera.kill()
    camera.communicate()
    time.sleep(0.2)
    after = held()
    return {
        "kills": count,
        "reopened": stream.counts().reopened,
        "back_after_s": {"median": round(float(np.median(away)), 3), "most": round(max(away), 3)},
        "close_s": round(closed_s, 3),
        "counts": stream.counts().to_dict(),
        "left": _left(before, after),
    }


def _until(condition: Any, what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} has not come within {seconds} s")
        time.sleep(0.005)


def _start_camera(port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "camscribe.benchmarks.soak", "--camera", str(port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def camera(port: int) -> None:
    """Serves the synthetic scene as MJPEG at 30 Hz, on this machine only, until it is killed."""
    import cv2

    from camscribe.runtime.stream.uri import open_source

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            source = open_source("test://?rate=30&size=320x240")
            with contextlib.suppress(OSError):  # whoever looked has gone
                while (frame := source.read()) is not None:
                    picture = cv2.imencode(".jpg", frame.pixels[:, :, ::-1])[1].tobytes()
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                    self.wfile.write(head.encode() + picture + b"\r\n")

        def log_message(self, *arguments: object) -> None:
            pass

    http.server.ThreadingHTTPServer.allow_reuse_address = True
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        print(server.server_address[1], flush=True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        server.serve_forever()


def main() -> int:
    """Runs it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--rate", type=float, default=30, help="frames a second")
    parser.add_argument("--sinks", default="jsonl,video", help=f"of {','.join(SINKS)}")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--camera", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.camera is not None:
        camera(options.camera)
        return 0
    result: dict[str, Any] = {"environment": environment()}
    with (
        Captioner.load(options.bundle, threads=options.threads) as captioner,
        tempfile.TemporaryDirectory() as folder,
    ):
        names = [name for name in options.sinks.split(",") if name]
        result["soak"] = found = soak(captioner, options.seconds, options.rate, names, Path(folder))
        result["kills"] = killed = kills(captioner, options.kills)
    result["asked"] = asked = {
        "memory grows by 5 % at most": found["memory"]["met"],
        "frame age p95 below 1.2 x (camera + caption)": found["age"]["met"],
        "nothing left at the end": not found["left"] and not killed["left"],
        "closed within 1 s": max(found["close_s"], killed["close_s"]) <= 1,
        "every caption in the file": found["jsonl_lines"] in (None, found["counts"]["captioned"]),
        "the video shows the whole time": found["video_s"] is None or found["video_s"] >= options.seconds - 1,
        "nothing went wrong on the way": not found["said"],
        "the camera came back each time": killed["reopened"] == options.kills,
    }
    for what, met in asked.items():
        print(f"{'met    ' if met else 'NOT MET'} {what}")
    text = json.dumps(result, indent=1)
    if options.out is not None:
        write_atomically(options.out, f"{text}\n".encode())
    else:
        print(text)
    return 0 if all(asked.values()) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CamscribeError as failure:
        print(failure, file=sys.stderr)
        sys.exit(2)
