"""``camscribe info`` of an enhancer's bundle."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np

from camscribe.runtime.commands.info import table, tree
from camscribe.runtime.enhancer import Enhancer
from camscribe.runtime.enhancer_bundle import EnhancerBundle
from camscribe.runtime.enhancer_network import Backend
from camscribe.runtime.errors import OptionError
from camscribe.runtime.typed_json import encode

_LEVELS = 1
"""Of 255, that float32 on another machine may be off: another order of sums may round differently."""


def show(options: argparse.Namespace) -> int:
    """Shows the bundle that the options of ``camscribe info`` name; returns the exit status."""
    bundle = EnhancerBundle.load(options.bundle)
    checks = [_check(bundle, variant, options) for variant in bundle.manifest.variants] if options.check else []
    if options.json:
        manifest = encode(bundle.manifest)
        # A screenful of base64 helps nobody.
        manifest["parity"] = {"figures": manifest["parity"]["figures"]}
        print(json.dumps({"path": str(bundle.path), **manifest, "checks": checks}, indent=1))
    else:
        print("\n".join(_describe(bundle, checks)))
    return 1 if any(check["largest"] > check["allowed"] for check in checks) else 0


def _check(bundle: EnhancerBundle, variant: str, options: argparse.Namespace) -> dict[str, Any]:
    """Enhances the parity image, and compares it with what the exporting machine's float32 graph made."""
    if options.backend not in get_args(Backend):
        raise OptionError(f"--backend is {options.backend}; an enhancer runs on {', '.join(get_args(Backend))}")
    precision = options.precision or "float32"
    expected = bundle.parity_enhanced(variant).astype(np.int16)
    with Enhancer.load(bundle.path, options.backend, precision, options.threads, variant=variant) as enhancer:
        found = enhancer.enlarge(bundle.parity_image()).astype(np.int16)
    apart = np.abs(found - expected)
    # Another precision may be as far off as it was where the bundle was made, and a level more.
    measured = bundle.manifest.parity.figures[variant][precision]["largest"]
    return {
        "variant": variant,
        "precision": precision,
        "backend": enhancer.choice.backend,
        "largest": int(apart.max()),
        "mean": float(apart.mean()),
        "allowed": _LEVELS + measured,
    }


def _describe(bundle: EnhancerBundle, checks: list[dict[str, Any]]) -> Iterator[str]:
    manifest = bundle.manifest
    size = sum(entry.bytes for entry in manifest.files.values())
    yield f"{manifest.name}: {manifest.kind}, schema {manifest.schema}, {bundle.path}"
    yield f"files          {len(manifest.files)}, {size / 1e6:.1f} MB in all, every sha256 as recorded"
    for name, file in manifest.files.items():
        yield f"               {name:24} {file.bytes / 1e6:7.2f} MB"
    yield f"enlarges       x{manifest.scale}, images of {manifest.smallest} x {manifest.smallest} pixels or more"
    yield f"radius         {manifest.radius} pixels, by which tiles overlap"
    for variant, graphs in manifest.variants.items():
        default = ", the default" if variant == manifest.default_variant else ""
        yield f"variant        {variant}{default}: {', '.join(graphs)} (on a CPU: {manifest.cpu_precision})"
    for title, entry in (("architecture", manifest.architecture), ("training", manifest.provenance)):
        if entry:
            yield f"\n{title}"
            yield from tree(entry, 2)
    for title, entry in (
        ("quality", manifest.quality),
        ("parity (levels of 255 from PyTorch)", manifest.parity.figures),
    ):
        if entry:
            yield f"\n{title}"
            yield from table(entry)
    for check in checks:
        what = f"{check['variant']} {check['precision']} on {check['backend']}"
        yield (
            f"\ncheck: {what}: {check['largest']} levels at most "
            f"from what was expected ({check['allowed']} allowed), {check['mean']:.3f} on average"
        )
