"""The tables in the documents, made of the kept results.

    python -m camscribe.benchmarks.tables            # writes them
    python -m camscribe.benchmarks.tables --check    # says what is out of date; exit status 1

A document marks what is made with two comments, ``<!-- table: NAME -->`` and ``<!-- end -->``; what stands between them
is replaced. The names are those of ``document_tables.BLOCKS``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from camscribe.benchmarks import scripts
from camscribe.benchmarks.document_tables import BLOCKS, Results
from camscribe.runtime.errors import DataError, OptionError
from camscribe.runtime.files import write_atomically

RESULTS = Path("benchmarks") / "results"
_MARKED = re.compile(r"(<!-- table: (?P<name>[^>]*?) -->\n)(?P<body>.*?)(?P<end><!-- end -->)", re.DOTALL)


def documents(root: Path) -> list[Path]:
    """Every document of a checkout that may hold tables."""
    return sorted([root / "README.md", root / "benchmarks" / "README.md", *(root / "docs").glob("*.md")])


def render(text: str, results: Results, where: str) -> str:
    """A document with its tables made anew.

    Args:
        text: of the document.
        results: of the benchmarks.
        where: its name, for messages.

    Raises:
        DataError: a table has no end or an unknown name, or its results are missing or lack a figure.
    """
    found = [match["name"] for match in _MARKED.finditer(text)]
    if len(found) != text.count("<!-- table:") or len(found) != text.count("<!-- end -->"):
        raise DataError(f"{where}: a <!-- table: NAME --> without its own <!-- end -->")
    unknown = [name for name in found if name not in BLOCKS]
    if unknown:
        raise DataError(f"{where}: has a table {unknown[0]!r}; expected one of {', '.join(BLOCKS)}")

    def made(match: re.Match[str]) -> str:
        try:
            lines = BLOCKS[match["name"]](results)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"{where}: table {match['name']}: the results lack a figure ({error!r})") from error
        return "\n".join((match[1].rstrip("\n"), *lines, match["end"]))

    return _MARKED.sub(made, text)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes or checks; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a table is out of date")
    parser.add_argument("--root", type=Path, default=Path(), metavar="FOLDER", help="the checkout (default: here)")
    options = parser.parse_args(argv)
    if not (options.root / RESULTS).is_dir():
        raise OptionError(
            f"there is no {RESULTS} in {options.root.resolve()}; run it in a checkout, or name its --root"
        )
    results = Results(options.root / RESULTS)
    changed: dict[Path, str] = {}
    for path in documents(options.root):
        text = path.read_text(encoding="utf-8")
        new = render(text, results, str(path.relative_to(options.root)))
        if new != text:
            changed[path] = new
    for path, text in changed.items():
        if not options.check:
            write_atomically(path, text.encode())
        what = "is out of date; run: python -m camscribe.benchmarks.tables" if options.check else "written"
        print(f"{path.relative_to(options.root)}: {what}")
    return int(options.check and bool(changed))


if __name__ == "__main__":
    scripts.end(main, "tables")
