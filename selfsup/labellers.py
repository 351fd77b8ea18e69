"""Where labels come from, besides :func:`selfsup.sela.equipartition`: all have its signature.

A labeller takes the number of a head, its (n, K) logits, the (n, D) features they were made from,
what its last call left as `state`, and the shard of the rows; it returns a
:class:`~selfsup.sela.Labelling`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor, distributed

from selfsup.config import LabelConfig
from selfsup.sela import Labeller, Labelling, Shard, equipartition
from sinkhorn_ot import BalancedKMeans, balanced_labels

__all__ = [
    "argmax", "equipartition", "exact", "fixed", "kmeans", "labeller_of", "matched", "nearest",
    "size_profile",
]  # fmt: skip


def labeller_of(config: LabelConfig, seed: int) -> Labeller:
    """Return the labeller that settings name; fixed labels have none that is ever asked.

    Parameters
    ----------
    config : selfsup.config.LabelConfig
        Its `labelling`, `rounding`, `marginal`, `epsilon`, `tol` and `max_iter` decide.
    seed : int
        Of k-means, and of sizes that are drawn.

    Returns
    -------
    callable
        A labeller.
    """
    if config.labelling in ("k-means", "balanced k-means"):
        return kmeans(seed, balanced=config.labelling == "balanced k-means")
    if config.labelling != "equipartition":
        return argmax
    shares = None
    if config.marginal != "uniform":
        k_of = enumerate(config.clusters)
        spread = config.marginal_spread
        shares = matched([size_profile(config.marginal, k, spread, seed + h) for h, k in k_of])
    if config.rounding == "exact":
        return exact(shares)
    return partial(
        equipartition, epsilon=config.epsilon, tol=config.tol, max_iter=config.max_iter, b=shares
    )


def argmax(
    head: int, logits: Tensor, features: Tensor | None, state: Tensor | None, shard: Shard
) -> Labelling:
    """Label by the network's own answer: without the constraint, for comparison.

    Parameters
    ----------
    head : int
        Not looked at; nor are `features`, `state` and `shard`.
    logits : (n, K) torch.Tensor
        Larger is better.
    features, state, shard : as of :func:`equipartition`
        Not looked at.

    Returns
    -------
    Labelling
        (n,) int64 labels, and a potential of zeros.
    """
    return Labelling(logits.argmax(1), torch.zeros(logits.shape[1], dtype=torch.float64))


def exact(b: Callable[[int, Tensor, Shard], Tensor] | None = None) -> Labeller:
    """Return the labeller of exactly equal clusters, or of sizes N times the shares of `b`.

    Of all labels of these sizes it takes those with the largest sum of logits: the limit of
    :func:`equipartition` for small epsilon, without the unevenness of its argmax.  They are made by
    :func:`sinkhorn_ot.balanced_labels`.

    Parameters
    ----------
    b : callable, optional
        As of :func:`equipartition`: returns (K,) shares that sum to 1.

    Returns
    -------
    callable
        A labeller.  It raises ValueError where several processes have the rows.
    """

    def labeller(
        head: int, logits: Tensor, features: Tensor | None, g: Tensor | None, shard: Shard
    ) -> Labelling:
        if shard.group is not None:
            raise ValueError(
                "exact labels are made in one process: train in one, or round by argmax"
            )
        found = balanced_labels(logits, b and b(head, logits, shard), g_init=g)
        return Labelling(found.labels, found.g.cpu())

    return labeller


def fixed(labels: Tensor) -> Labeller:
    """Return the labeller that always answers with the same labels.

    Parameters
    ----------
    labels : (heads, N) int64 torch.Tensor
        Of all images.

    Returns
    -------
    callable
        A labeller.
    """

    def labeller(
        head: int, logits: Tensor, features: Tensor | None, state: Tensor | None, shard: Shard
    ) -> Labelling:
        return Labelling(labels[head, shard.rows].to(logits.device))

    return labeller


def kmeans(seed: int = 0, iterations: int = 50, *, balanced: bool = False) -> Labeller:
    """Return the labeller of DeepCluster (Caron et al., ECCV 2018): k-means on the features.

    Its state is the (K, D) float32 centroids, from which the next call starts: so clusters keep
    their numbers, and heads need no reset. :func:`nearest` labels other images.

    Parameters
    ----------
    seed : int
        Of the first centroids, to which the number of the head is added.
    iterations : int
        The most rounds of Lloyd's algorithm.
    balanced : bool
        Whether clusters have equal sizes, as :class:`sinkhorn_ot.BalancedKMeans` makes them. The
        labels are then not those of the nearest centroid.

    Returns
    -------
    callable
        A labeller; the features of all processes are gathered.  It raises ValueError where there
        are no features.
    """

    def labeller(
        head: int, logits: Tensor, features: Tensor | None, start: Tensor | None, shard: Shard
    ) -> Labelling:
        if features is None:
            raise ValueError("k-means clusters features: call update(features=..., heads=...)")
        k, device = logits.shape[1], features.device
        whole = shard.gather(features)
        labels = torch.empty(shard.n, dtype=torch.int64, device=device)
        centroids = torch.empty((k, features.shape[1]), device=device)
        if shard.group is None or distributed.get_rank(shard.group) == 0:
            solver = (BalancedKMeans if balanced else KMeans)(
                k, init="k-means++" if start is None else start.cpu().numpy(), n_init=1,
                max_iter=iterations, random_state=(seed + head) % 2**32,
            )  # fmt: skip
            with threadpool_limits(1):  # sums of several threads come in any order
                labels.copy_(torch.from_numpy(solver.fit_predict(whole.cpu().numpy())))
            centroids.copy_(torch.from_numpy(solver.cluster_centers_))
        if shard.group is not None:
            distributed.broadcast(labels, group_src=0, group=shard.group)
            distributed.broadcast(centroids, group_src=0, group=shard.group)
        return Labelling(labels[shard.rows], centroids.cpu())

    return labeller


def nearest(features: Tensor, centroids: Tensor) -> Tensor:
    """Return the labels of k-means for other features.

    Parameters
    ----------
    features : (n, D) torch.Tensor
        In the dtype of the centroids.
    centroids : (K, D) torch.Tensor
        The state of :func:`kmeans`.

    Returns
    -------
    (n,) int64 torch.Tensor
        The nearest centroid by Euclidean distance, on the device of the features.
    """
    blocks = (x.to(centroids.device) for x in torch.split(features, 1 << 14))
    return torch.cat([torch.cdist(x, centroids).argmin(1) for x in blocks]).to(features.device)


def size_profile(kind: str, k: int, spread: float, seed: int) -> Tensor:
    """Return shares of clusters of unequal sizes, the largest first.

    Parameters
    ----------
    kind : {"zipf", "gaussian"}
        Shares of "zipf" fall as ``1 / rank**spread``; "gaussian" ones are drawn.
    k : int
        How many clusters.
    spread : float
        The exponent, or the standard deviation over the mean; no share is drawn below a hundredth
        of the mean.
    seed : int
        Of what is drawn.

    Returns
    -------
    (k,) float64 torch.Tensor
        They sum to 1.
    """
    if kind == "zipf":
        sizes = np.arange(1, k + 1, dtype=np.float64) ** -spread
    else:
        normal = np.random.default_rng(seed).normal(size=k)
        sizes = np.maximum(1 + spread * np.sort(normal)[::-1], 0.01)  # none is empty
    return torch.from_numpy(sizes / sizes.sum())


def matched(profiles: list[Tensor]) -> Callable[[int, Tensor, Shard], Tensor]:
    """Return the `b` of :func:`equipartition` that gives large clusters large shares.

    The largest share of a head's profile goes to the cluster of the largest mass now, and so on:
    Asano et al., "Labelling unlabelled videos from scratch" (SeLaVi), NeurIPS 2020.  (Its code
    sorts along an axis of length one and inverts the sizes; this is what the paper describes.)

    Parameters
    ----------
    profiles : list of (K,) torch.Tensor
        Shares of each head, the largest first, as :func:`size_profile` makes them.

    Returns
    -------
    callable
        It makes (K,) float64 shares of a head, its (n, K) logits and their shard; the mass of a
        cluster is the sum of its softmax probabilities over all processes.
    """

    def shares(head: int, logits: Tensor, shard: Shard) -> Tensor:
        masses = torch.zeros(logits.shape[1], dtype=torch.float64, device=logits.device)
        for block in torch.split(logits, 4096):
            masses += block.softmax(1).double().sum(0)
        if shard.group is not None:
            distributed.all_reduce(masses, group=shard.group)
        b = torch.empty_like(masses)
        b[masses.argsort(descending=True, stable=True)] = profiles[head].to(masses)
        return b

    return shares
