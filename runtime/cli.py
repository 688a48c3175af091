"""The ``camscribe`` command. Each sub-command is imported when it is asked for, so that none pays for another.

Exit status: 0; 2 when the input, an option or the environment is at fault, with one line that says how; 1 when some
items of a batch failed (each named, the rest done), and for bugs, with a traceback; 130 after Ctrl-C.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple, TextIO

from camscribe.runtime.errors import CamscribeError, EngineError, OptionError, one_line


class _Command(NamedTuple):
    target: str
    """``module:function``; the function takes the arguments after the command and returns the exit status."""
    extra: str
    """What ``pip install "camscribe[...]"`` must have brought."""
    help: str


COMMANDS = {
    "caption": _Command("camscribe.runtime.commands.caption:main", "cpu", "caption photographs"),
    "stream": _Command(
        "camscribe.runtime.commands.stream:main", "cpu", "caption a camera, a video or a topic, as it goes"
    ),
    "archive": _Command("camscribe.runtime.commands.archive:main", "ray", "caption folders and tar shards of any size"),
    "enhance": _Command("camscribe.runtime.commands.enhance:main", "cpu", "enlarge and sharpen photographs"),
    "info": _Command("camscribe.runtime.commands.info:main", "cpu", "show what a bundle is and how good it is"),
    "doctor": _Command(
        "camscribe.runtime.commands.doctor:main", "cpu", "show what works on this machine and how to mend the rest"
    ),
    "build": _Command("camscribe.runtime.commands.build:main", "tensorrt", "build TensorRT engines for this GPU"),
    "train": _Command("camscribe.train.commands.train:main", "train", "train a captioner or an enhancer"),
    "average": _Command("camscribe.train.commands.average:main", "train", "average the weights of checkpoints"),
    "join": _Command("camscribe.train.commands.join:main", "train", "make an ensemble of captioners of one encoder"),
    "evaluate": _Command("camscribe.train.commands.evaluate:main", "train", "score captions, or enlarged images"),
    "bench": _Command("camscribe.benchmarks.command:main", "cpu", "measure latency and quality, and write a report"),
    "export": _Command("camscribe.export.command:main", "export", "turn a checkpoint into a bundle"),
    "import": _Command(
        "camscribe.export.import_command:main", "export", "turn a checkpoint of another project into a bundle"
    ),
}
_PIPELINE = (
    "torch",
    "torchvision",
    "safetensors",
    "lightning_fabric",
    "pycocoevalcap",
    "matplotlib",
    "skimage",
    "tomli",
)
_OPTIONAL = frozenset(("cv2", "onnxruntime", "onnx", "onnxscript", "tensorrt", "pycuda", "ray", "pyarrow", *_PIPELINE))
"""Modules that only some commands need. That any other is missing is a bug."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        # File names and words may hold what a terminal cannot show; that must not end the work.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except CamscribeError as error:
        print(f"camscribe: {one_line(str(error))}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("camscribe: interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        _silence(sys.stdout)
        status = 141  # as a shell reports a program that SIGPIPE ended
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise
        _silence(sys.stdout)
        name = one_line(str(error.filename or "output"))
        print(f"camscribe: {name}: cannot be written ({error.strerror})", file=sys.stderr)
        status = 2
    return status


def _run(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        print(_help())
        return 0
    if name in ("-V", "--version"):
        from camscribe import __version__

        print(f"camscribe {__version__}")
        return 0
    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected {', '.join(COMMANDS)}"
        raise OptionError(f"{name!r} is not a command; {hint}")
    command = COMMANDS[name]
    module, _, function = command.target.partition(":")
    try:
        status = getattr(importlib.import_module(module), function)(arguments[1:])
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _OPTIONAL:
            raise
        raise EngineError(
            f'{name} needs {missing}, which is not installed: pip install "camscribe[{command.extra}]"'
        ) from error
    return int(status or 0)


def _help() -> str:
    lines = [
        "usage: camscribe COMMAND ...",
        "",
        "Image captioning that is trained in PyTorch and runs at the edge.",
        "",
        "commands:",
        *(f"  {name:<10} {command.help}" for name, command in COMMANDS.items()),
        "",
        "options:",
        "  --version  show the version",
        "  --help     show this; camscribe COMMAND --help shows a command's own",
        "",
        "example: camscribe caption photos/ --out captioned --attention",
    ]
    return "\n".join(lines)


def _open_standard_streams() -> None:
    """Opens the null device where a shell closed one (``2>&-``), so that no file of ours takes its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # noqa: PERF203 - three of them
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - kept


def _silence(stream: TextIO) -> None:
    """Sends what is still buffered nowhere, so that the interpreter does not fail on it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
