"""The proof that labels are best, or how far from it they may be: one read, by plain NumPy.

For any potentials g, and for sizes n_k of the classes between bounds, the sum of the logits at the
labels is at most

    sum_i max_k (logits_ik + g_k)  +  max over admissible sizes of  - sum_k n_k g_k

(weak duality of the transport problem).  With the g of exact labels both are equal.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sinkhorn_ot.arrays import Array, float64, is_torch, row_blocks


class Bounds(NamedTuple):
    """What labels reach, and what no labels of these sizes can exceed; in units of the logits."""

    objective: float
    upper_bound: float

    @property
    def gap(self) -> float:
        """How far the labels may be from the optimum; 0 up to rounding is a proof."""
        return self.upper_bound - self.objective


def bounds(
    logits: Array,
    labels: Array,
    g: Array,
    sizes_min: NDArray[np.int64],
    sizes_max: NDArray[np.int64],
) -> Bounds:
    """Objective of `labels`, and the bound that `g` proves for all labels of admissible sizes.

    Parameters
    ----------
    logits : (N, K) numpy.ndarray or torch.Tensor
        Larger is better.
    labels : (N,) int64
        A class of each sample.
    g : (K,) float64
        Any numbers; -inf for classes with ``sizes_max == 0``.
    sizes_min, sizes_max : (K,) int64
        With equal ones the sizes are given.

    Returns
    -------
    Bounds
        In float64, added up without rounding.
    """
    n, k = logits.shape
    at_labels: list[float] = []
    largest: list[float] = []
    potentials = as_numpy(g).astype(np.float64)
    where = as_numpy(labels)
    for rows in row_blocks(n, k):
        block = as_numpy(float64(logits[rows], logits))
        at_labels.append(math.fsum(block[np.arange(len(block)), where[rows]]))
        largest.append(math.fsum((block + potentials).max(1)))
    sizes = best_use_of_sizes(potentials, sizes_min, sizes_max, n)
    return Bounds(math.fsum(at_labels), math.fsum([*largest, sizes]))


def best_use_of_sizes(
    g: NDArray[np.float64], low: NDArray[np.int64], high: NDArray[np.int64], total: int
) -> float:
    """The largest ``- sum_k n_k g_k`` over sizes low <= n <= high that add up to `total`."""
    order = np.argsort(g, kind="stable")
    order = order[high[order] > 0]
    room = (high - low)[order]
    left = total - int(low.sum())
    further = np.minimum(room, np.maximum(left - (np.cumsum(room) - room), 0))
    return -math.fsum((low[order] + further) * g[order])


def as_numpy(x: Array) -> NDArray[Any]:
    """Numbers as a NumPy array; those of a bfloat16 tensor, which NumPy lacks, in float64."""
    if is_torch(x):
        x = x.detach().cpu()
        return np.asarray(x.double() if x.is_floating_point() else x)
    return np.asarray(x)
