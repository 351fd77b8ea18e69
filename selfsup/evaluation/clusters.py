"""How clusters agree with the true classes, head by head."""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm import tqdm

from selfsup.evaluation.frame import Evaluation, Part, Protocol, Row, classes, labels
from selfsup.evaluation.scores import cluster_scores


def clusters(evaluation: Evaluation, settings: None) -> list[Row]:
    """Return a row for each part and each K: means over all heads of that K.

    No head is preferred, as the true classes must not choose among them; "each_head" has the scores
    of each.
    """
    rows = []
    parts: list[Part] = ["train"] if evaluation.test is None else ["train", "test"]
    for part in parts:
        truth = evaluation.images(part).targets.numpy()
        heads = evaluation.labels(part).numpy()
        scores = [
            {"head": h, "K": k} | cluster_scores(truth, own, k, evaluation.classes)
            for h, (k, own) in enumerate(
                tqdm(zip(evaluation.clusters, heads, strict=True), f"clusters of {part} images",
                     len(heads), leave=False, disable=None)
            )
        ]  # fmt: skip
        for k in sorted(set(evaluation.clusters)):
            some = [one for one in scores if one["K"] == k]
            rows.append({"part": part, "K": k, "heads": len(some), **_mean(some),
                         "each_head": some})  # fmt: skip
    return rows


def _mean(heads: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means of the scores, and the extreme sizes."""
    names = [name for name in heads[0] if name not in ("head", "K", "size_min", "size_max")]
    means = {
        name: None if heads[0][name] is None else float(np.mean([head[name] for head in heads]))
        for name in names
    }
    sizes = {"size_min": min(head["size_min"] for head in heads),
             "size_max": max(head["size_max"] for head in heads)}  # fmt: skip
    return means | sizes


CLUSTERS = Protocol(
    "clusters",
    "clusters against classes; means over all heads, none of them chosen",
    clusters,
    needs=(labels, classes),
    usual=True,
)
