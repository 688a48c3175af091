"""How good detections and attributes are."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from camscribe.train.detection.scenes import Targets

Detections = dict[str, Tensor]
"""``boxes`` [N, 4], ``labels`` [N] and ``scores`` [N], and of a network that tells attributes the likeliest,
``attributes`` [N]."""
OVERLAP = 0.5
"""Intersection over union from which a detection is right."""
_MOST = 100
"""Detections of an image that count, COCO's number."""


def mean_average_precision(truth: Sequence[Targets], found: Sequence[Detections], classes: int) -> float:
    """Mean over classes of the average precision at IoU 0.5, by COCO's own code (pycocotools).

    Args:
        truth: what is in each image.
        found: what was found there.
        classes: without the background; those of which there is nothing do not count.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    detections = [entry for image, each in enumerate(found) for entry in _entries(image, each)]
    if not detections:
        return 0.0
    annotations = [entry for image, each in enumerate(truth) for entry in _entries(image, each)]
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        wanted = COCO()
        wanted.dataset = {
            "images": [{"id": image} for image in range(len(truth))],
            "categories": [{"id": number} for number in range(1, classes + 1)],
            "annotations": [{**entry, "id": number} for number, entry in enumerate(annotations, start=1)],
            "info": {},
        }
        wanted.createIndex()
        judge = COCOeval(wanted, wanted.loadRes(detections), "bbox")
        judge.params.iouThrs, judge.params.maxDets = np.array([OVERLAP]), [_MOST]
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"]
    seen = precision[precision > -1]  # -1 where nothing of a class is there
    return float(seen.mean()) if seen.size else 0.0


def right_attributes(truth: Targets, told: Tensor) -> list[bool]:
    """For each box of an image that has attributes, whether the likeliest is one of them; "no attributes" is none.

    Args:
        truth: what is in the image.
        told: log-probabilities [N, A + 1] of its boxes, the true box and class given: they say nothing of the detector.
    """
    shares = truth["attributes"]
    has = (shares[:, :-1].sum(dim=1) > 0) & ~truth["crowd"]
    right: list[bool] = (shares.gather(1, told.argmax(dim=1, keepdim=True)).squeeze(1)[has] > 0).tolist()
    return right


def _entries(image: int, each: dict[str, Tensor]) -> Iterator[dict[str, Any]]:
    boxes, labels = each["boxes"].tolist(), each["labels"].tolist()
    scores = each["scores"].tolist() if "scores" in each else [1.0] * len(boxes)
    crowds = each["crowd"].tolist() if "crowd" in each else [False] * len(boxes)
    for (left, top, right, bottom), label, score, crowd in zip(boxes, labels, scores, crowds, strict=True):
        width, height = right - left, bottom - top
        yield {
            "image_id": image,
            "category_id": label,
            "bbox": [left, top, width, height],
            "area": width * height,
            "score": score,
            "iscrowd": int(crowd),
        }
