"""What can be said of clusters without true classes, on a sample of the images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from sklearn.metrics import silhouette_score
from torch import Tensor
from tqdm import tqdm

from selfsup.evaluation.features import shown_digest
from selfsup.evaluation.frame import Evaluation, Protocol, Row, labels
from selfsup.evaluation.neighbours import most_similar
from selfsup.evaluation.scores import nmi


@dataclass(frozen=True)
class UnlabelledSettings:
    """How much is looked at."""

    clusters: int = 100
    """Clusters of a head whose silhouette is measured, at most, and images of each."""
    images: int = 20
    queries: int = 1000
    """Images whose neighbours are looked up."""
    neighbours: int = 8
    shown: int = 10
    """Images whose neighbours are on the page."""


def unlabelled(evaluation: Evaluation, settings: UnlabelledSettings) -> list[Row]:
    """Return a row for each K: means over its heads, in the features of the run.

    silhouette
        Rousseeuw's, by cosine, of a sample of clusters and images.
    neighbours_agree
        Share of an image's nearest neighbours that are in its cluster.
    heads_agree
        NMI between the labels of two heads, mean over all pairs of the same K.
    """
    features, heads = evaluation.features("train"), evaluation.labels("train")
    queries = spread(len(features), settings.queries)
    _, near = most_similar(
        features[queries], features, settings.neighbours, device=evaluation.device, own=queries
    )
    near = near.cpu()
    shown = torch.cat([queries[:, None], near], 1)[spread(len(queries), settings.shown)]
    rows: list[Row] = []
    for k in tqdm(sorted(set(evaluation.clusters)), "clusters", leave=False, disable=None):
        own = [head for head, c in zip(heads, evaluation.clusters, strict=True) if c == k]
        agree = [float((y[near] == y[queries][:, None]).double().mean()) for y in own]
        pairs = [nmi(a.numpy(), b.numpy()) for a, b in combinations(own, 2)]
        rows.append({
            "K": k,
            "heads": len(own),
            "silhouette": float(np.mean([_silhouette(features, y, settings) for y in own])),
            "neighbours_agree": float(np.mean(agree)),
            "heads_agree": float(np.mean(pairs)) if pairs else None,
        })  # fmt: skip
    images = evaluation.train
    rows[0]["neighbours"] = {
        "paths": [[images.paths[i] for i in line] for line in shown.tolist()],
        "shown": shown_digest(images, shown.flatten()),
    }
    return rows


def two_images(evaluation: Evaluation) -> str | None:
    """An image has a neighbour."""
    return None if len(evaluation.train) > 1 else "one image has no neighbours"


def spread(n: int, most: int) -> Tensor:
    """Return at most so many of n positions, evenly spaced."""
    return torch.from_numpy(np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64)))


def _silhouette(features: Tensor, head: Tensor, settings: UnlabelledSettings) -> float:
    """Return the silhouette of some images of some clusters; 0 where there is only one cluster."""
    found = torch.bincount(head).nonzero()[:, 0]
    chosen = [
        members[spread(len(members), settings.images)]
        for cluster in found[spread(len(found), settings.clusters)]
        for members in [(head == cluster).nonzero()[:, 0]]
    ]
    if not 2 <= len(chosen) < sum(map(len, chosen)):
        return 0.0
    rows = torch.cat(chosen)
    return float(silhouette_score(features[rows].numpy(), head[rows].numpy(), metric="cosine"))


UNLABELLED = Protocol(
    "unlabelled",
    "silhouette, agreement of neighbours and of heads: without classes",
    unlabelled,
    needs=(labels, two_images),
    usual=True,
)
