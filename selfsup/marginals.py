"""How large the clusters are to be, where they are not to be equal (SeLaVi, NeurIPS 2020)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from selfsup.config import Config
from selfsup.seeds import Stream, seed_of

#: No cluster is to be smaller than this part of the mean, as a normal distribution would have it.
SMALLEST = 0.01


def size_profile(config: Config, head: int) -> Tensor | None:
    """Return the (K,) shares of a head, the largest first; None for equal ones.

    They depend on the seed and the head alone: each head draws its own and keeps them for the
    whole run.
    """
    k = config.clusters[head]
    if config.marginal == "uniform":
        return None
    if config.marginal == "zipf":
        sizes = np.arange(1, k + 1, dtype=np.float64) ** -config.marginal_spread
    else:
        normal = np.random.default_rng(seed_of(config.seed, Stream.SIZES, head)).normal(size=k)
        sizes = np.maximum(1 + config.marginal_spread * np.sort(normal)[::-1], SMALLEST)
    return torch.from_numpy(sizes / sizes.sum())


def match(profile: Tensor, masses: Tensor) -> Tensor:
    """Return the (K,) marginal b: the largest share to the cluster of the largest mass, and so on.

    SeLaVi's code sorts along an axis of length one and inverts the sizes; this is what its paper
    describes.
    """
    b = torch.empty_like(profile)
    b[torch.argsort(masses.cpu(), descending=True, stable=True)] = profile
    return b
