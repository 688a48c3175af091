"""The two parts of the caption metrics that are Java programs: the PTB tokenizer and METEOR 1.5.

Both jars come with pycocoevalcap and are run as its wrappers run them. The wrappers themselves are not used: they
write beside the installed package, print, and leave a child process with open pipes behind.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pycocoevalcap

from camscribe.runtime.errors import CamscribeError

_PACKAGE = Path(next(iter(pycocoevalcap.__path__)))
_TOKENIZER_JAR = _PACKAGE / "tokenizer" / "stanford-corenlp-3.4.1.jar"
_METEOR_JAR = _PACKAGE / "meteor" / "meteor-1.5.jar"
# As in coco-caption's ptbtokenizer.py; its "-LRB-" never matched, because the tokenizer prints lower case.
_PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)


class JavaError(CamscribeError):
    """Raised when Java is missing or one of its programs failed."""


def find_java() -> str:
    """The ``java`` command.

    Raises:
        JavaError: there is none on the PATH.
    """
    java = shutil.which("java")
    if java is None:
        raise JavaError("no 'java' on the PATH; install a Java runtime, for example openjdk-17-jre-headless")
    return java


def ptb_tokenize(captions: Sequence[str]) -> list[str]:
    """Captions as the PTB tokenizer of coco-caption cuts them: lower case, no punctuation, tokens apart by a space.

    Raises:
        JavaError: Java is missing or the tokenizer failed.
    """
    command = [find_java(), "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp", str(_TOKENIZER_JAR)]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    text = "".join(f"{_one_line(caption)}\n" for caption in captions)
    try:
        done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", check=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise JavaError(f"the PTB tokenizer failed ({_reason(error)})") from error
    lines = done.stdout.split("\n")
    if len(lines) != len(captions) + 1:
        raise JavaError(f"the PTB tokenizer gave {len(lines) - 1} lines for {len(captions)} captions")
    return [" ".join(token for token in line.split(" ") if token not in _PUNCTUATION).strip() for line in lines[:-1]]


def meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR 1.5 of tokenised captions over the whole corpus.

    Raises:
        JavaError: Java is missing or METEOR failed.
    """
    command = [find_java(), "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-Xmx2G", "-jar", str(_METEOR_JAR)]
    command += ["-", "-", "-stdio", "-l", "en", "-norm"]
    with tempfile.TemporaryFile() as complaints:  # a pipe that nobody reads would fill up and block
        try:
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, encoding="utf-8"
            ) as process:
                if process.stdin is None or process.stdout is None:
                    raise JavaError("METEOR has no pipes")
                try:
                    return _converse(process.stdin, process.stdout, captions, references)
                finally:
                    process.kill()
                    with contextlib.suppress(OSError):  # closing flushes into the pipe of a child that may be gone
                        process.stdin.close()
        except (OSError, ValueError) as error:
            complaints.seek(0)
            last = complaints.read().decode("utf-8", errors="replace").strip().splitlines()[:1]
            raise JavaError(f"METEOR failed ({last[0] if last else error})") from error


def _converse(stdin: IO[str], stdout: IO[str], captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR's protocol: each SCORE line is answered with statistics, and EVAL on all of these with the scores."""
    statistics = []
    for caption, alternatives in zip(captions, references, strict=True):
        parts = [_one_line(part).replace("|||", "") for part in (*alternatives, caption)]
        stdin.write(f"SCORE ||| {' ||| '.join(parts)}\n")
        stdin.flush()
        statistics.append(stdout.readline().strip())
    stdin.write(f"EVAL ||| {' ||| '.join(statistics)}\n")
    stdin.flush()
    for _ in captions:  # each caption's own score
        stdout.readline()
    return float(stdout.readline())


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        first = (error.stderr or "").strip().splitlines()[:1]
        return first[0] if first else f"exit status {error.returncode}"
    return str(error)
