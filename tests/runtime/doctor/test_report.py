"""The report as a whole: exit status, JSON without names, the documented schema, and described machines end to end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camscribe.runtime import cli
from camscribe.runtime.doctor import known
from camscribe.runtime.doctor.backends import judge_backend, judge_bundle
from camscribe.runtime.doctor.examine import examine
from camscribe.runtime.doctor.machine import Machine, Outcome
from camscribe.runtime.doctor.private import Scrubber
from camscribe.runtime.doctor.report import SCHEMA, Report
from camscribe.runtime.doctor.system import judge_cameras, judge_java

Describe = Callable[..., Machine]
GPU = {"name": "NVIDIA H100", "compute_capability": "9.0", "total_bytes": 80 << 30, "integrated": False}
LIBRARIES = {
    "onnxruntime": {"version": "1.31.1", "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"], "file": ""},
    "opencv": {"version": "5.0.0", "gstreamer": "NO", "file": "", "numpy": "2.4.6"},
    "tensorrt": {"version": "11.4.0", "module": "tensorrt", "builds": True, "file": "/v/site-packages/tensorrt/x"},
    "pycuda": {"version": "2026.1", "built_for_cuda": "13.0"},
    "cuda_python": {"version": "13.5.0"},
    "nvrtc": {"version": "13.2"},
}


def captioned(backend: str, same: int = 8, reasons: tuple[str, ...] = ()) -> dict[str, Any]:
    check = {"precision": "float32", "images": 8, "same": same, "differences": [], "reasons": list(reasons)}
    return {"bundle": "toy", "checks": [{"backend": backend, **check}]}


def workstation(describe: Describe, **answers: Any) -> Machine:
    answers = {
        "driver": {"cuda": "13.0", "gpus": [GPU]},
        **LIBRARIES,
        "captions  cpu": captioned("cpu"),
        "captions  cuda": captioned("cuda"),
        "captions  auto": captioned("tensorrt"),
        **{key.replace("captions_", "captions  "): value for key, value in answers.items()},
    }
    return describe(answers=answers)


def backends(report: Report) -> dict[str, tuple[str, str | None]]:
    return {item.name: (item.status, item.mend) for item in report.backends}


def test_a_workstation_where_all_works(describe: Describe) -> None:
    report = examine(workstation(describe), "0.1.0")
    assert backends(report) == {"cpu": ("ok", None), "cuda": ("ok", None), "tensorrt": ("ok", None)}
    assert report.captions
    assert list(report.lines())[-1] == "captioning works: --backend cpu or cuda or tensorrt"


@pytest.mark.parametrize(
    "command", ["camscribe build", "camscribe build /my bundles/b --precision fp16 --batch 1 --beams 3"]
)
def test_engines_that_are_not_built_yet(describe: Describe, command: str) -> None:
    reason = f"tensorrt: no engine is built for this GPU: run {command}, which makes captions faster"
    report = examine(workstation(describe, captions_auto=captioned("cuda", reasons=(reason,))), "0.1.0")
    assert backends(report)["tensorrt"] == ("absent", command)


def test_a_backend_is_mended_by_the_first_thing_that_it_lacks(describe: Describe) -> None:
    no_pycuda = {"error": "No module named 'pycuda'", "missing": "pycuda"}
    failed = {"error": "ONNX Runtime cannot use cuda", "kind": "EngineError"}
    report = examine(workstation(describe, pycuda=no_pycuda, captions_cuda=failed), "0.1.0")
    assert backends(report)["tensorrt"] == ("absent", "sudo apt install nvidia-cuda-toolkit")
    assert backends(report)["cuda"] == ("broken", None)
    assert report.captions


def test_a_gpu_beside_an_onnx_runtime_for_cpus(describe: Describe) -> None:
    only_cpu = {**LIBRARIES["onnxruntime"], "providers": ["CPUExecutionProvider"]}
    report = examine(workstation(describe, onnxruntime=only_cpu), "0.1.0")
    status, mend = backends(report)["cuda"]
    assert status == "absent"
    assert mend is not None
    assert mend.startswith("pip uninstall --yes onnxruntime && pip install")


def test_a_bare_machine_has_no_backend_and_says_what_to_install(describe: Describe) -> None:
    failed = {"error": "ONNX Runtime cannot be imported", "kind": "EngineError"}
    report = examine(describe(answers={"captions  cpu": failed}), "0.1.0")
    assert not report.captions
    assert backends(report)["cpu"] == ("absent", 'pip install "camscribe[cpu]"')
    assert list(report.lines())[-1] == "captioning does not work here"


def test_every_probe_may_fail_at_once(describe: Describe) -> None:
    names = ("driver", *LIBRARIES, "captions  cpu")
    report = examine(describe(answers={name: {"error": "crashed (SIGSEGV)"} for name in names}), "0.1.0")
    assert not report.captions
    assert all(item.detail for item in (*report.items, *report.backends))


@pytest.mark.parametrize(("same", "status"), [(8, "ok"), (7, "warning"), (4, "warning"), (3, "broken"), (0, "broken")])
def test_other_words_than_expected_count(same: int, status: str) -> None:
    assert judge_backend("cpu", captioned("cpu", same), ()).status == status


def test_the_bundle_is_judged_by_its_own_error() -> None:
    assert judge_bundle({"error": "weights.bin is altered", "kind": "BundleError"}, "default").mend is not None
    assert judge_bundle({"error": "crashed (SIGSEGV)"}, "default").status == "absent"


def test_java(describe: Describe) -> None:
    answer = Outcome(0, "", 'openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime Environment (build 17)\n')
    assert judge_java(describe(programs={"java -version": answer})).version == "17.0.15"
    assert judge_java(describe()).status == "absent"
    assert judge_java(describe(programs={"java -version": Outcome(1, "", "Error: no JVM")})).status == "broken"


def test_cameras(describe: Describe) -> None:
    assert judge_cameras(describe(), {}, jetson=False).status == "absent"
    files = {"/dev/video0": "", "/sys/class/video4linux/video0/name": "vi-output, imx219 9-0010\n"}
    machine = describe(files)
    assert judge_cameras(machine, {"gstreamer": "YES (1.20.3)"}, jetson=True).status == "ok"
    assert "GStreamer" in judge_cameras(machine, {"gstreamer": "NO"}, jetson=True).detail
    item = judge_cameras(machine, {"gstreamer": "NO"}, jetson=False)
    assert (item.status, item.detail) == ("ok", "/dev/video0 (vi-output, imx219 9-0010)")


def test_names_and_homes_are_taken_out() -> None:
    scrubber = Scrubber((("/data/mary/venv", "<python>"), ("/data/mary", ".")), "mary", "mary-laptop")
    said = {
        "file": "/data/mary/venv/lib/x.so: cannot open",
        "other": ["/home/joe/a b", "/Users/joe/x", "at mary-laptop", "/srv/mary/x", "/data/mary-anne"],
        "kept": "/proc/driver/nvidia/version, primary",
        "number": 3,
    }
    assert scrubber.clean(said) == {
        "file": "<python>/lib/x.so: cannot open",
        "other": ["~/a b", "~/x", "at <host>", "/srv/<user>/x", "/data/mary-anne"],
        "kept": "/proc/driver/nvidia/version, primary",
        "number": 3,
    }
    common = Scrubber((), "nvidia", "ubuntu")
    assert common.clean("/proc/driver/nvidia on ubuntu in /home/nvidia/x") == "/proc/driver/nvidia on ubuntu in ~/x"


@given(st.text(max_size=60))
def test_any_text_can_be_cleaned(text: str) -> None:
    cleaned = Scrubber.here().clean({"a": [text]})
    assert json.loads(json.dumps(cleaned)) == cleaned


@pytest.fixture(scope="module")
def real() -> tuple[int, dict[str, Any], str]:
    """``camscribe doctor --json`` on this machine: status, JSON and standard error."""
    program = "import sys; from camscribe.runtime.cli import main; sys.exit(main(['doctor', '--json']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout), done.stderr


def test_this_machine_captions(real: tuple[int, dict[str, Any], str]) -> None:
    status, report, err = real
    assert (status, err) == (0, "")
    assert report["captions"] is True
    cpu = next(item for item in report["backends"] if item["name"] == "cpu")
    assert cpu["status"] in ("ok", "warning")
    assert {check["precision"] for check in cpu["facts"]["checks"]} == {"float32", "fp16", "int8"}


def test_the_json_tells_no_names(real: tuple[int, dict[str, Any], str]) -> None:
    text = json.dumps(real[1])
    assert str(Path.home()) + "/" not in text
    assert sys.prefix not in text
    assert "/home/" not in text


def test_the_json_is_as_documented(real: tuple[int, dict[str, Any], str], repository: Path) -> None:
    text = (repository / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert f'"schema": {SCHEMA},' in text
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    report = real[1]
    fields = {*report, *report["items"][0]}
    names = {item["name"] for item in (*report["items"], *report["backends"])}
    assert fields <= documented
    assert names | {"jetson", "power_mode"} <= documented
    assert documented <= fields | names | {"jetson", "power_mode", "ok", "warning", "broken", "absent"}


@pytest.mark.parametrize("libraries", [("onnxruntime",), ("cv2",), ("onnxruntime", "cv2", "numpy", "PIL")])
def test_broken_libraries_do_not_end_the_doctor(libraries: tuple[str, ...], tmp_path: Path) -> None:
    for name in libraries:
        (tmp_path / f"{name}.py").write_text("import os; os.abort()")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
        "from camscribe.runtime.cli import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    assert "captioning does not work here" in done.stdout
    assert "crashed (SIGABRT)" in done.stdout


def test_a_missing_bundle_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["doctor", "--bundle", str(tmp_path / "none")]) == 1
    assert "no such bundle folder" in capsys.readouterr().out


def test_the_command_imports_nothing_heavy() -> None:
    code = (
        "import sys; from camscribe.runtime.commands import doctor; "
        "print([name for name in ('numpy', 'PIL', 'cv2', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("what", "version", "expected"),
    [
        ("Python", "3.11.7", "run"),
        ("Python", "3.1.7", "never run"),
        ("Python", "3.14.0", "never run"),
        ("ONNX Runtime on a CPU", "1.32.0", "run"),
        ("ONNX Runtime on a CPU", "1.32.0.dev1", "run"),
        ("ONNX Runtime on a CPU", "1.30.0", "never run"),
        ("ONNX Runtime on CUDA", "1.32.0", "never run"),
        ("TensorRT", "8.6.0", "API-checked only"),
        ("TensorRT", "8.5.3", "never run"),
        ("TensorRT", "11.4.1.7", "API-checked only"),
        ("TensorRT", "11.10.0", "never run"),
        ("TensorRT", "11", "API-checked only"),
        ("TensorRT", "weird", "never run"),
    ],
)
def test_what_was_run(what: str, version: str, expected: str) -> None:
    assert known.support(what, version) == expected


def test_the_readme_repeats_what_was_run(repository: Path) -> None:
    assert "\n".join(known.table()) in (repository / "README.md").read_text(encoding="utf-8")
