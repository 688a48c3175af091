"""``camscribe archive``: captions folders and tar shards of any size into a table."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from camscribe.runtime.archive.progress import TerminalProgress
from camscribe.runtime.archive.run import Cluster, Summary, archive
from camscribe.runtime.captioner import BATCH
from camscribe.runtime.commands.arguments import (
    Parser,
    add_bundle_argument,
    add_device_arguments,
    add_search_arguments,
    folder,
    search_changes,
)
from camscribe.runtime.errors import one_line
from camscribe.runtime.guided.arguments import add_guided_arguments, guided_changes


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"ray\.")
    changes = {**search_changes(options), **guided_changes(options)}
    progress = TerminalProgress(verbose=options.verbose)
    try:
        summary = archive(
            options.input,
            options.out,
            bundle=options.bundle,
            backend=options.backend,
            precision=options.precision,
            search={name: value for name, value in changes.items() if value is not None},  # type: ignore[arg-type]
            ban=tuple(options.ban),
            batch=options.batch,
            retry=options.retry_failed,
            cluster=Cluster(options.address, options.workers, options.threads or 1),
            progress=progress,
        )
    finally:
        progress.close()
    for problem in summary.problems:
        print(f"camscribe: {one_line(str(problem))}", file=sys.stderr)
    print(_sentence(summary, options.out))
    return 1 if summary.failed or summary.problems else 0


def _sentence(summary: Summary, out: Path) -> str:
    failed = f", {summary.failed} of all failed" if summary.failed else ""
    before = f" ({summary.before} were done before)" if summary.before else ""
    return f"{summary.captioned} images captioned into {one_line(str(out))}{before}{failed}"


def _parser() -> Parser:
    parser = Parser(
        prog="camscribe archive",
        description="Captions folders or tar shards of any size into a table, on all cores of this machine or on a Ray "
        "cluster. Run the same command again to continue after an interruption, or to add what is new in the input.",
    )
    parser.add_argument(
        "input",
        metavar="INPUT",
        help="a folder (searched with its sub-folders for images and .tar shards), a tar file, or a glob of these",
    )
    parser.add_argument(
        "--out",
        type=folder,
        required=True,
        metavar="TABLE",
        help="the table, a folder of Parquet files: captions.parquet",
    )
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="try images again that failed in earlier runs; else they count as done",
    )
    add_bundle_argument(parser)
    search = add_search_arguments(parser)
    search.add_argument(
        "--batch", type=int, default=BATCH, metavar="B", help=f"images captioned together (default: {BATCH})"
    )
    add_guided_arguments(parser)
    cluster = parser.add_argument_group("cluster")
    cluster.add_argument(
        "--address", metavar="HOST:PORT", help="a Ray cluster (default: RAY_ADDRESS, else this machine alone)"
    )
    cluster.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that caption (default: one for each GPU, else as many as there are CPU cores)",
    )
    add_device_arguments(parser)
    return parser
