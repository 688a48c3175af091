"""The engine cache: keys, places, reasons of a miss, damage, and what a killed process leaves behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from camscribe.runtime.bundle import Bundle
from camscribe.runtime.errors import EngineError
from camscribe.runtime.tensorrt import sealed_file
from camscribe.runtime.tensorrt.engine_cache import EngineCache, EngineKey, graph_sha256

KEY = EngineKey("ab" * 32, "10.3.0", "NVIDIA Orin", "8.7", "fp16", "decoder", 1, 3)
not_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


def test_an_engine_is_found_again_beside_the_bundle(bundle: Bundle) -> None:
    cache = EngineCache(bundle)
    assert cache.find(KEY) is None
    assert cache.read(KEY) is None
    path = cache.store(KEY, b"\0engine\n\xff", {"layers": {"half": 3}})
    assert path.parent == bundle.path.with_name("toy.engines")
    assert cache.find(KEY) == path
    assert cache.read(KEY) == b"\0engine\n\xff"
    assert sealed_file.read_header(path)["notes"] == {"layers": {"half": 3}}
    Bundle.load(bundle.path)  # the bundle is as it was


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tensorrt": "8.6.1"}, "was built for TensorRT 8.6.1; this is TensorRT 10.3.0"),
        ({"gpu": "NVIDIA H200"}, "was built for NVIDIA H200; this is NVIDIA Orin"),
        ({"compute_capability": "9.0"}, "was built for compute capability 9.0; this is compute capability 8.7"),
        ({"onnx_sha256": "cd" * 32}, "was built for another export of the graph"),
        ({"recipe": 0}, "was built for another release of camscribe"),
        ({"tensorrt": "8.6.1", "gpu": "NVIDIA H200"}, "for TensorRT 8.6.1, NVIDIA H200; this is TensorRT 10.3.0, N"),
    ],
)
def test_any_difference_is_a_miss_that_says_what_differs(bundle: Bundle, change: dict[str, object], words: str) -> None:
    cache = EngineCache(bundle)
    cache.store(replace(KEY, **change), b"engine")  # type: ignore[arg-type]
    assert cache.find(KEY) is None
    assert words in cache.why_not(KEY)


@pytest.mark.parametrize("change", [{"precision": "float32"}, {"graph": "encoder"}, {"images": 2}, {"beams": 5}])
def test_an_engine_for_something_else_is_no_explanation(bundle: Bundle, change: dict[str, object]) -> None:
    cache = EngineCache(bundle)
    cache.store(replace(KEY, **change), b"engine")  # type: ignore[arg-type]
    assert cache.find(KEY) is None
    assert cache.why_not(KEY) == "no engine was built here for fp16 decoder, batch 1, 3 beams"


def test_the_closest_engine_explains_the_miss(bundle: Bundle) -> None:
    cache = EngineCache(bundle)
    cache.store(replace(KEY, tensorrt="8.6.1", gpu="NVIDIA H200"), b"engine")
    cache.store(replace(KEY, tensorrt="8.5.3"), b"engine")
    assert cache.why_not(KEY).endswith("was built for TensorRT 8.5.3; this is TensorRT 10.3.0")


def test_names_differ_with_every_field() -> None:
    changes = [
        {},
        {"onnx_sha256": "cd" * 32},
        {"tensorrt": "8.6.1"},
        {"gpu": "x"},
        {"compute_capability": "9.0"},
        {"precision": "int8"},
        {"graph": "encoder"},
        {"images": 2},
        {"beams": 5},
        {"recipe": 0},
    ]
    names = {replace(KEY, **change).file_name for change in changes}  # type: ignore[arg-type]
    assert len(names) == len(changes)
    assert all("/" not in name and " " not in name for name in names)


def test_a_damaged_engine_is_never_given_out(bundle: Bundle) -> None:
    cache = EngineCache(bundle)
    path = cache.store(KEY, b"engine" * 100)
    whole = path.read_bytes()
    for damaged, words in (
        (whole[:-1], "it is truncated: it holds 599 bytes, expected 600"),
        (whole + b"x", "it is truncated: it holds 601 bytes, expected 600"),
        (whole[:-1] + b"X", "it is altered: its sha256 differs"),
        (whole[10:], "not usable"),
        (b"", "not usable"),
        (b"[]\n", "it does not begin as the cache's files do"),
    ):
        path.write_bytes(damaged)
        assert cache.find(KEY) is None
        assert cache.read(KEY) is None
        assert words in cache.why_not(KEY)
    cache.store(KEY, b"new")
    assert cache.read(KEY) == b"new"


def test_an_engine_under_another_name_is_not_given_out(bundle: Bundle) -> None:
    cache = EngineCache(bundle)
    other = replace(KEY, beams=5)
    shutil.copy(cache.store(KEY, b"engine"), cache.folders[0] / other.file_name)
    assert cache.find(other) is None
    assert cache.read(other) is None


def test_where_the_bundle_cannot_be_written_beside_the_users_cache_is_taken(bundle: Bundle, tmp_path: Path) -> None:
    cache = EngineCache(bundle)
    cache.folders[0].write_text("in the way")  # a file where the folder should be stops root, too
    path = cache.store(KEY, b"engine")
    assert path.is_relative_to(tmp_path / "user" / "camscribe")
    assert cache.find(KEY) == path


def test_bundles_of_one_name_do_not_share_the_users_cache(bundle: Bundle, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / bundle.path.name
    shutil.copytree(bundle.path, other)
    assert EngineCache(bundle).folders[1] != EngineCache(Bundle.load(other)).folders[1]


def test_no_place_at_all_is_one_line_with_the_remedy(bundle: Bundle, tmp_path: Path) -> None:
    cache = EngineCache(bundle)
    cache.folders[0].write_text("in the way")
    (tmp_path / "user").write_text("in the way")
    with pytest.raises(EngineError, match=r"neither into .*toy\.engines \(.*\) nor into .*XDG_CACHE_HOME") as caught:
        cache.place()
    assert "\n" not in str(caught.value)


def test_a_user_without_a_home_has_one_place_less(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number nobody gave a name."""

    def no_home(_: object = None) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    cache = EngineCache(bundle)
    assert cache.find(KEY) is None
    assert cache.store(KEY, b"engine").parent == cache.folders[0]
    assert len(cache.folders) == 1


