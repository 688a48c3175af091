"""``camscribe bench``: measures latency and quality of all that works here in one run, and writes the reports."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from camscribe.benchmarks import (
    compare,
    enhancer_schema,
    enhancers,
    report_html,
    report_markdown,
    schema,
    terminal,
    variants,
)
from camscribe.benchmarks.captions_quality import Split
from camscribe.benchmarks.enhancer_session import EnhancerPlan, EnhancerSession
from camscribe.benchmarks.measure import portable
from camscribe.benchmarks.pages import AnyReport
from camscribe.benchmarks.peers import PEERS
from camscribe.benchmarks.session import Plan, Session
from camscribe.runtime.bundle import kind_of
from camscribe.runtime.commands.arguments import Parser, folder, named_bundle
from camscribe.runtime.errors import DataError, EngineError, OptionError
from camscribe.runtime.files import make_folder, write_atomically
from camscribe.runtime.images import expand, read

EXAMPLES = Path("examples")
"""Photographs that are taken where none are named."""
_CAPTIONER = (
    "checkpoint",
    "data",
    "split",
    "format",
    "captions",
    "rate",
    "rate_seconds",
    "batches",
    "beams",
)
"""Options that an enhancer does not have."""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.compare is not None:
        return _compare(*options.compare, compare.THRESHOLD if options.threshold is None else options.threshold)
    options.bundles = [named_bundle(path) for path in options.bundles]
    kinds = {kind_of(path) for path in options.bundles}
    if len(kinds) > 1:
        raise OptionError("captioners and enhancers are measured in runs of their own")
    command = ("camscribe", "bench", *map(portable, argv))
    tell = _quiet if options.quiet else _tell
    _check(options)
    if kinds == {"enhancer"}:
        _refuse(parser, options, _CAPTIONER, "is a captioner's; this bundle is an enhancer's")
        enhancer_plan = _enhancer_plan(options)
        make_folder(options.out, "--out")
        some, without = enhancers.open_enhancers(
            options.bundles[0], options.variant, options.backend, options.precision, options.threads
        )
        session = EnhancerSession(enhancer_plan, some, without, command, tell)
        return _run(session, options.out, lambda: enhancers.close(some))
    _refuse(parser, options, ("variant", "sizes"), "is an enhancer's; this bundle is a captioner's")
    plan = _plan(options)
    make_folder(options.out, "--out")
    opened, left_out = variants.open_variants(
        options.bundles or [None], options.backend, options.precision, options.threads
    )
    return _run(Session(plan, opened, left_out, command, tell), options.out, lambda: variants.close(opened))


def _run(session: Session | EnhancerSession, out: Path, close: Callable[[], None]) -> int:
    """Measures and writes; what a failure leaves is worth as much as what an interruption leaves."""
    status = 0
    try:
        session.run()
    except KeyboardInterrupt:
        status = 130
    finally:
        report = session.report()
        if report.variants:
            _write(report, out)
        close()
    if report.variants:
        print("\n".join(terminal.table(report)))
    if status:
        kept = "the report is marked as partial" if report.variants else "nothing was timed yet, so there is no report"
        print(f"camscribe: interrupted; {kept}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="camscribe bench",
        description="Measures latency and quality of bundles on every backend and precision that works here, all in "
        "turn, and writes report.json, report.md and report.html. See docs/bench.md.",
    )
    parser.add_argument(
        "bundles",
        nargs="*",
        type=Path,
        metavar="BUNDLE",
        help="folders, or the word enhancer (default: the captioner that comes with camscribe)",
    )
    parser.add_argument("--out", type=folder, default=Path("bench"), metavar="FOLDER", help="reports (default: bench)")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    what = parser.add_argument_group("what is measured")
    backends = ", ".join(variants.BACKENDS)
    what.add_argument("--backend", nargs="+", default=[], metavar="NAME", help=f"some of {backends} (default: all)")
    what.add_argument("--precision", nargs="+", default=[], metavar="NAME", help="some of the bundle's (default: all)")
    what.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: one per physical core)")
    what.add_argument("--images", nargs="+", metavar="IMAGE", help=f"files, folders, globs (default: {EXAMPLES}/)")
    what.add_argument("--peers", nargs="+", default=[], metavar="NAME", help="others to measure beside, all or none")
    what.add_argument("--checkpoint", type=Path, metavar="FILE", help="for peers (default: the bundle's own weights)")
    what.add_argument("--builds", action="store_true", help="build TensorRT engines anew, twice, and time it")
    what.add_argument("--no-energy", action="store_true", help="do not measure energy")
    what.add_argument("--no-roofline", action="store_true", help="do not measure what the machine can do at most")
    enhancer = parser.add_argument_group("of an enhancer", "It is measured beside the same network in PyTorch.")
    enhancer.add_argument("--variant", metavar="NAME", help="psnr or gan (default: the bundle's)")
    enhancer.add_argument(
        "--sizes",
        nargs="+",
        metavar="WxH",
        help=f"columns x rows that are cut from the photograph (default: {' '.join(enhancers.SIZES)})",
    )
    quality = parser.add_argument_group(
        "quality", "Needs camscribe[train]. Without --data the captions are compared only."
    )
    quality.add_argument("--data", type=Path, metavar="FOLDER", help="a data set with captions")
    quality.add_argument("--split", metavar="NAME", help="split, or a part such as 'dev[:200]' (default: dev)")
    quality.add_argument("--format", default="flickr8k", help="layout of the data set (default: flickr8k)")
    quality.add_argument(
        "--captions", type=Path, metavar="FILE", help="the file of captions, where it has another name"
    )
    how = parser.add_argument_group("how it is measured")
    how.add_argument("--rounds", type=int, default=20, metavar="N", help="captions of each photograph (default: 20)")
    how.add_argument("--seconds", type=float, metavar="S", help="begin no new round after so long")
    how.add_argument("--warm-up", type=int, default=5, metavar="N", help="captions before that (default: 5)")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the order in each round (default: 0)")
    how.add_argument("--rate", type=float, default=30.0, metavar="HZ", help="frames a second (default: 30)")
    how.add_argument("--rate-seconds", type=float, default=5.0, metavar="S", help="how long; 0: not (default: 5)")
    how.add_argument("--batches", nargs="*", type=int, default=[1, 2, 4, 8, 16], metavar="B", help="(default: 1 to 16)")
    how.add_argument("--beams", nargs="*", type=int, default=[1, 2, 3, 5, 8], metavar="K", help="(default: 1 to 8)")
    how.add_argument("--stage-rounds", type=int, default=5, metavar="N", help="for the stages (default: 5)")
    two = parser.add_argument_group("comparing two reports")
    two.add_argument("--compare", nargs=2, type=Path, metavar=("OLD", "NEW"), help="say what got slower, and end")
    two.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="exit with 1 where a figure is worse by more than this share, and by more than the noise (default: "
        f"{compare.THRESHOLD})",
    )
    return parser


def _refuse(parser: Parser, options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Refuses options that a kind of bundle does not have."""
    for name in names:
        if getattr(options, name) != parser.get_default(name):
            raise OptionError(f"--{name.replace('_', '-')} {why}")


