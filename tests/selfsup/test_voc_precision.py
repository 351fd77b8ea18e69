"""Average precision and intersection over union: by hand, and as COCO's tools where they agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.detection import MeanAveragePrecision

from selfsup.evaluation.voc.precision import (
    average_precision,
    confusion,
    detection_hits,
    intersection_over_union,
    mean_precision,
)


def found(*rows):
    """Return detections of one image: (label, score, box) each."""
    return {
        "labels": torch.tensor([row[0] for row in rows]),
        "scores": torch.tensor([row[1] for row in rows]),
        "boxes": torch.tensor([row[2] for row in rows], dtype=torch.float32).view(-1, 4),
    }


def truth(*rows):
    """Return the objects of one image: (label, difficult, box) each."""
    return {
        "labels": torch.tensor([row[0] for row in rows]),
        "difficult": torch.tensor([row[1] for row in rows], dtype=torch.bool),
        "boxes": torch.tensor([row[2] for row in rows], dtype=torch.float32).view(-1, 4),
    }


def test_both_rules_by_hand():
    """Right, wrong, right, right, wrong, of 4 objects: precisions 1, 1/2, 2/3, 3/4, 3/5."""
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    hits = torch.tensor([True, False, True, True, False])
    # recalls 1/4, 2/4, 3/4: precision 1 up to 0.2, 3/4 up to 0.7, nothing above
    eleven = (3 * 1 + 5 * 0.75 + 3 * 0) / 11
    assert average_precision(scores, hits, 4, "11-point") == pytest.approx(eleven)
    assert average_precision(scores, hits, 4, "area") == pytest.approx((1 + 0.75 + 0.75) / 4)


def test_the_order_is_that_of_the_scores():
    shuffled = torch.tensor([2, 0, 4, 1, 3])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])[shuffled]
    hits = torch.tensor([True, False, True, True, False])[shuffled]
    assert average_precision(scores, hits, 4, "area") == pytest.approx(2.5 / 4)


def test_a_recall_of_three_tenths_counts_at_the_point_three_tenths():
    """In floating point 3 / 10 is less than 3 * 0.1."""
    scores, hits = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([True] * 3)
    assert average_precision(scores, hits, 10, "11-point") == pytest.approx(4 / 11)


def test_nothing_found_and_nothing_to_find():
    nothing = torch.zeros(0), torch.zeros(0, dtype=torch.bool)
    assert average_precision(*nothing, 3, "11-point") == 0
    assert average_precision(*nothing, 3, "area") == 0
    assert np.isnan(average_precision(*nothing, 0, "area"))
    assert mean_precision({"cat": 0.5, "dog": float("nan"), "cow": 1.0}) == 0.75


def test_detections_by_hand():
    """Twice the same object, a difficult one, another class, too small an overlap, a miss."""
    images = [
        found(
            (1, 0.9, [0, 0, 10, 10]),  # right
            (1, 0.8, [0, 0, 10, 9]),  # the same object again
            (1, 0.7, [20, 0, 30, 10]),  # a difficult object: does not count
            (2, 0.6, [0, 0, 10, 10]),  # another class
        ),
        found((1, 0.85, [0, 0, 10, 20]), (1, 0.3, [50, 50, 60, 60])),  # half of it; nothing there
        found((1, 0.5, [0, 0, 10, 21])),  # 10 / 21 of it
    ]
    objects = [
        truth((1, False, [0, 0, 10, 10]), (1, True, [20, 0, 30, 10])),
        truth((1, False, [0, 0, 10, 10]), (2, False, [0, 0, 10, 10])),
        truth((1, False, [0, 0, 10, 10])),
    ]
    scores, hits, positives = detection_hits(images, objects, 1)
    assert positives == 3
    assert scores.tolist() == pytest.approx([0.9, 0.8, 0.85, 0.3, 0.5])
    assert hits.tolist() == [True, False, True, False, False]
    # ranked: right, right, wrong, wrong, wrong
    assert average_precision(scores, hits, positives, "area") == pytest.approx(2 / 3)
    assert average_precision(scores, hits, positives, "11-point") == pytest.approx(7 / 11)


def test_pycocotools_finds_the_same_at_eleven_recalls():
    """Objects far apart, none difficult: both rules of matching are the same there."""
    rng = np.random.default_rng(0)
    images, objects = [], []
    for _ in range(20):
        corners = np.stack([np.arange(6) * 40.0, rng.uniform(0, 20, 6)], 1)
        boxes = np.concatenate([corners, corners + rng.uniform(8, 20, (6, 2))], 1)
        labels = rng.integers(1, 4, 6)
        objects.append(truth(*zip(labels, [False] * 6, boxes.tolist(), strict=True)))
        moved = boxes + rng.normal(0, 2.5, boxes.shape)
        named = np.where(rng.random(6) < 0.8, labels, rng.integers(1, 4, 6))
        images.append(found(*zip(named, rng.random(6), moved.tolist(), strict=True)))
    metric = MeanAveragePrecision(
        iou_thresholds=[0.5], rec_thresholds=[i / 10 for i in range(11)], class_metrics=True
    )
    metric.update(images, objects)
    theirs = metric.compute()["map_per_class"].tolist()
    ours = [
        average_precision(*detection_hits(images, objects, label), "11-point")
        for label in (1, 2, 3)
    ]
    assert 0.2 < min(ours) < max(ours) < 0.8
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_intersection_over_union_by_hand():
    predicted = torch.tensor([0, 0, 1, 1, 1, 2, 0])
    real = torch.tensor([0, 1, 1, 1, 0, 255, 255])  # two pixels of no class
    counts = confusion(predicted, real, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [0] * 4, [0] * 4]
    each = intersection_over_union(counts)
    assert each[:2].tolist() == pytest.approx([1 / 3, 2 / 4])
    assert each[2:].isnan().all()
