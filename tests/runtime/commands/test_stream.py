"""``camscribe stream``: what it prints, how it ends, what it says when something is wrong."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from camscribe.runtime import cli
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.commands import stream as stream_command
from camscribe.runtime.stream.plugs import Plug

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photos(tmp_path: Path, toy: Any) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, image in enumerate(toy.images(5)):
        Image.fromarray(image).resize((90, 60)).save(folder / f"p{index}.png")
    return folder


@pytest.fixture
def stream(capsys: pytest.CaptureFixture[str], toy_bundle: Bundle) -> Run:
    def command(*arguments: object) -> tuple[int, str, str]:
        words = ("stream", "--bundle", toy_bundle.path, "--threads", 1, "--backend", "cpu", *arguments)
        status = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


def test_lines_and_a_summary(stream: Run, photos: Path) -> None:
    status, out, err = stream(photos)
    assert status == 0
    assert [Path(line.split()[0]).name for line in out.splitlines()] == [f"p{index}.png" for index in range(5)]
    assert err.startswith("camscribe: captured 5, captioned 5, dropped 0, age ")
    assert err.count("\n") == 1


def test_names_with_control_characters_are_one_harmless_line(stream: Run, photos: Path) -> None:
    (photos / "p0.png").rename(photos / "a\nb\x1b[31m.png")
    (photos / "bad\n\x1b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    status, out, err = stream(photos)
    assert status == 1
    assert len(out.splitlines()) == 5
    assert r"a\nb\x1b[31m.png" in out
    assert err.count("\n") == 2
    assert r"bad\n\x1b.png: is a damaged" in err
    assert "\x1b" not in out + err


def test_guided_searches(stream: Run, photos: Path) -> None:
    status, out, _ = stream(photos, "--json", "--contain", "word7", "--no-repeat", 1)
    assert status == 0
    captions = [json.loads(line) for line in out.splitlines()][:-1]
    assert len(captions) == 5
    for caption in captions:
        assert "word7" in caption["words"]
        assert len(set(caption["words"])) == len(caption["words"])
    status, out, err = stream(photos, "--contain", "cat")
    assert (status, out) == (2, "")
    assert err == "camscribe: contain has 'cat', which is not a word that this model may say\n"


def test_json_files_and_search_options(stream: Run, photos: Path, tmp_path: Path) -> None:
    status, out, _ = stream(
        *(photos, "--json", "--beams", 3, "--nbest", 2, "--max-words", 3, "--jsonl", tmp_path / "a.jsonl"),
        *("--jsonl", tmp_path / "b.jsonl", "--video", tmp_path / "c.avi"),
    )
    assert status == 0
    *captions, last = [json.loads(line) for line in out.splitlines()]
    assert len(captions) == 5
    assert all(len(each["hypotheses"]) == 2 and len(each["words"]) <= 3 for each in captions)
    assert last["counts"]["captioned"] == 5
    for name in ("a.jsonl", "b.jsonl"):
        assert [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] == captions
    assert (tmp_path / "c.avi").stat().st_size > 1000


def test_limit_ends_it(stream: Run) -> None:
    status, out, _ = stream("test://?size=64x48", "--json", "--limit", 3, "--rate", 50)
    assert status == 0
    assert len(out.splitlines()) == 4


def test_frames_that_fail_make_the_status_1(stream: Run, photos: Path) -> None:
    (photos / "p1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    status, out, err = stream(photos)
    assert status == 1
    assert len(out.splitlines()) == 4
    assert "p1.png: is a damaged" in err
    assert "failed 1" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tset://"], "did you mean test://?"),
        (["test://?sice=3x4"], "did you mean size?"),
        (["v4l2://987"], "/dev/video987: no such camera"),
        (["http://127.0.0.1:9/"], "cannot be reached"),
        (["test://", "--rate", "0"], "rate is 0"),
        (["test://", "--limit", "0"], "--limit is 0"),
        (["test://", "--on-change", "--change-threshold", "300"], "on_change is 300"),
        (["test://", "--beams", "0"], "beams is 0"),
        (["test://", "--ban", "unheard"], "'unheard', which is not a word of this model"),
        (["test://", "--video", "x.mp4"], "--video x.mp4: expected a name that ends in .avi"),
        (["test://", "--jsonl", "/none/x"], "--jsonl /none/x: cannot be written (No such file or directory)"),
        ([], "required: SOURCE"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(stream: Run, arguments: list[str], expected: str) -> None:
    status, out, err = stream(*arguments)
    assert (status, out) == (2, "")
    assert expected in err
    assert err.startswith("camscribe: ")
    assert err.count("\n") == 1


def test_a_missing_library_names_its_extra() -> None:
    from camscribe.runtime.errors import EngineError

    with pytest.raises(
        EngineError, match=r'--mcap needs nothere, which is not installed: pip install "camscribe\[mcap]'
    ):
        Plug("nothere.at.all:Sink", "mcap")("--mcap", "x")
    with pytest.raises(ModuleNotFoundError):  # a bug of ours
        Plug("camscribe.runtime.stream.nothere:Sink", "mcap")("--mcap", "x")


def test_help_shows_every_source(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["stream", "--help"])
    out = capsys.readouterr().out
    assert "v4l2:///dev/video0?width=1280&height=720" in out
    assert "--web [HOST:]PORT" in out


def started(bundle: Bundle, *words: object, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "camscribe.runtime.cli", "stream", "--bundle", bundle.path, "--threads", 1, *words]
    return subprocess.Popen([str(word) for word in command], **options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_as_it_should_end(toy_bundle: Bundle, tmp_path: Path, number: int) -> None:
    path = tmp_path / "x.avi"
    words = ("test://?size=64x48", "--json", "--video", path)
    with started(toy_bundle, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["counts"]["captioned"] >= 1
    assert b"idx1" in path.read_bytes()  # the recording was completed


def test_a_signal_that_comes_twice_at_once_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """GNU timeout sends each to the process and to its group."""
    now = 100.0
    monkeypatch.setattr(stream_command.time, "monotonic", lambda: now)
    with stream_command._signals() as received:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
        now = 100.6
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_counters_are_live_on_a_terminal_only(toy_bundle: Bundle) -> None:
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                shown.extend(data)
        except OSError:  # the other side was closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    with started(toy_bundle, "test://?size=64x48", stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        until = time.monotonic() + 30
        while b"captions/s of" not in shown and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.wait(20)
    reader.join(5)
    os.close(ours)
    assert b"captions/s of" in shown
    assert shown.rstrip().split(b"\n")[-1].split(b"\r\x1b[K")[-1].startswith(b"camscribe: captured ")
    assert process.returncode == 0


def test_a_reader_that_leaves_ends_it(toy_bundle: Bundle) -> None:
    with started(toy_bundle, "test://?size=64x48", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.wait(20)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_output_is_one_line(toy_bundle: Bundle) -> None:
    with (
        Path("/dev/full").open("wb") as full,
        started(toy_bundle, "test://?size=64x48", stdout=full, stderr=subprocess.PIPE) as process,
    ):
        _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert err == b"camscribe: output: cannot be written (No space left on device)\n"