def _check(options: argparse.Namespace) -> None:
    """Refuses numbers that have no meaning, and what would be passed over or fail at the end."""
    if options.threshold is not None:
        raise OptionError("--threshold needs --compare OLD NEW, two reports")
    for name, least in (("rounds", 1), ("warm_up", 0), ("stage_rounds", 1), ("rate_seconds", 0), ("seed", 0)):
        value = getattr(options, name)
        if not least <= value <= 1_000_000:
            raise OptionError(f"--{name.replace('_', '-')} is {value:g}; expected at least {least}")
    if not 0 < options.rate <= 10_000:
        raise OptionError(f"--rate is {options.rate:g}; expected frames a second, above 0 to 10000")
    if options.seconds is not None and not 0 < options.seconds <= 1e6:
        raise OptionError(f"--seconds is {options.seconds:g}; expected more than 0")
    for name, largest in (("batches", 1024), ("beams", 64)):
        values = getattr(options, name)
        if any(not 1 <= value <= largest for value in values) or len(set(values)) < len(values):
            raise OptionError(f"--{name} are {values}; expected different numbers from 1 to {largest}")
    unknown = [name for name in options.peers if name not in PEERS and options.peers not in (["all"], ["none"])]
    if unknown:
        raise OptionError(f"--peers has {unknown[0]!r}; expected all, or some of {', '.join(PEERS)}")
    if options.checkpoint is not None and not options.checkpoint.is_file():
        raise OptionError(f"--checkpoint {options.checkpoint}: no such file; expected a checkpoint of camscribe train")
    if options.data is None and (options.split is not None or options.captions is not None):
        raise OptionError("--split and --captions need --data, the data set's folder")
    if options.data is not None and importlib.util.find_spec("safetensors") is None:
        raise EngineError('--data needs safetensors, which is not installed: pip install "camscribe[train]"')


