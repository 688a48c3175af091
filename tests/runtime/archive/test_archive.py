"""``camscribe archive`` on a real Ray: the captions of ``camscribe caption``, every image once, whatever happens."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from camscribe.runtime import cli
from camscribe.runtime.archive import run as module
from camscribe.runtime.archive.inputs import shard_images
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.caption import Caption
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.errors import EngineError

pytest.importorskip("ray.data", reason="Ray is not installed: camscribe[ray]")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: camscribe[ray]")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

Photo = Callable[[int], bytes]
WriteTar = Callable[[Path, list[tuple[str, bytes]]], Path]
Run = Callable[..., tuple[int, str, str]]

_KILLER = """
import io, os, sys
real = io.open
def open(file, *rest, **named):
    if "killer" in os.path.basename(str(file)) and "default_worker.py" in sys.argv[0]:
        os._exit(1)
    return real(file, *rest, **named)
io.open = open
"""
"""In the workers, reading a file of that name ends the process, as a fault in a decoder does."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of Ray on this machine, started as the command does where there is no cluster."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(_KILLER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.delenv("RAY_ADDRESS", raising=False)
        ray = module._import_ray()
        stack = contextlib.ExitStack()
        with _without_warnings():
            if not any(_starts(ray, stack) for _ in range(3)):
                pytest.skip("this machine is too busy: Ray gives its own processes 30 seconds to start")
        yield ray.get_runtime_context().gcs_address
        with _without_warnings():
            stack.close()


def _starts(ray: Any, stack: contextlib.ExitStack) -> bool:
    """Starts Ray; False where its own processes took too long."""
    try:
        stack.enter_context(module._started(ray, module.Cluster(workers=2)))
    except EngineError as error:
        if "timed out during startup" not in str(error):
            raise
        return False
    return True


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Ray leaves its processes' pipes to the garbage collector, which would warn in whatever test comes later."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            gc.collect()


@pytest.fixture
def archive(capfd: pytest.CaptureFixture[str], toy_bundle: Bundle, cluster: str) -> Run:
    def command(*arguments: object) -> tuple[int, str, str]:
        fixed = ("--bundle", toy_bundle.path, "--backend", "cpu")
        status = cli.main([str(argument) for argument in ("archive", *arguments, *fixed)])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return command


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    """Rows by file; none may be there twice."""
    rows = pq.read_table(out).to_pylist()
    assert len({(row["file"], row["index"]) for row in rows}) == len(rows)
    return {row["file"]: row for row in rows}


def assert_equal(row: dict[str, Any], caption: Caption) -> None:
    assert row["error"] is None
    assert row["caption"] == caption.text
    assert row["score"] == pytest.approx(caption.score, abs=1e-5)
    assert row["log_prob"] == pytest.approx(caption.log_prob, abs=1e-5)
    assert row["truncated"] == caption.truncated


def test_captions_are_those_of_the_captioner(
    tmp_path: Path,
    archive: Run,
    toy_bundle: Bundle,
    photo: Photo,
    write_tar: WriteTar,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    for index in range(5):
        (photos / "sub" / f"{index}.png").write_bytes(photo(index))
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (photos / "text.png").write_text("no image")
    (photos / os.fsdecode(b"\xe9.png")).write_bytes(photo(9))
    members = [(f"{index}.png", photo(index)) for index in range(5)]
    write_tar(photos / "s.tar", [*members, ("bad.png", photo(0)[:40]), ("0.png", photo(7))])
    broken = write_tar(photos / "t.tar", members)
    broken.write_bytes(broken.read_bytes()[: [image.offset for _, image in shard_images(broken)][3] + 100])

    out = tmp_path / "captions.parquet"
    status, said, errors = archive(photos, "--out", out, "--batch", 2, "--nbest", 2)
    assert status == 1
    found = pq.read_table(out).to_pylist()
    failed = {row["file"]: row["error"] for row in found if row["error"] is not None}
    assert set(failed) == {"bad.jpg", "text.png", "s.tar/bad.png", "t.tar"}, failed
    assert all(problem.startswith(f"{photos / name}: ") for name, problem in failed.items())
    assert all(problem in errors for problem in failed.values())
    assert said == f"{len(found) - 1} images captioned into {out}, 4 of all failed\n"

    with Captioner.load(toy_bundle.path, "cpu", threads=1) as captioner:
        expected = [captioner.caption(str(photos / "sub" / f"{index}.png"), nbest=2) for index in range(5)]
    by_name = {(row["file"], row["index"]): row for row in found}
    for index, caption in enumerate(expected):
        for key in ((f"sub/{index}.png", None), (f"s.tar/{index}.png", index), (f"t.tar/{index}.png", index)):
            if key in by_name:  # of the broken shard those before the damage
                assert_equal(by_name[key], caption)
                assert [item["caption"] for item in by_name[key]["nbest"]] == [item.text for item in caption.hypotheses]
                assert (by_name[key]["width"], by_name[key]["height"]) == (24, 16 + index % 7)
    assert [row["index"] for row in found if row["shard"] == "t.tar" and row["error"] is None] == [0, 1, 2]
    # A name that is there twice in a shard is two images.
    assert {row["index"] for row in found if row["file"] == "s.tar/0.png"} == {0, 6}
    assert by_name["\\udce9.png", None]["caption"]

    monkeypatch.setattr(module, "_SHARDS_HERE", 0)  # Ray reads the headers
    status, said, errors = archive(photos, "--out", out, "--batch", 4, "--nbest", 2)
    assert said.startswith(f"0 images captioned into {out} ({len(found) - 1} were done before)")
    assert len(pq.read_table(out)) == len(found)


def test_a_guided_search_is_that_of_the_captioner_and_goes_on_as_it_was_begun(
    tmp_path: Path, archive: Run, toy_bundle: Bundle, photo: Photo
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(4):
        (photos / f"{index}.png").write_bytes(photo(index))
    guided = ("--sample", "--temperature", 2, "--seed", 5, "--no-repeat", 2, "--contain", "word4")
    out = tmp_path / "captions.parquet"
    assert "sample and contain do not go together" in archive(photos, "--out", out, *guided)[2]
    assert not out.exists()

    for chosen, wanted in (
        (guided[:-2], {"sample": True, "temperature": 2.0, "seed": 5, "no_repeat": 2}),
        (guided[-4:], {"no_repeat": 2, "contain": ("word4",)}),
    ):
        out = tmp_path / f"{len(chosen)}.parquet"
        status, _, errors = archive(photos, "--out", out, *chosen)
        assert status == 0, errors
        with Captioner.load(toy_bundle.path, "cpu", threads=1) as captioner:
            for name, row in rows_of(out).items():
                assert_equal(row, captioner.caption(str(photos / name), **wanted))  # type: ignore[arg-type]
        (photos / "4.png").write_bytes(photo(4))
        assert archive(photos, "--out", out, *chosen)[0] == 0  # what is new
        status, _, errors = archive(photos, "--out", out)
        assert status == 2
        assert "was begun with " in errors
        assert "no_repeat 2 (now null)" in errors


def test_what_is_new_is_added_and_what_failed_tried_again_when_asked(
    tmp_path: Path, archive: Run, photo: Photo
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(photo(0))
    (photos / "b.png").touch()
    out = tmp_path / "captions.parquet"
    assert archive(photos, "--out", out)[0] == 1
    for name in ("b.png", "c.png"):
        (photos / name).write_bytes(photo(1))
    assert archive(photos, "--out", out)[0] == 1
    assert {name: row["error"] is None for name, row in rows_of(out).items()} == {
        "a.png": True, "b.png": False, "c.png": True
    }  # fmt: skip
    status, said, _ = archive(photos, "--out", out, "--retry-failed")
    assert (status, said) == (0, f"1 images captioned into {out} (2 were done before)\n")
    assert rows_of(out)["b.png"]["caption"] == rows_of(out)["c.png"]["caption"]

    status, _, errors = archive(photos, "--out", out, "--beams", 5)
    assert status == 2
    assert "was begun with beams 3 (now 5); go on as it was begun, or name another" in errors
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_bytes(photo(3))
    assert "was begun with input" in archive(tmp_path / "other", "--out", out)[2]


def test_an_image_that_ends_its_process_is_a_row_too(tmp_path: Path, archive: Run, photo: Photo) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(8):
        (photos / f"{index:02}.png").write_bytes(photo(index))
    (photos / "killer.png").write_bytes(photo(0))
    out = tmp_path / "captions.parquet"
    status, _, errors = archive(photos, "--out", out, "--workers", 1)
    assert status == 1
    rows = rows_of(out)
    assert len(rows) == 9
    assert [name for name, row in rows.items() if row["error"]] == ["killer.png"]
    assert rows["killer.png"]["error"] == f"{photos}/killer.png: ended the worker process that read it, 2 times"
    assert rows["killer.png"]["error"] in errors


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--ban", "zebra"], "ban has 'zebra', which is not a word of this model"),
        (["--backend", "tensorrt"], "backend tensorrt cannot be used"),
        (["--beams", "0"], "beams is 0; expected 1 to 64"),
        (["--workers", "0"], "workers is 0; expected 1"),
        (["--batch", "0"], "batch is 0; expected 1"),
        (["--precision", "int3"], "precision is 'int3'; bundle"),
        (["--bundle", "nowhere"], "nowhere: no such bundle folder"),
    ],
)
def test_what_has_no_meaning_is_one_line(
    tmp_path: Path, cluster: str, capfd: pytest.CaptureFixture[str], photo: Photo, arguments: list[str], expected: str
) -> None:
    (tmp_path / "a.png").write_bytes(photo(0))
    out = tmp_path / "captions.parquet"
    assert cli.main(["archive", str(tmp_path), "--out", str(out), *arguments]) == 2
    errors = capfd.readouterr().err
    assert expected in errors
    assert errors.count("\n") == 1
    assert not out.exists()


def test_an_address_where_nobody_answers_is_one_line_at_once(
    tmp_path: Path, toy_bundle: Bundle, capfd: pytest.CaptureFixture[str], photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(photo(0))
    out = tmp_path / "captions.parquet"
    ray = module._import_ray()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray would try for minutes"))
    for address, why in (("127.0.0.1:1", "Connection refused"), ("127.0.0.1:port", "invalid literal")):
        arguments = ["--bundle", str(toy_bundle.path), "--address", address]
        assert cli.main(["archive", str(tmp_path), "--out", str(out), *arguments]) == 2
        errors = capfd.readouterr().err
        assert f"camscribe: no Ray cluster answers at {address} (" in errors
        assert why in errors
        assert errors.count("\n") == 1
        assert not out.exists()


def test_after_kills_every_image_is_there_once(
    tmp_path: Path, archive: Run, toy_bundle: Bundle, cluster: str, photo: Photo
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(600):
        (photos / f"{index:03}.png").write_bytes(photo(index))
    out = tmp_path / "captions.parquet"
    journal = out / "_journal.jsonl"
    arguments = ["archive", photos, "--out", out, "--batch", 1, "--bundle", toy_bundle.path, "--backend", "cpu"]

    def stopped_by(how: signal.Signals) -> tuple[int, str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "camscribe.runtime.cli", *map(str, arguments)],
            env={**os.environ, "RAY_ADDRESS": cluster}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        before = journal.read_bytes().count(b"\n") if journal.exists() else 1  # the header's line
        until = time.monotonic() + 300
        while not (journal.exists() and journal.read_bytes().count(b"\n") > before):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(how)
        _, errors = process.communicate(timeout=120)
        return process.returncode, errors

    assert stopped_by(signal.SIGKILL)[0] == -signal.SIGKILL
    assert journal.exists()
    status, errors = stopped_by(signal.SIGINT)
    assert (status, errors.splitlines()[-1]) == (130, "camscribe: interrupted")
    assert 0 < len(pq.read_table(out)) < 600
    assert not journal.exists()

    status, said, _ = archive(photos, "--out", out, "--batch", 1)
    assert status == 0
    assert "were done before" in said
    assert sorted(rows_of(out)) == [f"{index:03}.png" for index in range(600)]
