"""``camscribe caption``: captions photographs."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from camscribe.runtime.caption import Caption, Timings
from camscribe.runtime.captioner import BATCH, Captioner
from camscribe.runtime.commands.arguments import (
    Parser,
    add_bundle_argument,
    add_device_arguments,
    add_enhance_arguments,
    add_ensemble_argument,
    add_search_arguments,
    ensemble_of,
    folder,
    open_enhancer,
    print_choice,
    search_options,
)
from camscribe.runtime.errors import OptionError, SourceError, one_line
from camscribe.runtime.files import make_folder, own_names, write_atomically
from camscribe.runtime.guided.arguments import add_guided_arguments, guided_changes
from camscribe.runtime.images import expand, read
from camscribe.runtime.progress import ProgressBar


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(argv)
    if options.attention and not options.json and options.out is None:
        raise OptionError("--attention needs --json (weights) or --out DIR (pictures)")
    if not sys.warnoptions:
        # Pillow warns of oddities in files that it reads all the same.
        warnings.filterwarnings("ignore", module=r"PIL\.")
    files, problems = expand(options.images)
    if options.out is not None:
        make_folder(options.out, "--out")
    for problem in problems:
        print(f"camscribe: {one_line(str(problem))}", file=sys.stderr)
    if not files:
        return 1
    loaded = Captioner.load(
        ensemble_of(options.bundle, options.ensemble), options.backend, options.precision, options.threads
    )
    with loaded as captioner, open_enhancer(captioner, options):
        print_choice(captioner.choice, verbose=options.verbose)
        failed = _caption_all(captioner, files, options)
    return 1 if failed or problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="camscribe caption", description="Captions photographs.")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="an image file, a folder of them, or a glob such as 'photos/**/*.jpg'",
    )
    add_bundle_argument(parser)
    add_ensemble_argument(parser)
    search = add_search_arguments(parser)
    search.add_argument(
        "--batch", type=int, default=BATCH, metavar="B", help=f"images captioned together (default: {BATCH})"
    )
    add_guided_arguments(parser)
    add_enhance_arguments(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print a JSON object for each image")
    output.add_argument("--out", type=folder, metavar="DIR", help="write a picture with its caption for each image")
    output.add_argument("--attention", action="store_true", help="add where the model looked, to the pictures and JSON")
    add_device_arguments(parser)
    return parser


def _caption_all(captioner: Captioner, files: list[Path], options: argparse.Namespace) -> int:
    """Captions and prints; returns how many files failed."""
    search = search_options(captioner, options, guided_changes(options))
    names = own_names(files, ".caption.jpg")
    results = captioner.caption_each(files, search, batch=options.batch)
    table = None if options.json else _Table(files)
    failed, spent = 0, []
    with ProgressBar("captioned", len(files)) as bar:
        for done, (path, name, result) in enumerate(zip(files, names, results, strict=True), start=1):
            picture = options.out / name if options.out is not None else None
            if isinstance(result, Caption) and picture is not None:
                result = _draw(captioner, path, result, picture, attention=options.attention)
            bar.clear()
            if options.verbose and isinstance(result, Caption):
                spent.append(result.timings)
            if isinstance(result, SourceError):
                failed += 1
                print(f"camscribe: {one_line(str(result))}", file=sys.stderr)
                if table is None:
                    print(json.dumps({"file": str(path), "error": str(result)}), flush=True)
            elif table is None:
                print(json.dumps(_as_json(captioner, path, result, picture, options)), flush=True)
            else:
                table.print(path, result)
            bar.update(done)
    if spent:
        _print_times(spent)
    return failed


def _print_times(spent: list[Timings]) -> None:
    """Says where the time of a caption went, and how much of it a guided search took to select on the host."""
    means = {name: sum(each.to_dict()[name] for each in spent) / len(spent) for name in spent[0].to_dict()}
    select, total = means.pop("select"), means.pop("total")
    parts = ", ".join(f"{name} {value:.1f}" for name, value in means.items() if value >= 0.05)
    host = f"; of decode, selecting on the host took {select:.1f}" if select else ""
    print(f"camscribe: a caption took {total:.1f} ms in the mean of {len(spent)}: {parts}{host}", file=sys.stderr)


def _draw(
    captioner: Captioner, path: Path, caption: Caption, picture: Path, *, attention: bool
) -> Caption | SourceError:
    """Writes the picture of a caption; returns the caption, or why there is no picture."""
    from camscribe.runtime.draw import PHOTO_HEIGHT, PHOTO_WIDTH, caption_sheet, encode_jpeg

    try:
        # Read again, as keeping the photographs of a whole batch would take more memory than the model.
        photo = read(path, at_least=max(PHOTO_HEIGHT, PHOTO_WIDTH))
        sheet = caption_sheet(photo, caption, captioner.bundle.manifest.pixels, attention=attention)
        write_atomically(picture, encode_jpeg(sheet))
    except SourceError as error:
        return error
    return caption


def _as_json(
    captioner: Captioner, path: Path, caption: Caption, picture: Path | None, options: argparse.Namespace
) -> dict[str, Any]:
    return {
        "file": str(path),
        **caption.to_dict(attention=options.attention),
        "bundle": captioner.bundle.manifest.name,
        "backend": captioner.choice.backend,
        "precision": captioner.choice.precision,
        **({"picture": str(picture)} if picture is not None else {}),
    }


class _Table:
    """Lines of ``file  caption  score  ms`` under a header; ``ms`` is the image's share of the work on its batch."""

    _CAPTION_WIDTH = 64
    """Lines are printed as they come, so the width is a guess that nearly all captions keep."""

    def __init__(self, files: list[Path]) -> None:
        self._width = max(4, *(len(one_line(str(path))) for path in files))
        self._line("file", "caption", "score", "ms")

    def print(self, path: Path, caption: Caption) -> None:
        """Prints an image's captions; of the n best only the first has the file's name and time."""
        name, time = one_line(str(path)), f"{caption.timings.total_ms:.1f}"
        for item in caption.hypotheses:
            self._line(name, item.text + (" ..." if item.truncated else ""), f"{item.score:.3f}", time)
            name = time = ""

    def _line(self, file: str, caption: str, score: str, time: str) -> None:
        print(f"{file:{self._width}}  {caption:{self._CAPTION_WIDTH}}  {score:>7}  {time:>7}".rstrip(), flush=True)
