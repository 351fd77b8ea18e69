"""Mean average precision and mean intersection over union, by the rules of Pascal VOC.

torchmetrics and pycocotools have COCO's rules: they know no difficult objects, and interpolate at
101 points. The tests compare the two where they must agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import box_iou

Rule = Literal["11-point", "area"]
RULES: tuple[Rule, ...] = ("11-point", "area")
#: A detection hits an object if their intersection is at least so much of their union.
OVERLAP = 0.5


def average_precision(scores: Tensor, hits: Tensor, positives: int, rule: Rule) -> float:
    """Return the average precision of a ranking.

    Parameters
    ----------
    scores : Tensor
        (n,) confidences; of equal ones the first comes first.
    hits : Tensor
        (n,) bool: whether it is right.
    positives : int
        How many there are to be found, in the ranking or not.
    rule : {"11-point", "area"}
        The mean of the highest precisions at recalls of 0, 0.1, ..., 1 or more (VOC 2007), or the
        area under that highest precision (VOC 2010 and later).
    """
    if positives == 0:
        return float("nan")
    right = hits[scores.argsort(descending=True, stable=True)].double()
    found = right.cumsum(0)
    precision = found / torch.arange(1, len(right) + 1, device=right.device)
    highest = precision.flip(0).cummax(0).values.flip(0)  # at this recall or more
    if rule == "area":
        return float((highest * right).sum() / positives)
    points = torch.arange(11, device=right.device)
    enough = (
        10 * found.round().long() >= points[:, None] * positives
    )  # whole numbers: 3 / 10 is 0.3
    first = enough.int().argmax(1) if len(right) else points
    values = [float(highest[i]) if bool(any_) else 0.0
              for i, any_ in zip(first, enough.any(1), strict=True)]  # fmt: skip
    return sum(values) / 11


def detection_hits(
    detections: Sequence[dict[str, Tensor]], truths: Sequence[dict[str, Tensor]], label: int
) -> tuple[Tensor, Tensor, int]:
    """Judge the detections of one class in all images.

    A detection belongs to the object of its class that it overlaps most. It is right if that
    overlap is 0.5 or more and no detection of higher confidence had that object; it does not count
    if the object is difficult.

    Parameters
    ----------
    detections : sequence of dict
        Of each image boxes (n, 4), labels (n,) and scores (n,).
    truths : sequence of dict
        Of each image boxes (m, 4), labels (m,) and difficult (m,).
    label : int
        The class.

    Returns
    -------
    scores, hits : Tensor
        (k,) of those that count; hits are bool.
    positives : int
        Objects that are not difficult.
    """
    scores, hits, positives = [], [], 0
    for found, truth in zip(detections, truths, strict=True):
        own, real = found["labels"] == label, truth["labels"] == label
        difficult = truth["difficult"][real]
        positives += int((~difficult).sum())
        confidence, order = found["scores"][own].sort(descending=True, stable=True)
        boxes = found["boxes"][own][order]
        taken = torch.zeros_like(difficult)
        overlaps = box_iou(boxes, truth["boxes"][real])
        for score, row in zip(confidence, overlaps, strict=True):
            hit = False
            if len(row) and float(row.max()) >= OVERLAP:
                best = int(row.argmax())
                if difficult[best]:
                    continue
                hit = not bool(taken[best])
                taken[best] = True
            scores.append(score)
            hits.append(hit)
    return torch.tensor(scores), torch.tensor(hits, dtype=torch.bool), positives


def mean_precision(average: dict[str, float]) -> float:
    """Return the mean over the classes that occur."""
    known = [value for value in average.values() if value == value]
    return sum(known) / max(len(known), 1)


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Return the (classes, classes) int64 counts of pixels, truth by prediction.

    Pixels whose truth is no class are left out.
    """
    inside = truth < classes
    pairs = truth[inside] * classes + predicted[inside]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def intersection_over_union(counts: Tensor) -> Tensor:
    """Return the (classes,) shares of a confusion table; NaN for classes that do not occur."""
    both = counts.diag().double()
    return both / (counts.sum(0) + counts.sum(1) - counts.diag())
