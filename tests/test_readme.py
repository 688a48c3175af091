"""The documents say only what is there: their commands, options, links and pictures are checked against the project."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([REPOSITORY / "README.md", REPOSITORY / "examples" / "README.md", *REPOSITORY.glob("docs/**/*.md")])


def blocks(document: Path, language: str) -> list[str]:
    """Fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(document: Path) -> list[list[str]]:
    """Words of every command in the document's bash blocks; comments and line continuations are taken away."""
    lines = "".join(blocks(document, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def every_command() -> list[object]:
    return [
        pytest.param(words, id=f"{document.relative_to(REPOSITORY)}: {' '.join(words)}"[:100])
        for document in DOCUMENTS
        for words in commands(document)
    ]


@cache
def options_of(subcommand: str) -> frozenset[str]:
    """Options that ``camscribe SUBCOMMAND --help`` lists."""
    done = subprocess.run(
        [sys.executable, "-m", "camscribe.runtime.cli", subcommand, "--help"],
        capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, f"camscribe {subcommand} --help: {done.stderr}"
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][\w-]*", done.stdout))


def test_the_first_block_has_the_two_commands_of_a_newcomer() -> None:
    (first, *_) = blocks(REPOSITORY / "README.md", "bash")
    lines = [shlex.split(line, comments=True) for line in first.splitlines()]
    assert lines == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("words", every_command())
def test_a_documented_command_exists(words: list[str]) -> None:
    while "=" in words[0]:  # A variable set for the command.
        words = words[1:]
    program, *arguments = words
    if program == "make":
        targets = [argument for argument in arguments if "=" not in argument]
        listed = re.findall(r"^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert set(targets) <= set(" ".join(listed).split())
    elif program in {"camscribe", ".venv-demo/bin/camscribe", ".venv/bin/camscribe"}:
        subcommand, *arguments = arguments
        used = {argument.split("=")[0] for argument in arguments if re.match(r"--?[a-z]", argument)}
        assert used <= options_of(subcommand)
    elif program == "pip":
        assert arguments[0] == "install"
    elif program == "python" and arguments[0] == "-m":
        assert arguments[1].startswith("camscribe.") or arguments[1] in {"venv", "pip", "pytest"}
        if arguments[1].startswith("camscribe."):
            assert (REPOSITORY / (arguments[1].removeprefix("camscribe.").replace(".", "/") + ".py")).is_file()
    elif program == "torchrun":
        module = arguments[arguments.index("-m") + 1]
        assert (REPOSITORY / (module.removeprefix("camscribe.").replace(".", "/") + ".py")).is_file()
    else:
        common = {"cd", "export", "git", "source", ".", "ls", "cat", "python3", "sudo", "ros2", "ffplay"}
        assert program in common or shutil.which(program), f"unknown: {program}"


@pytest.mark.parametrize("block", blocks(REPOSITORY / "README.md", "python"))
def test_the_readme_s_python_runs(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_the_configuration_in_the_training_guide_is_read(tmp_path: Path) -> None:
    config = pytest.importorskip("camscribe.train.config")
    detection = pytest.importorskip("camscribe.train.detection.config")
    block, *parts, boxes = blocks(REPOSITORY / "docs" / "training.md", "toml")
    (tmp_path / "my.toml").write_text(block, encoding="utf-8")
    assert len(config.load_config(tmp_path / "my.toml").stage) == 3
    # Of each encoder what differs is shown.
    rest = {"[data]": '[data]\nroot = "data"\n', "[[stage]]": '[[stage]]\nname = "only"\nepochs = 1\n'}
    encoders = []
    for part in parts:
        whole = "\n".join([part, *(lines for head, lines in rest.items() if head not in part)])
        (tmp_path / "my.toml").write_text(whole, encoding="utf-8")
        encoders.append(config.load_config(tmp_path / "my.toml").model.encoder)
    assert encoders == ["regions", "faster_rcnn", "features"]
    (tmp_path / "boxes.toml").write_text(boxes, encoding="utf-8")
    assert len(detection.load_config(tmp_path / "boxes.toml").stage) == 2


def test_the_configuration_reference_is_what_the_code_says() -> None:
    program = REPOSITORY / "docs" / "config_reference.py"
    done = subprocess.run([sys.executable, program, "--check"], check=False)
    assert done.returncode == 0, "run: python docs/config_reference.py"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_inside_the_repository_lead_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```$|<!--.*?-->", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (document.parent / target).exists()] == []


def test_every_example_has_its_licence_stated() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|(.*)\|$", (REPOSITORY / "examples" / "README.md").read_text(), re.MULTILINE)
    pictures = {path.name for path in (REPOSITORY / "examples").iterdir() if path.suffix == ".jpg"}
    assert {name for name, _ in rows} == pictures
    assert len(pictures) >= 8
    for name, row in rows:
        what, author, licence, source, found = (cell.strip() for cell in row.split("|"))
        assert all((what, author, found)), name
        assert re.search(r"public domain|\[CC0 1\.0\]|\[CC BY \d\.0\]", licence), name
        assert "](https://" in source, name


def test_the_examples_are_small() -> None:
    pictures = list((REPOSITORY / "examples").glob("*.jpg"))
    assert sum(path.stat().st_size for path in pictures) < 1_000_000
    for path in pictures:
        with Image.open(path) as image:
            assert image.mode == "RGB"
            assert 200 < max(image.size) <= 640
