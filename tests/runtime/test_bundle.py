"""A bundle is read with every check and written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from camscribe.runtime import bundle as bundle_module
from camscribe.runtime import typed_json
from camscribe.runtime.bundle import Bundle, encode_png, write_bundle
from camscribe.runtime.errors import BundleError, OptionError
from camscribe.runtime.manifest import Manifest, read_manifest


@pytest.fixture
def folder(toy_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle of its own, to be damaged."""
    return Path(shutil.copytree(toy_bundle.path, tmp_path / "bundle"))


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "bundle.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as error:
        Bundle.load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_written_bundle_reads_back(toy_bundle: Bundle) -> None:
    assert toy_bundle.manifest.name == "toy"
    assert toy_bundle.vocabulary.tokens[4] == "word4"
    assert set(toy_bundle.manifest.files) == {"vocab.txt", "encoder.onnx", "decoder.onnx"}
    assert toy_bundle.graph("float32", "decoder").is_file()
    text = json.dumps(typed_json.encode(toy_bundle.manifest))
    assert read_manifest(text) == toy_bundle.manifest


def test_parity_images_survive_exactly(toy_bundle: Bundle, toy: object) -> None:
    np.testing.assert_array_equal(np.stack(toy_bundle.parity_images()), toy.images(8, seed=99))  # type: ignore[attr-defined]


def test_everything_wrong_is_in_one_error(folder: Path) -> None:
    (folder / "encoder.onnx").unlink()
    data = bytearray((folder / "decoder.onnx").read_bytes())
    data[100] ^= 1
    (folder / "decoder.onnx").write_bytes(data)
    with (folder / "vocab.txt").open("a") as file:
        file.write("another\n")
    message = refusal(folder)
    for part in (
        str(folder),
        "encoder.onnx is missing",
        "decoder.onnx is altered",
        "vocab.txt has",
        "vocab.txt has 13 tokens; expected 12",
    ):
        assert part in message


