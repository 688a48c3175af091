"""How large the numbers of a half-precision graph get on real images, and how far they are from float32's.

Half precision ends at 65504. Watching makes ONNX Runtime write every tensor in its own type: each is rounded to half,
unlike in a plain run on a CPU, which keeps float32 between many nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import onnx

from camscribe.export.calibration import Feeds, open_watching
from camscribe.export.half_plan import FLOAT, HALF, HALF_MAX
from camscribe.export.parity import distance
from camscribe.export.plain import element_types
from camscribe.runtime.errors import EngineError

_NAMES = {HALF: "float16", FLOAT: "float32"}


class Ranges:
    """Every float tensor of a half-precision graph: its largest absolute value, and its distance from float32's.

    The numbers of the float32 graph count too: where half overflows, they say by how much.

    Args:
        half: the graph, weights inside.
        reference: the float32 graph that it was made of, weights inside.
    """

    def __init__(self, half: onnx.ModelProto, reference: onnx.ModelProto) -> None:
        weights = {weight.name for weight in half.graph.initializer}
        kinds = {name: kind for name, kind in element_types(half).items() if kind in _NAMES and name not in weights}
        self._name = half.graph.name
        self.kinds = {name: _NAMES[kind] for name, kind in kinds.items()}
        """``float16`` or ``float32`` of each tensor."""
        self.largest = dict.fromkeys(kinds, 0.0)
        """Absolute value of each tensor; infinity where one was not finite."""
        self.distance: dict[str, float] = {}
        """Largest absolute difference of each tensor that the float32 graph has too."""
        self._names = sorted(set(kinds) & _made(half))
        self._common = sorted(set(kinds) & _made(half) & _made(reference))
        self._half, self._reference = open_watching(half, self._names), open_watching(reference, self._common)

    def watch(self, half: Iterable[Feeds], reference: Iterable[Feeds]) -> None:
        """Runs both graphs on their inputs."""
        for own, other in zip(half, reference, strict=True):
            made = dict(zip(self._names, self._half.run(self._names, dict(own)), strict=True))
            expected = dict(zip(self._common, self._reference.run(self._common, dict(other)), strict=True))
            for values in (own, made, expected):
                for name, value in values.items():
                    if name in self.kinds:
                        self._widen(name, value)
            for name, value in expected.items():
                self.distance[name] = max(self.distance.get(name, 0.0), distance(made[name], value))

    def summary(self) -> dict[str, Any]:
        """What the manifest keeps: the largest number held in half, where, and how many tensors have which type."""
        half = {name: value for name, value in self.largest.items() if self.kinds[name] == "float16"}
        name = max(half, key=lambda key: half[key])
        return {
            "largest": half[name],
            "largest_in": name,
            "float16_tensors": len(half),
            "float32_tensors": len(self.largest) - len(half),
        }

    def table(self) -> dict[str, Any]:
        """By tensor, the largest first."""
        order = sorted(self.largest, key=lambda name: -self.largest[name])
        return {
            name: {"dtype": self.kinds[name], "largest": self.largest[name], "distance": self.distance.get(name)}
            for name in order
        }

    def refuse(self) -> None:
        """Refuses a graph whose numbers half cannot hold.

        Raises:
            EngineError: names the tensors.
        """
        wrong = [
            f"{name} reaches {value:.6g}"
            for name, value in self.largest.items()
            if not value <= (HALF_MAX if self.kinds[name] == "float16" else math.inf) or math.isinf(value)
        ]
        if wrong:
            raise EngineError(
                f"the fp16 {self._name} would overflow, since half precision ends at {HALF_MAX:.0f}: "
                f"{'; '.join(wrong[:5])} ({len(wrong)} tensors); nothing was written: export with --no-fp16"
            )

    def _widen(self, name: str, value: Any) -> None:
        if value.size:
            largest = max(float(value.max()), -float(value.min()))
            self.largest[name] = max(self.largest[name], math.inf if math.isnan(largest) else largest)


def _made(model: onnx.ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in node.output}
