"""Which numbers each tensor of a graph takes on real images: what static quantisation needs to know.

Two passes over the same inputs: the first finds the extremes of every channel, the second a histogram between them. A
range is then the one with the least squared error of 8-bit numbers (rounding inside it plus clipping outside): where a
layer has no nonlinearity the outermost values are rare, and a range as wide as they are spends its 256 steps badly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from camscribe.runtime.threads import physical_cores

Feeds = Mapping[str, npt.NDArray[Any]]
Doubles = npt.NDArray[np.float64]
_BINS = 256
_SHARES = np.linspace(0.16, 1.0, 43)
"""Shares of the whole range that are tried."""


class Range(NamedTuple):
    """What a tensor's 8-bit numbers stand for; holds 0, which padding needs to be exact."""

    low: float
    high: float

    @property
    def scale(self) -> np.float32:
        """Step between two numbers."""
        step: np.float32 = np.float32(max((self.high - self.low) / 255, 1e-8))
        return step

    @property
    def zero_point(self) -> np.uint8:
        """The 8-bit number of 0."""
        zero: np.uint8 = np.uint8(min(max(round(-self.low / float(self.scale)), 0), 255))
        return zero


class Observation:
    """What calibration saw of one tensor, by channel (axis 1 of images, else the last). C channels."""

    def __init__(self) -> None:
        self.low: Doubles = np.zeros(0)
        """[C] smallest value, at most 0."""
        self.high: Doubles = np.zeros(0)
        """[C] largest value, at least 0."""
        self._counts: Doubles = np.zeros((0, _BINS))

    def widen(self, value: npt.NDArray[np.float32]) -> None:
        """Takes the extremes."""
        rows = _by_channel(value)
        if not len(self.low):
            self.low, self.high = np.zeros(len(rows)), np.zeros(len(rows))
            self._counts = np.zeros((len(rows), _BINS))
        self.low = np.minimum(self.low, rows.min(axis=1))
        self.high = np.maximum(self.high, rows.max(axis=1))

    def count(self, value: npt.NDArray[np.float32]) -> None:
        """Takes the histogram; ``widen`` has seen all values before."""
        rows = _by_channel(value)
        scale = ((_BINS - 1) / np.maximum(self.high - self.low, 1e-12)).astype(np.float32)
        bins = ((rows - self.low.astype(np.float32)[:, None]) * scale[:, None] + np.float32(0.5)).astype(np.int64)
        np.clip(bins, 0, _BINS - 1, out=bins)
        bins += np.arange(len(rows))[:, None] * _BINS
        self._counts += np.bincount(bins.ravel(), minlength=self._counts.size).reshape(self._counts.shape)

    @property
    def mean(self) -> Doubles:
        """[C] mean value."""
        mean: Doubles = (self._shares * self._values).sum(axis=1)
        return mean

    def divided(self, divisor: Doubles) -> Observation:
        """What would have been seen had channel c been divided by ``divisor[c]``, above 0."""
        other = Observation()
        other.low, other.high, other._counts = self.low / divisor, self.high / divisor, self._counts
        return other

    def best_range(self) -> Range:
        """The range of the whole tensor with the least squared error."""
        low, high = float(self.low.min()), float(self.high.max())
        values, shares = self._values, self._shares
        errors = [
            float((shares * (values - np.clip(values, low * part, high * part)) ** 2).sum(axis=1).mean())
            + _rounding((high - low) * part)
            for part in _SHARES
        ]
        part = float(_SHARES[int(np.argmin(errors))])
        return Range(low * part, high * part)

    def best_limits(self) -> Doubles:
        """[C] the largest absolute value to keep of each channel, had each a scale of its own."""
        widest = np.maximum(-self.low, self.high)
        values, shares = self._values, self._shares
        signs = 2.0 if self.low.min() < 0 else 1.0
        errors = []
        for part in _SHARES:
            limit = (widest * part)[:, None]
            clipping = (shares * (values - np.clip(values, -limit, limit)) ** 2).sum(axis=1)
            errors.append(clipping + _rounding(signs * widest * part))
        best: Doubles = widest * _SHARES[np.argmin(errors, axis=0)]
        return best

    @property
    def _values(self) -> Doubles:
        """[C, bins]"""
        values: Doubles = self.low[:, None] + ((self.high - self.low) / (_BINS - 1))[:, None] * np.arange(_BINS)
        return values

    @property
    def _shares(self) -> Doubles:
        """[C, bins]"""
        shares: Doubles = self._counts / np.maximum(self._counts.sum(axis=1, keepdims=True), 1)
        return shares


def observe(
    model: onnx.ModelProto, tensors: Sequence[str], feeds: Callable[[], Iterable[Feeds]]
) -> dict[str, Observation]:
    """Runs a float32 graph and watches some of its tensors.

    Args:
        model: the graph, weights inside.
        tensors: names of what is watched.
        feeds: gives the same inputs each time it is called.
    """
    seen = {name: Observation() for name in tensors}
    if not tensors:  # of a model with small matrices only; ONNX Runtime takes no names for all outputs
        return seen
    for name, value in _run(model, tensors, feeds()):
        seen[name].widen(value)
    for name, value in _run(model, tensors, feeds()):
        seen[name].count(value)
    return seen


def _run(
    model: onnx.ModelProto, tensors: Sequence[str], feeds: Iterable[Feeds]
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    session = open_watching(model, tensors)
    for feed in feeds:
        yield from zip(tensors, session.run(list(tensors), dict(feed)), strict=True)


def open_watching(model: onnx.ModelProto, tensors: Sequence[str] = ()) -> Any:
    """An ONNX Runtime session of a graph (weights inside) with ``tensors`` among its outputs."""
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {value.name for value in (*watched.graph.output, *watched.graph.input)}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = physical_cores()
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _by_channel(value: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[C, everything else]"""
    axis = 1 if value.ndim == 4 else value.ndim - 1
    return np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1)


def _rounding(width: Any) -> Any:
    """Mean squared error of rounding to 255 steps of a range of this width."""
    return (width / 255) ** 2 / 12
