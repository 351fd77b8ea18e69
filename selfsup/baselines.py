"""Labels by k-means, for comparison: DeepCluster's way on SeLa's code path."""

from __future__ import annotations

import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from selfsup.world import World

ITERATIONS = 50


def kmeans(
    features: Tensor, k: int, start: Tensor | None, seed: int, rows: slice, n: int, world: World
) -> tuple[Tensor, Tensor]:
    """Cluster the features of all processes; return labels of this one's rows, and centroids.

    Parameters
    ----------
    features : Tensor
        (rows, D) float32.
    k : int
        Number of clusters.
    start : Tensor, optional
        (k, D) centroids to start from: with those of the last update clusters keep their numbers,
        so the head need not be reset. k-means++ without.
    seed : int
        Of k-means++.
    rows, n, world
        Which of the n rows these are.

    Returns
    -------
    labels : Tensor
        (rows,) int64.
    centroids : Tensor
        (k, D) float32, on the CPU.
    """
    whole = world.gather_rows(features, rows, n).cpu()
    if world.first:
        solver = KMeans(
            k,
            init="k-means++" if start is None else start.numpy(),
            n_init=1,
            max_iter=ITERATIONS,
            random_state=seed % 2**32,
        )
        with threadpool_limits(1):  # sums of several threads come in any order
            labels = torch.from_numpy(solver.fit_predict(whole.numpy()).astype("int64"))
        centroids = torch.from_numpy(solver.cluster_centers_.astype("float32"))
    else:
        labels = torch.empty(n, dtype=torch.int64)
        centroids = torch.empty((k, features.shape[1]))
    device = features.device
    labels = world.broadcast(labels.to(device))
    return labels[rows], world.broadcast(centroids.to(device)).cpu()