def test_a_missing_vocabulary_is_said_once(make_toy: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_toy(tmp_path / "b")
    (folder / "vocab.txt").unlink()
    assert refusal(folder) == f"{folder}: vocab.txt is missing: fetch or export the bundle again"


def test_only_the_files_that_will_be_opened_are_hashed(make_toy: Callable[..., Path], tmp_path: Path) -> None:
    def two(manifest: Manifest) -> Manifest:
        pair = manifest.precisions["float32"]
        other = dataclasses.replace(pair, encoder=dataclasses.replace(pair.encoder, file="other.onnx"))
        return dataclasses.replace(manifest, precisions={"float32": pair, "int8": other}, cpu_precision="int8")

    with write_bundle(tmp_path / "b") as draft:
        source = make_toy(tmp_path / "source")
        for name in ("encoder.onnx", "decoder.onnx"):
            shutil.copy(source / name, draft.folder)
        shutil.copy(source / "encoder.onnx", draft.folder / "other.onnx")
        loaded = Bundle.load(source)
        draft.finish(two(loaded.manifest), loaded.vocabulary)
    data = bytearray((tmp_path / "b" / "other.onnx").read_bytes())
    data[100] ^= 1
    (tmp_path / "b" / "other.onnx").write_bytes(data)
    Bundle.load(tmp_path / "b", device="cuda")
    Bundle.load(tmp_path / "b", device="cpu", precision="float32")
    for arguments in ({}, {"device": "cpu"}):
        with pytest.raises(BundleError, match=r"other\.onnx is altered"):
            Bundle.load(tmp_path / "b", **arguments)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="has float32, int8"):
        Bundle.load(tmp_path / "b", device="cpu", precision="fp16")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m.update(schema=2), "schema 2; this release reads schema 1: upgrade"),
        (lambda m: m.update(schema=0), "schema 0; this release reads schema 1: export"),
        (lambda m: m.update(schema="1"), "no schema version"),
        (lambda m: m.update(schema=True), "no schema version"),
        (lambda m: m.pop("kind"), "manifest.kind is missing"),
        (lambda m: m.update(kind="detector"), "manifest.kind is 'detector'; expected 'captioner'"),
        (lambda m: m.update(extra=1), "manifest.extra is unknown"),
        (lambda m: m["search"].update(beams=0), "manifest.search: beams is 0"),
        (lambda m: m["search"].update(beams="3"), "manifest.search.beams is '3'; expected an integer"),
        (lambda m: m["search"].update(ban=["zebra"]), "search.ban has words that vocab.txt lacks: zebra"),
        (lambda m: m["pixels"].update(fit="pad"), "manifest.pixels.fit is 'pad'"),
        (lambda m: m.update(cpu_precision="int8"), "cpu_precision is 'int8'"),
        (lambda m: m["special_tokens"].update(end=0), "special_tokens"),
        (lambda m: m["special_tokens"].update(end=3, unknown=2), "has the special tokens at"),
        (lambda m: m.update(attention_grid=[2, 3]), "decoder has output attention float32[B,K,4]; expected"),
        (lambda m: m["files"].pop("decoder.onnx"), "files lacks decoder.onnx"),
        (lambda m: m["files"].update({"../x": m["files"]["vocab.txt"]}), "expected a plain file name"),
        (lambda m: m["files"]["vocab.txt"].update(sha256="0" * 64), "vocab.txt is altered"),
        (lambda m: m.update(vocabulary_size=13), "decoder has input bias float32[12]; expected bias float32[13]"),
        (lambda m: m["precisions"]["float32"]["decoder"]["inputs"].pop(0), "decoder has no input token"),
        (
            lambda m: m["precisions"]["float32"]["decoder"]["outputs"][0].update(dtype="float32"),
            "decoder has output next_token float32[B,K]; expected next_token int32[B,K]",
        ),
        (
            lambda m: m["precisions"]["float32"]["encoder"]["outputs"].append(
                {"name": "logits", "dtype": "float32", "shape": ["B"]}
            ),
            "encoder has output logits float32[B]; expected memory.*, state.* or boxes",
        ),
        (lambda m: m["parity"].update(tokens={"float32": [[1]]}), "do not fit"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(folder: Path, change: Callable[[dict], object], expected: str) -> None:
    edit(folder, change)
    assert expected in refusal(folder)


def test_a_bundle_may_say_where_its_positions_lie(boxes_bundle: Bundle, toy_bundle: Bundle) -> None:
    assert boxes_bundle.manifest.has_boxes
    assert boxes_bundle.manifest.attention_grid == (1, 5)
    assert not toy_bundle.manifest.has_boxes


def _outputs(manifest: dict) -> list[dict]:
    return manifest["precisions"]["float32"]["encoder"]["outputs"]


def _boxes(manifest: dict) -> dict:
    return next(spec for spec in _outputs(manifest) if spec["name"] == "boxes")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: _boxes(m).update(dtype="float16"), "has output boxes float16[B,5,4]; expected boxes float32[B,5,4]"),
        (lambda m: _boxes(m).update(dtype="int32"), "has output boxes int32[B,5,4]; expected boxes float32[B,5,4]"),
        (lambda m: _boxes(m).update(shape=["B", 4, 4]), "has output boxes float32[B,4,4]; expected"),
        (lambda m: _boxes(m).update(shape=["B", 5]), "has output boxes float32[B,5]; expected"),
        (lambda m: _boxes(m).update(shape=[1, 5, 4]), "has output boxes float32[1,5,4]; expected"),
        (lambda m: _boxes(m).update(shape=["B", "N", 4]), "has output boxes float32[B,N,4]; expected"),
        (
            lambda m: _boxes(m).update(name="box"),
            "encoder has output box float32[B,5,4]; expected memory.*, state.* or",
        ),
        (lambda m: m.update(attention_grid=[5, 1]), "attention_grid is (5, 1); expected one row, as the encoder gives"),
    ],
)
def test_boxes_that_cannot_be_are_refused(
    boxes_bundle: Bundle, tmp_path: Path, change: Callable[[dict], object], expected: str
) -> None:
    folder = Path(shutil.copytree(boxes_bundle.path, tmp_path / "bundle"))
    edit(folder, change)
    assert expected in refusal(folder)


def test_boxes_may_have_a_named_number_and_stand_anywhere(boxes_bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(boxes_bundle.path, tmp_path / "bundle"))
    edit(folder, lambda m: _boxes(m).update(shape=["B", "P", 4]))
    edit(folder, lambda m: _outputs(m).reverse())
    assert Bundle.load(folder).manifest.has_boxes


def test_precisions_must_agree_on_boxes(boxes_bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(boxes_bundle.path, tmp_path / "bundle"))

    def change(manifest: dict) -> None:
        manifest["precisions"]["int8"] = json.loads(json.dumps(manifest["precisions"]["float32"]))
        _outputs(manifest)[:] = [spec for spec in _outputs(manifest) if spec["name"] != "boxes"]

    edit(folder, change)
    assert "precision int8 and float32: only one has an output boxes" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not valid JSON"),
        (b"[]", "no schema version"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"schema": NaN}', "not valid JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b"1" * 5000, "bundle.json"),
    ],
)
def test_a_manifest_that_is_no_manifest_is_refused(folder: Path, content: bytes, expected: str) -> None:
    (folder / "bundle.json").write_bytes(content)
    assert expected in refusal(folder)


def test_a_place_without_a_bundle_is_said(tmp_path: Path) -> None:
    assert "no such bundle folder" in refusal(tmp_path / "none")
    assert "it has no bundle.json" in refusal(tmp_path)
    (tmp_path / "file").touch()
    assert "no such bundle folder" in refusal(tmp_path / "file")


