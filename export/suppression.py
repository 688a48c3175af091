"""Non-maximum suppression in ONNX: what the exporter writes for ``train/suppression.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How the exporter writes our own operators."""
    import camscribe.train.suppression  # noqa: F401 (registers the operator)

    return {torch.ops.camscribe.suppress.default: _suppress}


def _suppress(boxes: Any, scores: Any, overlap: float, floor: float, most: int) -> Any:
    """ONNX gives as many rows (image, class, box) as are left; as a mask, they have a fixed shape again."""
    from onnxscript import opset18

    op: Any = opset18  # whose types know no plain numbers
    kept = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, [1]), [most], [overlap], [floor])
    where = op.Gather(kept, [0, 2], axis=1)
    ones = op.Add(op.Mul(op.Cast(op.Gather(kept, 0, axis=1), to=1), 0.0), 1.0)
    return op.ScatterND(op.Mul(scores, 0.0), where, ones)
