"""What the sub-commands' arguments have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn, get_args

from camscribe.runtime.errors import OptionError


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, like all others of this program."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message}; see {self.prog} --help")


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--backend``, ``--precision``, ``--threads`` and ``--verbose``."""
    from camscribe.runtime.executor import Backend

    group = parser.add_argument_group("device")
    group.add_argument(
        "--backend",
        choices=get_args(Backend),
        default="auto",
        help="where the graphs run; auto takes the fastest that works here (default: auto), tensorrt first builds the "
        "engines it lacks; cuda, cuda-graph and ort-tensorrt are ONNX Runtime's ways to use a GPU",
    )
    group.add_argument(
        "--precision", help="a precision of the bundle: float32, fp16, int8, ... (default: the bundle's)"
    )
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: one per physical core)")
    group.add_argument("--verbose", action="store_true", help="say which backend was taken, and why")


def add_bundle_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--bundle``."""
    parser.add_argument(
        "--bundle", type=Path, metavar="FOLDER", help="the captioner (default: the one that comes with camscribe)"
    )