def _plan(options: argparse.Namespace) -> Plan:
    if options.images is None and not EXAMPLES.is_dir():
        raise OptionError(f"there is no folder {EXAMPLES} here; name photographs with --images")
    files, problems = expand(options.images or [str(EXAMPLES)])
    if problems:
        raise problems[0]
    images = {portable(str(path)): read(path) for path in files}
    split = (
        None if options.data is None else Split(options.data, options.split or "dev", options.format, options.captions)
    )
    return Plan(
        images=images,
        files=tuple(files),
        rounds=options.rounds,
        seconds=options.seconds,
        warm_up=options.warm_up,
        seed=options.seed,
        threads=options.threads,
        rate_hz=options.rate,
        rate_seconds=options.rate_seconds,
        batches=tuple(options.batches),
        beams=tuple(options.beams),
        stage_rounds=options.stage_rounds,
        split=split,
        builds=options.builds,
        peers=() if options.peers == ["none"] else tuple(options.peers),
        checkpoint=options.checkpoint,
        roofline=not options.no_roofline,
        energy=not options.no_energy,
    )


def _enhancer_plan(options: argparse.Namespace) -> EnhancerPlan:
    if len(options.bundles) > 1:
        raise OptionError("enhancers are measured one by one; name one bundle")
    if options.peers not in ([], ["none"]):
        raise OptionError("--peers is none or left out for an enhancer, whose peer is PyTorch")
    if options.images and len(options.images) > 1:
        raise OptionError("--images names several photographs; an enhancer is measured on pieces of one")
    name = options.images[0] if options.images else str(EXAMPLES / "horses.jpg")
    if not options.images and not Path(name).is_file():
        raise OptionError(f"there is no {name} here; name a photograph with --images")
    files, problems = expand([name])
    if problems:
        raise problems[0]
    photograph = read(files[0])
    sizes = options.sizes or enhancers.SIZES
    images = {size: enhancers.cut(photograph, size, portable(str(files[0]))) for size in sizes}
    return EnhancerPlan(
        images=images,
        photograph=portable(str(files[0])),
        rounds=options.rounds,
        seconds=options.seconds,
        warm_up=options.warm_up,
        seed=options.seed,
        threads=options.threads,
        stage_rounds=options.stage_rounds,
        builds=options.builds,
        energy=not options.no_energy,
        peer=options.peers != ["none"],
    )


def _write(report: AnyReport, folder: Path) -> None:
    """Writes the report in every form there is."""
    schema.write(report, folder / "report.json")
    write_atomically(folder / "report.md", report_markdown.render(report).encode())
    write_atomically(folder / "report.html", report_html.render(report).encode())


def _compare(old: Path, new: Path, threshold: float) -> int:
    if not 0 <= threshold <= 100:
        raise OptionError(f"--threshold is {threshold:g}; expected a share such as 0.05")
    result = compare.compare(*_both(old, new), threshold)
    print("\n".join(compare.describe(result, threshold)))
    return 1 if result.failed else 0


def _both(old: Path, new: Path) -> tuple[AnyReport, AnyReport]:
    """Two reports of one kind.

    Raises:
        DataError: one is none, or they are of two kinds.
    """
    texts = {path: schema.read_text(path) for path in (old, new)}
    kinds = [schema.kind_of(text, str(path)) == enhancer_schema.KIND for path, text in texts.items()]
    if any(kinds) and not all(kinds):
        raise DataError(f"{old} and {new}: one is a captioner's report, the other an enhancer's")
    parse = enhancer_schema.parse if any(kinds) else schema.parse
    return parse(texts[old], str(old)), parse(texts[new], str(new))


def _tell(text: str) -> None:
    print(f"camscribe: {text}", file=sys.stderr, flush=True)


def _quiet(text: str) -> None:
    """Says nothing."""
