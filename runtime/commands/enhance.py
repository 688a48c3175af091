"""``camscribe enhance``: enlarges and sharpens photographs."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from camscribe.runtime.commands.arguments import Parser, folder, named_bundle, print_choice
from camscribe.runtime.enhancer import Enhanced, Enhancer
from camscribe.runtime.enhancer_network import TILE, Backend
from camscribe.runtime.errors import SourceError, one_line
from camscribe.runtime.files import make_folder, own_names, write_atomically
from camscribe.runtime.images import expand
from camscribe.runtime.progress import ProgressBar


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(argv)
    if not sys.warnoptions:
        # Pillow warns of oddities in files that it reads all the same.
        warnings.filterwarnings("ignore", module=r"PIL\.")
    files, problems = expand(options.images)
    make_folder(options.out, "--out")
    for problem in problems:
        print(f"camscribe: {one_line(str(problem))}", file=sys.stderr)
    if not files:
        return 1
    with Enhancer.load(
        named_bundle(options.bundle),
        options.backend,
        options.precision,
        options.threads,
        variant=options.variant,
        tile=options.tile,
    ) as enhancer:
        print_choice(enhancer.choice, verbose=options.verbose)
        failed = _enhance_all(enhancer, files, options)
    return 1 if failed or problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="camscribe enhance",
        description="Enlarges and sharpens photographs. What it adds is likely, not seen: no evidence of anything.",
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="an image file, a folder of them, or a glob such as 'photos/**/*.jpg'",
    )
    parser.add_argument("--out", type=folder, metavar="DIR", required=True, help="folder for the PNG files it writes")
    parser.add_argument(
        "--bundle", type=Path, metavar="FOLDER", help="the enhancer (default: the one that comes with camscribe)"
    )
    parser.add_argument(
        "--variant", help="psnr: nearest to the truth; gan: sharpest to look at (default: the bundle's)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each image")
    device = parser.add_argument_group("device")
    device.add_argument(
        "--backend",
        choices=get_args(Backend),
        default="auto",
        help="where the network runs; auto takes the fastest that works here (default: auto), tensorrt first builds "
        "the engines it lacks; cuda and ort-tensorrt are ONNX Runtime's ways to use a GPU",
    )
    device.add_argument("--precision", help="a precision of the bundle: float32, fp16, int8 (default: the bundle's)")
    device.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: one per physical core)")
    device.add_argument(
        "--tile",
        type=int,
        default=TILE,
        metavar="N",
        help=f"rows and columns at a time; less takes less memory ({TILE})",
    )
    device.add_argument("--verbose", action="store_true", help="say which backend was taken, and why")
    return parser


def _enhance_all(enhancer: Enhancer, files: list[Path], options: argparse.Namespace) -> int:
    """Enhances and prints; returns how many files failed."""
    table = None if options.json else _Table(files)
    failed = 0
    names = own_names(files, f".x{enhancer.scale}.png")
    with ProgressBar("enhanced", len(files)) as bar:
        results = enhancer.enhance_each(files)
        for done, (path, name, result) in enumerate(zip(files, names, results, strict=True), 1):
            picture = options.out / name
            if isinstance(result, Enhanced):
                result = _written(result, picture)
            bar.clear()
            if isinstance(result, SourceError):
                failed += 1
                print(f"camscribe: {one_line(str(result))}", file=sys.stderr)
                if table is None:
                    print(json.dumps({"file": str(path), "error": str(result)}), flush=True)
            elif table is None:
                print(json.dumps(_as_json(enhancer, path, result, picture)), flush=True)
            else:
                table.print(path, result, picture)
            bar.update(done)
    return failed


def _written(made: Enhanced, picture: Path) -> Enhanced | SourceError:
    """Writes a PNG file; returns what was made, or why it is not written."""
    import io

    from PIL import Image

    file = io.BytesIO()
    # The default takes three times as long for a few percent.
    Image.fromarray(made.pixels).save(file, "PNG", compress_level=3)
    try:
        write_atomically(picture, file.getvalue())
    except SourceError as error:
        return error
    return made


def _as_json(enhancer: Enhancer, path: Path, made: Enhanced, picture: Path) -> dict[str, Any]:
    height, width = made.pixels.shape[:2]
    return {
        "file": str(path),
        "picture": str(picture),
        "width": width,
        "height": height,
        "scale": enhancer.scale,
        "timings_ms": {"read": round(made.read_ms, 3), "enhance": round(made.enhance_ms, 3)},
        "bundle": enhancer.bundle.manifest.name,
        "variant": enhancer.variant,
        "backend": enhancer.choice.backend,
        "precision": enhancer.choice.precision,
    }


class _Table:
    """Lines of ``file  size  ms  picture`` under a header."""

    def __init__(self, files: list[Path]) -> None:
        self._width = max(4, *(len(one_line(str(path))) for path in files))
        self._line("file", "size", "ms", "picture")

    def print(self, path: Path, made: Enhanced, picture: Path) -> None:
        """Prints an image's line."""
        height, width = made.pixels.shape[:2]
        self._line(
            one_line(str(path)), f"{width}x{height}", f"{made.read_ms + made.enhance_ms:.1f}", one_line(str(picture))
        )

    def _line(self, file: str, size: str, time: str, picture: str) -> None:
        print(f"{file:{self._width}}  {size:>11}  {time:>8}  {picture}", flush=True)
