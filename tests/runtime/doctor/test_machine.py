"""Reading a machine: nothing that another program or module does may end the doctor."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest

from camscribe.runtime.doctor.machine import Machine, Outcome, ask, installed_packages, run


def test_a_program_that_is_not_there_has_no_status() -> None:
    assert run(["no-such-program-anywhere"], 5) == Outcome(None)


def test_both_outputs_and_the_status_are_kept() -> None:
    outcome = run([sys.executable, "-c", "import sys; print('a'); print('b', file=sys.stderr); sys.exit(3)"], 30)
    assert (outcome.status, outcome.lines) == (3, ["a", "b"])


def test_what_hangs_is_ended_with_all_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    child = f"import os, pathlib, time; pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(600)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    outcome = run([sys.executable, "-c", program], 3)
    assert outcome.timed_out
    assert outcome.status is None
    end = time.monotonic() + 10
    while _lives(int(mark.read_text())) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _lives(int(mark.read_text()))


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed (SIGSEGV)"),
        ("import os; os.abort()", "crashed (SIGABRT)"),
        ("import os; os._exit(7)", "failed (exit status 7)"),
        ("import time; time.sleep(600)", "did not finish within 2 seconds"),
        ("raise RuntimeError('no device\\n here')", "no device here"),
        ("import sys; sys.exit('gone')", "gone"),
        ("import no_such_module_at_all", "No module named 'no_such_module_at_all'"),
        ("", "the module is there, but without InferenceSession"),
    ],
)
def test_a_broken_import_is_an_answer(
    module: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert ask(["onnxruntime"], 2 if "sleep" in module else 30)["error"] == expected


def test_what_a_module_prints_does_not_disturb_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = (
        "import os\nprint('hello')\nos.write(1, b'from C')\n"
        "class InferenceSession: pass\n__version__ = '1.2.3'\n"
        "get_available_providers = lambda: ['CPUExecutionProvider']"
    )
    (tmp_path / "onnxruntime.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    answer = ask(["onnxruntime"], 30)
    assert (answer["version"], answer["providers"]) == ("1.2.3", ["CPUExecutionProvider"])


def test_the_real_libraries_answer() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    answer = ask(["onnxruntime"], 60)
    assert answer["version"] == onnxruntime.__version__
    assert "CPUExecutionProvider" in answer["providers"]
    cv2 = pytest.importorskip("cv2")
    answer = ask(["opencv"], 60)
    assert answer["version"] == cv2.__version__
    assert answer["gstreamer"].startswith(("YES", "NO"))


def test_nvrtc_compiles_without_a_gpu() -> None:
    answer = ask(["nvrtc"], 60)
    if answer.get("kind") == "FileNotFoundError":
        pytest.skip("NVRTC is not installed")
    assert re.fullmatch(r"1[1-9]\.\d+", answer["version"]), answer


@pytest.mark.gpu
def test_the_driver_of_a_real_gpu_answers() -> None:
    answer = ask(["driver"], 60)
    assert answer["gpus"][0]["total_bytes"] > 1 << 30
    assert int(answer["cuda"].split(".")[0]) >= 11


def test_installed_packages_are_found_with_their_folder() -> None:
    packages = {package.name: package for package in installed_packages()}
    assert packages["numpy"].version
    assert Path(packages["numpy"].folder).is_dir()


def test_half_removed_packages_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("empty-1.0.dist-info", "~umpy-1.0.dist-info"):
        (tmp_path / name).mkdir()
    (tmp_path / "empty-1.0.dist-info" / "METADATA").write_text("")
    (tmp_path / "binary-1.0.dist-info").mkdir()
    (tmp_path / "binary-1.0.dist-info" / "METADATA").write_bytes(b"Name: \xff\xfe\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert any(package.name == "numpy" for package in installed_packages())


def test_files_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    machine = Machine(tmp_path, run, ask)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_bytes(b"value\0\n")
    (tmp_path / "loop").symlink_to("loop")
    assert machine.read("/folder") is None
    assert machine.read("/nothing") is None
    assert machine.read("/loop") is None
    assert machine.read("/text") == "value"
    assert not machine.exists("/loop", "/nothing")
    assert machine.names("/nothing", "*") == []