def test_a_missing_default_bundle_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "DEFAULT_BUNDLE", tmp_path / "default")
    with pytest.raises(BundleError, match="--bundle"):
        Bundle.load()


def test_a_file_that_became_a_folder_is_refused(folder: Path) -> None:
    (folder / "encoder.onnx").unlink()
    (folder / "encoder.onnx").mkdir()
    assert "encoder.onnx is not a file" in refusal(folder)


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_fuzzed_manifests_are_read_or_refused(toy_bundle: Bundle, data: st.DataObject) -> None:
    value = json.loads((toy_bundle.path / "bundle.json").read_text())
    wild = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
        st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    )  # fmt: skip
    for _ in range(data.draw(st.integers(1, 3))):
        place = value
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and data.draw(st.integers(0, 5)):
                place = place[key]
                continue
            if data.draw(st.booleans()):
                place[key] = data.draw(wild)
            else:
                del place[key]
            break
    try:
        read_manifest(json.dumps(value))
    except BundleError as error:
        assert "\n" not in str(error)  # noqa: PT017 - a change may well be harmless


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    name=st.sampled_from(["bundle.json", "vocab.txt", "encoder.onnx"]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    keep=st.floats(0.2, 1.2),
)
def test_fuzzed_files_are_read_or_refused(
    toy_bundle: Bundle,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    changes: list[tuple[float, int]],
    keep: float,
) -> None:
    folder = tmp_path_factory.mktemp("fuzz") / "bundle"
    shutil.copytree(toy_bundle.path, folder)
    original = (folder / name).read_bytes()
    content = bytearray(original)
    for place, value in changes:
        content[int(place * len(content))] = value
    del content[int(keep * len(content)) :]
    (folder / name).write_bytes(content)
    try:
        Bundle.load(folder)
        assert name == "bundle.json" or content == original
    except BundleError as error:
        assert "\n" not in str(error)  # noqa: PT017
    finally:
        shutil.rmtree(folder)


def copy_draft(source: Bundle, target: Path, graphs: tuple[str, ...] = ("encoder.onnx", "decoder.onnx")) -> None:
    with write_bundle(target) as draft:
        for name in graphs:
            shutil.copy(source.path / name, draft.folder)
        draft.finish(source.manifest, source.vocabulary)


def test_an_unfinished_or_failing_draft_leaves_nothing(toy_bundle: Bundle, tmp_path: Path) -> None:
    with write_bundle(tmp_path / "b") as draft:
        (draft.folder / "encoder.onnx").touch()
    with pytest.raises(ZeroDivisionError), write_bundle(tmp_path / "b"):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_a_draft_that_a_reader_would_refuse_is_not_published(toy_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"files lacks decoder\.onnx"):
        copy_draft(toy_bundle, tmp_path / "b", graphs=("encoder.onnx",))
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_replaced_only_by_a_complete_one(toy_bundle: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "b"
    copy_draft(toy_bundle, target)
    (target / "engine.cache").touch()
    with write_bundle(target) as draft:
        (draft.folder / "encoder.onnx").touch()
        Bundle.load(target)
    Bundle.load(target)
    assert (target / "engine.cache").exists()
    copy_draft(toy_bundle, target)
    Bundle.load(target)
    assert not (target / "engine.cache").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(BundleError, match="is not a bundle"), write_bundle(tmp_path / "photos"):
        pass
    assert (tmp_path / "photos" / "a.jpg").exists()


def test_an_impossible_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="cannot be written"), write_bundle(tmp_path / "file" / "b"):
        pass


_WRITER = """
import resource, shutil, sys
from pathlib import Path
from camscribe.runtime.bundle import Bundle, write_bundle
from camscribe.runtime.errors import BundleError
source = Bundle.load(Path(sys.argv[1]))
try:
    with write_bundle(Path(sys.argv[2])) as draft:
        shutil.copy(source.path / "encoder.onnx", draft.folder)
        if sys.argv[3] == "kill":
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
        # The smallest disk there is: no file may grow beyond 1000 bytes.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        shutil.copyfileobj((source.path / "decoder.onnx").open("rb"), (draft.folder / "decoder.onnx").open("wb"))
        draft.finish(source.manifest, source.vocabulary)
except BundleError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("end", ["full", "kill"])
def test_a_full_disk_or_a_kill_leaves_the_old_bundle_whole(toy_bundle: Bundle, tmp_path: Path, end: str) -> None:
    target = tmp_path / "b"
    copy_draft(toy_bundle, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    done = subprocess.run(
        [sys.executable, "-c", _WRITER, str(toy_bundle.path), str(target), end],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    if end == "full":
        assert done.returncode == 2, done.stderr
        assert "cannot be written" in done.stdout
        assert [path.name for path in tmp_path.iterdir()] == ["b"]
    else:
        assert done.returncode == -9
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    Bundle.load(target)


def test_png_of_a_parity_image_is_small_and_exact() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    assert len(encode_png(image)) < 400
