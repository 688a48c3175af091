"""What an engine really computes in which precision, read from TensorRT's engine inspector.

A build may quietly give another precision than was asked for: flags that a version does not have, types that were lost
on the way. So an engine is asked, before it is used.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from camscribe.runtime.errors import EngineError
from camscribe.runtime.tensorrt import versions

_MOVES = ("reformat", "constant", "cast", "noop", "shuffle", "identity", "signal", "wait", "shape", "move")
"""Beginnings of types of layers that only move numbers."""
_DTYPE_KEYS = ("datatype", "format/datatype", "format")
"""Where a tensor's type stands: 8.x to 10.x have one field for format and type, 11 has one for each."""
_DTYPES = (
    ("int8", ("int8",)),
    ("half", ("half", "fp16", "float16")),
    ("bfloat16", ("bfloat16", "bf16")),
    ("float", ("float", "fp32")),
)
"""Names of types, and how 8.x (``Row major linear FP16 format``) and later versions (``Half``) write them."""


@dataclass(frozen=True)
class Audit:
    """How many layers compute in which precision. A layer counts where its lowest type is."""

    layers: dict[str, int]
    """By ``int8``, ``half``, ``bfloat16``, ``float`` and ``other`` (integers), without those that only move numbers."""

    def share(self, precision: str) -> float:
        """The share of one precision among the layers that compute with fractions; 0 where there are none."""
        total = sum(count for name, count in self.layers.items() if name != "other")
        return self.layers.get(precision, 0) / total if total else 0.0

    def __str__(self) -> str:
        total = sum(self.layers.values())
        parts = ", ".join(
            f"{count} in {name}" for name, count in sorted(self.layers.items(), key=lambda item: -item[1])
        )
        return f"{total} layers: {parts}"


def audit(trt: ModuleType, engine: Any) -> Audit:
    """Asks an engine that was built with detailed profiling verbosity.

    Raises:
        EngineError: the inspector's answer cannot be read.
    """
    inspector = engine.create_engine_inspector()
    if inspector is None:
        raise EngineError("TensorRT gives no inspector for the engine, so its precision cannot be audited")
    return read(inspector.get_engine_information(versions.member(trt, "LayerInformationFormat.JSON")))


def read(text: str) -> Audit:
    """Reads the inspector's JSON, of any version.

    Raises:
        EngineError: it is not what the inspector writes, or without details.
    """
    try:
        # 8.x writes numbers such as nan and -inf as they are; names may hold any control character.
        layers = json.loads(text, strict=False)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(f"the engine inspector wrote what is not its JSON ({error}); report this version") from error
    if not isinstance(layers, list) or not layers or not all(isinstance(layer, dict) for layer in layers):
        raise EngineError("the engine inspector tells names of layers only; build with detailed profiling verbosity")
    counts: Counter[str] = Counter()
    for layer in layers:
        if not str(layer.get("LayerType", "")).lower().startswith(_MOVES):
            counts[_precision(layer)] += 1
    return Audit(dict(counts))


def check(found: Audit, precision: str, name: str) -> None:
    """Refuses an engine in which nothing runs in the precision that was asked for.

    Raises:
        EngineError: an ``fp16`` engine without a layer in half precision, or an ``int8`` one without one in int8.
    """
    wanted = {"fp16": "half", "int8": "int8"}.get(precision)
    if wanted is not None and not found.layers.get(wanted):
        raise EngineError(
            f"{name}: TensorRT computes no layer in {wanted} ({found}), so the engine would be no faster than float32; "
            "report this with the versions that camscribe doctor shows"
        )


def _precision(layer: Mapping[str, Any]) -> str:
    said = set(_tensor_dtypes(layer))
    return next((name for name, _ in _DTYPES if name in said), "other")


def _tensor_dtypes(layer: Mapping[str, Any]) -> Iterator[str]:
    """Types of a layer's inputs, outputs and weights."""
    for side in ("Inputs", "Outputs"):
        tensors = layer.get(side)
        for tensor in tensors if isinstance(tensors, list) else ():
            if isinstance(tensor, dict):
                lower = {str(key).lower(): str(value) for key, value in tensor.items()}
                written = next((lower[key] for key in _DTYPE_KEYS if key in lower), "")
                yield from _names(written)
    for name in ("Weights", "Bias"):
        weights = layer.get(name)
        if isinstance(weights, dict) and weights.get("Count", 0):
            yield from _names(str(weights.get("Type", "")))


def _names(written: str) -> Iterator[str]:
    lower = written.lower()
    # bfloat16 has float16 in its name.
    if "bf" in lower:
        yield "bfloat16"
        return
    for name, spellings in _DTYPES:
        if any(spelling in lower for spelling in spellings):
            yield name
            return
