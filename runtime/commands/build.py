"""``camscribe build``: makes the TensorRT engines of a bundle for this GPU, checks them and keeps them."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camscribe.runtime.bundle import Bundle, kind_of
from camscribe.runtime.commands.arguments import Parser, named_bundle
from camscribe.runtime.errors import EngineError, OptionError
from camscribe.runtime.executor import why_not
from camscribe.runtime.tensorrt import builder, versions
from camscribe.runtime.tensorrt.engines import Built, build_engines, check_sizes

if TYPE_CHECKING:
    from camscribe.runtime.cuda.driver import DeviceInfo

_PRECISIONS = {"fp16": "fp16", "fp32": "float32", "int8": "int8"}


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(argv)
    options.bundle = named_bundle(options.bundle)
    if options.workspace is not None and options.workspace < 1:
        raise OptionError(f"--workspace is {options.workspace}; expected at least 1 MiB")
    if options.bundle is not None and kind_of(options.bundle) == "enhancer":
        from camscribe.runtime.commands.build_enhancer import build

        return build(options)
    if options.variant or options.tile:
        raise OptionError("--variant and --tile are an enhancer's; this bundle is a captioner's")
    bundle = Bundle.load(options.bundle)
    precision = precision_of(bundle.manifest.name, bundle.manifest.precisions, options.precision)
    images = 1 if options.batch is None else options.batch
    beams = bundle.manifest.search.beams if options.beams is None else options.beams
    check_sizes(images, beams)
    device = gpu_to_build_on()
    if precision == "int8":
        for line in _int8_loss(bundle):
            print(f"camscribe: {line}", file=sys.stderr)
    began = time.monotonic()
    with BuildProgress(show=not options.quiet) as progress:
        built = build_engines(
            bundle,
            precision,
            images,
            beams,
            device,
            workspace_bytes=workspace_bytes(options),
            rebuild=options.rebuild,
            progress=progress.show,
        )
    if options.json:
        print(json.dumps(as_json(built), indent=1))
    else:
        print("\n".join(describe([built], time.monotonic() - began)))
    return 0


def gpu_to_build_on() -> DeviceInfo:
    """The GPU, where TensorRT can build for it.

    Raises:
        EngineError: TensorRT, the driver or the GPU is missing.
    """
    versions.load(building=True)
    missing = why_not("tensorrt")
    if missing is not None:
        raise EngineError(f"no engine can be built here: {missing}")
    from camscribe.runtime.cuda.driver import device_info

    return device_info()


def workspace_bytes(options: argparse.Namespace) -> int | None:
    """What ``--workspace`` says."""
    return None if options.workspace is None else options.workspace << 20


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="camscribe build",
        description="Builds TensorRT engines of a bundle for this GPU, and compares them with ONNX Runtime before they "
        "are used. Takes minutes on a Jetson, once for each version of TensorRT, GPU, batch and number of beams.",
    )
    parser.add_argument(
        "bundle",
        nargs="?",
        type=Path,
        metavar="BUNDLE",
        help="its folder, or the word enhancer (default: the captioner that comes with camscribe)",
    )
    parser.add_argument(
        "--precision", choices=tuple(_PRECISIONS), default="fp16", help="what the engines compute in (default: fp16)"
    )
    captioner = parser.add_argument_group("of a captioner")
    captioner.add_argument(
        "--batch", type=int, metavar="N", help="images captioned together, for which it is built (default: 1)"
    )
    captioner.add_argument(
        "--beams", type=int, metavar="K", help="sentences followed at a time (default: the bundle's)"
    )
    enhancer = parser.add_argument_group("of an enhancer")
    enhancer.add_argument("--variant", nargs="+", metavar="NAME", help="some of the bundle's, psnr, gan (default: all)")
    enhancer.add_argument(
        "--tile",
        nargs="+",
        metavar="WxH",
        help="columns x rows that go through the network at a time: the size of a camera's frames, or a smaller one, "
        "of which larger images are put together (default: 384x384 128x128)",
    )
    parser.add_argument("--workspace", type=int, metavar="MIB", help="limit of the scratch memory of a layer")
    parser.add_argument("--rebuild", action="store_true", help="build even what is there")
    parser.add_argument("--json", action="store_true", help="print the result as a JSON object")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


def precision_of(name: str, there: Iterable[str], wanted: str) -> str:
    """A bundle's name of a precision.

    Args:
        name: of the bundle.
        there: its precisions.
        wanted: what ``--precision`` says.

    Raises:
        OptionError: the bundle lacks it.
    """
    names = {name: short for short, name in _PRECISIONS.items()}
    if _PRECISIONS[wanted] not in there:
        others = ", ".join(names[each] for each in there if each in names)
        raise OptionError(
            f"bundle {name!r} has no graphs in {wanted}: export it again with this release, "
            f"or take --precision {others}"
        )
    return _PRECISIONS[wanted]


def _int8_loss(bundle: Bundle) -> Iterator[str]:
    """What int8 was measured to cost, by the figures in the bundle."""
    quality = bundle.manifest.quality
    int8, reference = quality.get("int8"), quality.get("float32")
    measured = False
    if isinstance(int8, Mapping) and isinstance(reference, Mapping):
        for data, scores in int8.items():
            ours, theirs = number(scores, "cider"), number(reference.get(data), "cider")
            if ours is not None and theirs:
                measured = True
                yield f"int8 on {data}: CIDEr {ours:.4f}, float32 {theirs:.4f} ({(ours / theirs - 1) * 100:+.1f} %)"
    if not measured:
        yield "what int8 costs in quality was not measured for this bundle; fp16 costs next to nothing"


def number(scores: Any, name: str) -> float | None:
    """A score among those that a bundle holds; None where it has none of that name."""
    value = scores.get(name) if isinstance(scores, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def describe(all_built: Sequence[Built[Any]], seconds: float) -> Iterator[str]:
    """What was built, in words."""
    for built in all_built:
        for graph, path in built.files.items():
            audit = built.audits.get(graph)
            size = f"{path.stat().st_size / 1e6:.1f} MB"
            yield f"{graph}: {path} ({size}{'' if audit is not None else ', was there'})"
            if audit is not None:
                yield f"  {audit}"
        if built.verdict is not None:
            yield f"compared with ONNX Runtime: {built.verdict}"
    anything = any(built.verdict is not None for built in all_built)
    yield f"built in {seconds:.0f} s" if anything else "nothing to build"


def as_json(built: Built[Any]) -> dict[str, Any]:
    """One build as JSON."""
    return {
        "engines": [str(path) for path in built.files.values()],
        "built": list(built.new),
        "layers": {graph: audit.layers for graph, audit in built.audits.items()},
        "strongly_typed": built.strong,
        "gate": None if built.verdict is None else built.verdict.notes(),
    }


class BuildProgress:
    """Progress on standard error: one line that is redrawn on a terminal, else a line every ten seconds.

    What happens in its block may be interrupted: where TensorRT cannot be stopped, the process ends then.
    """

    _WIDTH = 24
    _EVERY_S = 10.0

    def __init__(self, *, show: bool) -> None:
        self._shown = show
        self._terminal = sys.stderr.isatty()
        self._last = -math.inf
        self._phase = ""
        self._began = time.monotonic()

    def __enter__(self) -> BuildProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._shown and self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        if kind is not None and issubclass(kind, KeyboardInterrupt) and builder.is_running():
            # TensorRT before 10 cannot be stopped, and would crash while the interpreter is taken down around it.
            print("camscribe: interrupted", file=sys.stderr, flush=True)
            os._exit(130)

    def show(self, phase: str, share: float) -> None:
        """See ``camscribe.runtime.tensorrt.engines.Progress``."""
        now = time.monotonic()
        wait = 0.1 if self._terminal else self._EVERY_S
        if not self._shown or (now - self._last < wait and phase.partition(":")[0] == self._phase):
            return
        self._last, self._phase = now, phase.partition(":")[0]
        if not self._terminal:
            done = "" if math.isnan(share) else f", {share:.0%}"
            print(f"camscribe: {phase:.200}{done} ({now - self._began:.0f} s)", file=sys.stderr, flush=True)
            return
        filled = 0 if math.isnan(share) else round(self._WIDTH * min(max(share, 0.0), 1.0))
        bar = "" if math.isnan(share) else f" {'█' * filled}{'░' * (self._WIDTH - filled)}"
        sys.stderr.write(f"\r\x1b[K{now - self._began:.0f} s  {phase:.70}{bar}")
        sys.stderr.flush()
