"""The command line: exit statuses, one line for an error, the rest of a batch done."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image

from camscribe.runtime import cli
from camscribe.runtime.bundle import Bundle
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.manifest import Manifest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: object) -> tuple[int, str, str]:
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.fixture
def photos(tmp_path: Path, toy: Any) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, image in enumerate(toy.images(5)):
        Image.fromarray(image).resize((90, 60)).save(folder / f"p{index}.png")
    return folder


@pytest.fixture
def caption(run: Run, toy_bundle: Bundle) -> Run:
    def command(*arguments: object) -> tuple[int, str, str]:
        return run("caption", "--bundle", toy_bundle.path, "--threads", 1, "--backend", "cpu", *arguments)

    return command


def one_line(text: str) -> str:
    assert text.startswith("camscribe: ")
    assert text.count("\n") == 1
    return text


def test_help_and_version(run: Run) -> None:
    for arguments in ((), ("--help",), ("help",)):
        status, out, _ = run(*arguments)
        assert status == 0
        assert all(name in out for name in cli.COMMANDS)
    assert run("--version")[1].startswith("camscribe ")
    for name in ("caption", "info"):
        with pytest.raises(SystemExit) as end:
            cli.main([name, "--help"])
        assert end.value.code == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["captoin"], "did you mean caption?"),
        (["fly"], "expected caption, stream, archive"),
        (["--verbose"], "'--verbose' is not a command"),
        (["caption"], "required: IMAGE; see camscribe caption --help"),
        (["caption", "a.jpg", "--beams", "many"], "invalid int value: 'many'"),
        (["caption", "a.jpg", "--bundle", "none"], "none: no such bundle folder"),
        (["caption", "a.jpg", "--attention"], "--attention needs --json"),
        (["caption", "a.jpg", "--batch", "0"], "batch is 0; expected 1 to 1024"),
        (["caption", "a.jpg", "--backend", "tensorrt", "--threads", "0"], "threads is 0"),
        (["info", "none"], "none: no such bundle folder"),
        (["caption", "a.jpg", "--bundle", "two\nlines\x1b[1m"], r"two\nlines\x1b[1m: no such bundle folder"),
        (["caption", "a.jpg", "--out", ""], "argument --out: an empty name is no folder"),
        (["enhance", "a.jpg", "--out", ""], "argument --out: an empty name is no folder"),
        (["caption", "a.jpg", "--stop", "soon"], "argument --stop: invalid choice: 'soon'"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(run: Run, arguments: list[str], expected: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert expected in one_line(err)


def test_a_folder_is_captioned_in_aligned_lines(caption: Run, photos: Path) -> None:
    status, out, err = caption(photos)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["file", "caption", "score", "ms"]
    assert [Path(line.split()[0]).name for line in lines[1:]] == [f"p{index}.png" for index in range(5)]
    assert len({len(line.rsplit(None, 1)[0]) for line in lines}) == 1
    assert len({len(line) for line in lines}) == 1


def test_verbose_says_where_the_time_went(caption: Run, photos: Path) -> None:
    _, _, plain = caption(photos, "--verbose")
    assert "a caption took " in plain
    assert "in the mean of 5: read " in plain
    assert "on the host" not in plain
    assert "; of decode, selecting on the host took " in caption(photos, "--verbose", "--no-repeat", 3)[2]


def test_json_lines_hold_everything(caption: Run, photos: Path, toy_bundle: Bundle, tmp_path: Path) -> None:
    status, out, _ = caption(photos, "--json", "--attention", "--nbest", 2, "--out", tmp_path / "out", "--batch", 2)
    assert status == 0
    entries = [json.loads(line) for line in out.splitlines()]
    with Captioner.load(toy_bundle.path, threads=1) as captioner:
        expected = [captioner.caption(photos / f"p{index}.png", nbest=2) for index in range(5)]
    for entry, wanted in zip(entries, expected, strict=True):
        assert entry["caption"] == wanted.text
        assert entry["words"] == list(wanted.words)
        assert entry["log_prob"] == pytest.approx(wanted.log_prob, rel=1e-5)
        assert [item["caption"] for item in entry["hypotheses"]] == [item.text for item in wanted.hypotheses]
        np.testing.assert_allclose(np.array(entry["attention"]).reshape(-1, 2, 2), wanted.attention, atol=1e-4)
        assert set(entry["timings_ms"]) == {"read", "enhance", "reduce", "encode", "decode", "select", "words", "total"}
        assert (entry["backend"], entry["precision"], entry["bundle"]) == ("cpu", "float32", "toy")
        with Image.open(entry["picture"]) as picture:
            assert picture.width == 800


def test_bad_images_are_named_and_the_rest_is_done(caption: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "p1.jpg").write_bytes(b"no image")
    (photos / "p3.jpg").touch()
    out_folder = tmp_path / "out"
    status, out, err = caption(photos, tmp_path / "none.png", tmp_path / "empty*", "--out", out_folder, "--batch", 3)
    assert status == 1
    assert len(out.splitlines()) == 1 + 5
    assert [line.split(": ")[0] for line in err.splitlines()] == ["camscribe"] * 4
    for name in ("empty*", "p1.jpg", "p3.jpg", "none.png"):
        assert sum(name in line for line in err.splitlines()) == 1
    assert len(list(out_folder.iterdir())) == 5
    status, out, _ = caption(photos, "--json")
    assert status == 1
    assert sum("error" in json.loads(line) for line in out.splitlines()) == 2


def test_control_characters_in_names_do_not_reach_the_terminal(caption: Run, photos: Path) -> None:
    (photos / "p0.png").rename(photos / "two\nlines\x1b[1m.png")
    (photos / "p1.png").rename(photos / "p1.png.txt")
    status, out, err = caption(photos, photos / "no\nsuch.jpg")
    assert status == 1
    assert len(out.splitlines()) == 5
    assert r"two\nlines\x1b[1m.png" in out
    assert r"no\nsuch.jpg: no such file" in one_line(err)


def test_nothing_to_do_is_a_failure(caption: Run, tmp_path: Path) -> None:
    status, out, err = caption(tmp_path)
    assert (status, out) == (1, "")
    assert "holds no image files" in one_line(err)


def test_options_reach_the_search(caption: Run, photos: Path) -> None:
    status, out, _ = caption(photos / "p0.png", "--json", "--min-words", 4, "--max-words", 5)
    words = json.loads(out)["words"]
    assert 4 <= len(words) <= 5
    banned = words[0]
    status, out, _ = caption(photos / "p0.png", "--json", "--ban", banned, "--ban", "word7", "--min-words", 4)
    assert status == 0
    assert not {banned, "word7"} & set(json.loads(out)["words"])
    status, out, err = caption(photos / "p0.png", "--ban", "wrd7")
    assert (status, out) == (2, "")
    assert "did you mean 'word7'" in one_line(err)


def test_a_negative_length_penalty_needs_a_stop_rule(caption: Run, photos: Path) -> None:
    status, _, err = caption(photos, "--length-penalty", -1)
    assert status == 2
    assert "use stop 'first_k'" in one_line(err)
    assert caption(photos, "--length-penalty", -1, "--stop", "first_k")[0] == 0


def test_pictures_of_equal_names_do_not_overwrite_each_other(caption: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    Image.open(photos / "p0.png").save(tmp_path / "other" / "p0.JPG")
    status, _, _ = caption(photos / "p0.png", tmp_path / "other", "--out", photos)
    assert status == 0
    names = sorted(path.name for path in photos.iterdir())
    assert names == ["p0-2.caption.jpg", "p0.caption.jpg", "p0.png", "p1.png", "p2.png", "p3.png", "p4.png"]


def test_an_unwritable_out_is_one_line_before_any_work(caption: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, out, err = caption(photos, "--out", tmp_path / "file" / "out")
    assert (status, out) == (2, "")
    assert "--out" in one_line(err)
    status, out, err = caption(photos, "--out", tmp_path / "file")
    assert (status, out) == (2, "")


def test_verbose_says_which_backend_and_why(run: Run, toy_bundle: Bundle, photos: Path) -> None:
    status, _, err = run("caption", "--bundle", toy_bundle.path, "--threads", 1, "--verbose", photos)
    assert status == 0
    assert "backend tensorrt: " in err
    assert "taken" in err


def test_info_shows_the_bundle(run: Run, toy_bundle: Bundle) -> None:
    status, out, _ = run("info", toy_bundle.path)
    assert status == 0
    for part in (
        "toy: captioner, schema 1",
        "16 x 16 pixels (squash",
        "12 tokens",
        "float32 (on a CPU: float32)",
        "CIDEr",
    ):
        assert part in out
    status, out, _ = run("info", toy_bundle.path, "--json")
    manifest = json.loads(out)
    assert manifest["parity"]["images"] == 8
    assert manifest["search"]["beams"] == 3


def test_info_refuses_an_altered_bundle(run: Run, make_toy: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_toy(tmp_path / "b")
    data = bytearray((folder / "decoder.onnx").read_bytes())
    data[-1] ^= 1
    (folder / "decoder.onnx").write_bytes(data)
    status, _, err = run("info", folder)
    assert status == 2
    assert "decoder.onnx is altered" in one_line(err)


def test_info_check_compares_the_words_of_the_parity_images(
    run: Run, make_toy: Callable[..., Path], toy_bundle: Bundle, tmp_path: Path
) -> None:
    with Captioner.load(toy_bundle.path, threads=1) as captioner:
        captions = captioner.caption(list(toy_bundle.parity_images()), color="rgb")
        tokens = [tuple(captioner.bundle.vocabulary.encode(caption.words)) for caption in captions]

    def expecting(tokens: list[tuple[int, ...]]) -> Callable[[Manifest], Manifest]:
        def change(manifest: Manifest) -> Manifest:
            parity = dataclasses.replace(manifest.parity, tokens={"float32": tuple(tokens)})
            return dataclasses.replace(manifest, parity=parity)

        return change

    good = make_toy(tmp_path / "good", change=expecting(tokens))
    status, out, _ = run("info", good, "--check", "--threads", 1)
    assert status == 0
    assert "float32 on cpu: 8 of 8 captions as expected" in out
    bad = make_toy(tmp_path / "bad", change=expecting([(*tokens[0], 5), *tokens[1:]]))
    status, out, _ = run("info", bad, "--check", "--threads", 1)
    assert status == 1
    assert "7 of 8" in out
    status, out, _ = run("info", bad, "--check", "--json", "--threads", 1)
    assert json.loads(out)["checks"][0]["differences"][0]["image"] == 0
    status, _, err = run("info", toy_bundle.path, "--check")
    assert status == 2
    assert "no expected words" in one_line(err)


def process(*arguments: object, code: str = "", **options: Any) -> subprocess.Popen[str]:
    program = f"{code}\nimport sys; from camscribe.runtime.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


_BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {0!r}:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize(
    ("arguments", "module", "extra"),
    [
        (["train", "a.toml"], "torch", "camscribe[train]"),
        (["caption"], "onnxruntime", "camscribe[cpu]"),
        (["caption"], "cv2", "camscribe[cpu]"),
    ],
)
def test_a_missing_extra_is_one_line_that_says_what_to_install(
    toy_bundle: Bundle, photos: Path, arguments: list[str], module: str, extra: str
) -> None:
    if arguments == ["caption"]:
        arguments = ["caption", "--bundle", str(toy_bundle.path), str(photos)]
    done = process(*arguments, code=_BLOCK.format(module))
    out, err = done.communicate()
    assert done.returncode == 2, err
    assert out == ""
    assert f'pip install "{extra}"' in one_line(err)


def test_a_bug_keeps_its_traceback_and_exits_1(toy_bundle: Bundle, photos: Path) -> None:
    code = "import camscribe.runtime.executor as executor; executor.hypotheses = None"
    done = process("caption", "--bundle", toy_bundle.path, photos, "--threads", 1, code=code)
    _, err = done.communicate()
    assert done.returncode == 1
    assert "Traceback" in err


def test_a_closed_pipe_is_quiet(toy_bundle: Bundle, photos: Path) -> None:
    done = process("caption", "--bundle", toy_bundle.path, *[photos] * 40, "--batch", 1, "--threads", 1)
    assert done.stdout is not None
    assert done.stdout.readline().startswith("file")
    done.stdout.close()
    assert done.wait() == 141
    assert done.stderr is not None
    assert done.stderr.read() == ""
    done.stderr.close()


def captioned_into(out: IO[str], bundle: Bundle, photos: Path, first: str = "pass") -> str:
    """What ``camscribe caption`` says on standard error where it cannot write all of its output, one line."""
    program = f"{first}; import sys; from camscribe.runtime.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "caption", "--bundle", bundle.path, photos, "--threads", "1"],
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    return one_line(done.stderr)


def test_a_full_disk_under_the_output_is_one_line(toy_bundle: Bundle, photos: Path) -> None:
    with Path("/dev/full").open("w") as full:
        assert "No space left on device" in captioned_into(full, toy_bundle, photos)


def test_a_limit_of_file_sizes_under_the_output_is_one_line(toy_bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))"
    with (tmp_path / "out").open("w") as out:
        said = captioned_into(out, toy_bundle, photos, limit)
    assert said == "camscribe: output: cannot be written (File too large)\n"


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_not_stop_the_work(
    toy_bundle: Bundle, photos: Path, tmp_path: Path, closed: str
) -> None:
    program = "import sys; from camscribe.runtime.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "caption", "--bundle", toy_bundle.path, photos, "--threads", "1"]
    command += ["--out", tmp_path / "o"]
    done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == (6 if closed == "2>&-" else 0)
    assert len(list((tmp_path / "o").iterdir())) == 5


def test_a_full_disk_under_the_pictures_leaves_none_half_written(
    toy_bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    done = process("caption", "--bundle", toy_bundle.path, photos, "--threads", 1, "--out", tmp_path / "o", code=limit)
    out, err = done.communicate()
    assert done.returncode == 1
    assert len(err.splitlines()) == 5
    assert all("cannot be written (File too large)" in line for line in err.splitlines())
    assert list((tmp_path / "o").iterdir()) == []
    assert len(out.splitlines()) == 1


def test_ctrl_c_ends_with_130_and_no_traceback(toy_bundle: Bundle, photos: Path) -> None:
    done = process("caption", "--bundle", toy_bundle.path, *[photos] * 2000, "--batch", 1, "--threads", 1)
    assert done.stdout is not None
    assert done.stderr is not None
    assert done.stdout.readline().startswith("file")
    done.send_signal(signal.SIGINT)
    _, err = done.communicate()
    assert done.returncode == 130
    assert one_line(err) == "camscribe: interrupted\n"


def test_a_progress_bar_shows_on_a_terminal_only(toy_bundle: Bundle, photos: Path) -> None:
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "camscribe.runtime.cli", "caption", "--bundle", str(toy_bundle.path)]
    command += [str(photos)] * 4000 + ["--threads", "1"]
    seen = b""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal) as done:
        os.close(terminal)
        end = time.monotonic() + 60
        while b"/20000" not in seen and time.monotonic() < end and done.poll() is None:
            seen += os.read(main, 4096)
        done.terminate()
    os.close(main)
    assert "captioned █".encode() in seen or "captioned ░".encode() in seen
    piped = process("caption", "--bundle", toy_bundle.path, photos, "--threads", 1)
    assert piped.communicate()[1] == ""


def test_the_peak_memory_of_a_large_photograph_stays_below_300_mb(toy_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.new("RGB", (6000, 4000), (10, 200, 30)).save(path, quality=50)
    code = (
        "import atexit, sys\n"
        "from pathlib import Path\n"
        # Not getrusage's, which a process inherits from the one that started it.
        "peak = lambda: Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]\n"
        "atexit.register(lambda: print(peak(), file=sys.stderr))"
    )
    done = process("caption", "--bundle", toy_bundle.path, path, "--threads", 1, "--out", tmp_path / "out", code=code)
    _, err = done.communicate()
    assert done.returncode == 0
    assert int(err.split()[-1]) * 1024 < 300e6


def test_guided_searches_and_ensembles_are_options(caption: Run, photos: Path, toy_bundle: Bundle) -> None:
    def words(*options: object) -> list[list[str]]:
        status, out, _ = caption(photos, "--json", *options)
        assert status == 0
        return [json.loads(line)["words"] for line in out.splitlines()]

    assert words("--ensemble", toy_bundle.path) == words()
    assert all("word8" in found for found in words("--contain", "word8"))
    assert all(len(set(found)) == len(found) for found in words("--no-repeat", 1))
    assert words("--sample", "--seed", 5) == words("--sample", "--seed", 5)
    status, _, err = caption(photos, "--sample", "--contain", "word8")
    assert status == 2
    assert "sample and contain do not go together" in one_line(err)
