"""``camscribe info``: shows what a bundle is, how it was trained and how good it is, and verifies it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from camscribe.runtime.bundle import Bundle, kind_of
from camscribe.runtime.captioner import Captioner
from camscribe.runtime.check import check_captions
from camscribe.runtime.commands.arguments import Parser, add_device_arguments, named_bundle
from camscribe.runtime.errors import OptionError
from camscribe.runtime.typed_json import encode


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = Parser(prog="camscribe info", description="Shows a bundle, and verifies its files.")
    parser.add_argument(
        "bundle",
        nargs="?",
        type=Path,
        metavar="BUNDLE",
        help="its folder, or the word enhancer (default: the captioner that comes with camscribe)",
    )
    parser.add_argument("--json", action="store_true", help="print the manifest as a JSON object")
    parser.add_argument(
        "--check", action="store_true", help="caption the bundle's own test images here, and compare the words"
    )
    add_device_arguments(parser)
    options = parser.parse_args(argv)
    options.bundle = named_bundle(options.bundle)
    if options.bundle is not None and kind_of(options.bundle) == "enhancer":
        from camscribe.runtime.commands.info_enhancer import show

        return show(options)
    bundle = Bundle.load(options.bundle)
    checks = [_check(bundle, name, options) for name in _checked(bundle, options)] if options.check else []
    if options.json:
        print(json.dumps(_as_json(bundle, checks), indent=1))
    else:
        print("\n".join(_describe(bundle, checks)))
    return 1 if any(check["same"] < check["images"] for check in checks) else 0


def _checked(bundle: Bundle, options: argparse.Namespace) -> list[str]:
    """The precisions whose expected words the bundle holds, or the one that is asked for."""
    known = bundle.manifest.parity.tokens
    if options.precision is None:
        if not known:
            raise OptionError(
                f"bundle {bundle.manifest.name!r} holds no expected words, so --check has nothing to compare"
            )
        return list(known)
    if bundle.manifest.precision_for("cpu", options.precision) not in known:
        raise OptionError(f"bundle {bundle.manifest.name!r} holds no expected words of precision {options.precision}")
    return [options.precision]


def _check(bundle: Bundle, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """Captions the parity images in one precision and counts the captions that are as expected."""
    with Captioner.load(bundle.path, options.backend, precision, options.threads) as captioner:
        return check_captions(captioner)


def _as_json(bundle: Bundle, checks: list[dict[str, Any]]) -> dict[str, Any]:
    manifest = encode(bundle.manifest)
    # A screenful of base64 helps nobody.
    manifest["parity"]["images"] = len(manifest["parity"]["images"])
    return {"path": str(bundle.path), **manifest, "checks": checks}


def _describe(bundle: Bundle, checks: list[dict[str, Any]]) -> Iterator[str]:
    manifest = bundle.manifest
    pixels, size = manifest.pixels, sum(entry.bytes for entry in manifest.files.values())
    yield f"{manifest.name}: {manifest.kind}, schema {manifest.schema}, {bundle.path}"
    yield f"files          {len(manifest.files)}, {size / 1e6:.1f} MB in all, every sha256 as recorded"
    for name, file in manifest.files.items():
        yield f"               {name:24} {file.bytes / 1e6:7.2f} MB"
    yield f"input          {pixels.width} x {pixels.height} pixels ({pixels.fit}, {pixels.filter} filter)"
    yield f"vocabulary     {manifest.vocabulary_size} tokens"
    rows, columns = manifest.attention_grid
    yield f"attention      {f'{columns} boxes' if manifest.has_boxes else f'{rows} x {columns} cells'}"
    yield f"precisions     {', '.join(manifest.precisions)} (on a CPU: {manifest.cpu_precision})"
    for title, entry in (
        ("search", encode(manifest.search)),
        ("architecture", manifest.architecture),
        ("training", manifest.provenance),
    ):
        if entry:
            yield f"\n{title}"
            yield from tree(entry, 2)
    for title, entry in (
        ("quality", manifest.quality),
        ("parity (fp16 with float32, the others with PyTorch)", manifest.parity.figures),
    ):
        if entry:
            yield f"\n{title}"
            yield from table(entry)
    for check in checks:
        yield (
            f"\ncheck: {check['precision']} on {check['backend']}: "
            f"{check['same']} of {check['images']} captions as expected"
        )
        for item in check["differences"]:
            yield f"  image {item['image']}: expected {item['expected']!r}, found {item['found']!r}"


def tree(entry: Mapping[str, Any], indent: int) -> Iterator[str]:
    """Nested values, one a line."""
    width = max(len(key) for key in entry) + 2
    for key, value in entry.items():
        if isinstance(value, Mapping) and value:
            yield f"{'':{indent}}{key}"
            yield from tree(value, indent + 2)
        else:
            text = ", ".join(map(_cell, value)) if isinstance(value, list | tuple) else _cell(value)
            yield f"{'':{indent}}{key:{width}}{text}".rstrip()


def table(entry: Mapping[str, Any]) -> Iterator[str]:
    """Nested figures as tables: a row for each innermost group, a column for each figure.

    Groups that share no figure with those above begin a table of their own.
    """
    tables: list[tuple[dict[str, None], dict[str, dict[str, Any]]]] = []
    for name, row in _groups(entry, ()):
        columns, rows = next((table for table in tables if not row.keys().isdisjoint(table[0])), ({}, {}))
        if not rows:
            tables.append((columns, rows))
        columns |= dict.fromkeys(row)
        rows[name] = row
    first = max((len(name) for _, rows in tables for name in rows), default=0)
    for columns, rows in tables:
        cells = {name: [_cell(row.get(key)) for key in columns] for name, row in rows.items()}
        widths = [max(len(key), *(len(texts[index]) for texts in cells.values())) for index, key in enumerate(columns)]
        yield f"  {'':{first}}  " + "  ".join(f"{key:>{width}}" for key, width in zip(columns, widths, strict=True))
        for name, texts in cells.items():
            line = "  ".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))
            yield f"  {name:{first}}  {line}".rstrip()


def _groups(entry: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    plain = {key: value for key, value in entry.items() if not isinstance(value, Mapping)}
    if plain:
        yield " ".join(path), plain
    for key, value in entry.items():
        if isinstance(value, Mapping):
            yield from _groups(value, (*path, key))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_cell(item)}" for key, item in value.items())
    return f"{value:.5g}" if isinstance(value, float) else str(value)