@not_root
def test_a_read_only_folder_is_noticed(bundle: Bundle, tmp_path: Path) -> None:
    bundle.path.parent.chmod(0o500)
    try:
        with pytest.raises(EngineError, match="Permission denied"):
            EngineCache(bundle, tmp_path / "user").place()
    finally:
        bundle.path.parent.chmod(0o700)


def test_a_killed_store_leaves_the_old_engine_and_its_remains_go(bundle: Bundle) -> None:
    cache = EngineCache(bundle)
    path = cache.store(KEY, b"old")
    script = f"""
import os, pathlib, signal
from camscribe.runtime.tensorrt import sealed_file
def killed(self, target):
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.replace = killed
sealed_file.write(pathlib.Path({str(path)!r}), {{}}, b"new")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "ready\n", done.stderr
    assert cache.read(KEY) == b"old"
    (remains,) = path.parent.glob(".*.partial")
    cache.place()
    assert remains.exists()  # it may be of a living process in another container
    os.utime(remains, (time.time() - 3600,) * 2)
    cache.place()
    assert list(path.parent.glob(".*.partial")) == []
    assert cache.read(KEY) == b"old"


def test_what_a_living_process_writes_is_left_alone(bundle: Bundle) -> None:
    cache = EngineCache(bundle)
    place = cache.place()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        remains = place / f".x.engine.{child.pid}.partial"
        remains.write_text("half")
        os.utime(remains, (0, 0))
        cache.place()
        assert remains.exists()
    finally:
        child.kill()
        child.wait()
    for _ in range(100):
        if not Path("/proc", str(child.pid)).exists():
            break
        time.sleep(0.01)
    cache.place()
    assert not remains.exists()


def test_a_full_disk_is_one_line(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = EngineCache(bundle)
    cache.store(KEY, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EngineError, match=r"cannot be written \(No space left on device\); what was there before"):
        cache.store(KEY, b"new")
    assert cache.read(KEY) == b"old"
    assert list(cache.folders[0].glob(".*")) == []


def test_the_digest_of_a_graph_covers_its_weights(bundle: Bundle) -> None:
    assert graph_sha256(bundle, "float32", "encoder") == bundle.manifest.files["encoder.onnx"].sha256
    pair = bundle.manifest.precisions["float32"]
    spec = replace(pair.encoder, external=("vocab.txt",))
    precisions = {**bundle.manifest.precisions, "float32": replace(pair, encoder=spec)}
    shared = replace(bundle, manifest=replace(bundle.manifest, precisions=precisions))
    first = graph_sha256(shared, "float32", "encoder")
    assert first != bundle.manifest.files["encoder.onnx"].sha256
    entry = replace(bundle.manifest.files["vocab.txt"], sha256="0" * 64)
    files = {**bundle.manifest.files, "vocab.txt": entry}
    changed = replace(bundle, manifest=replace(shared.manifest, files=files))
    assert graph_sha256(changed, "float32", "encoder") != first
