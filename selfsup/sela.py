"""The method: label by optimal transport, train on the labels, repeat.

SeLa alternates two steps on one objective, the cross-entropy between labels and predictions.

1. *Labels*, the network fixed: every image gets one of K labels, under the constraint that all
   labels are used equally often. The relaxed problem is optimal transport with entropic
   regularisation (``epsilon = 1 / lambda``); :func:`sinkhorn_ot.sinkhorn` solves it and
   :func:`assign_labels` rounds its plan to the likeliest label.
2. *Network*, the labels fixed: ordinary SGD on randomly transformed images,
   with :func:`multi_head_loss`.

Step 1 is taken at the moments of :func:`update_times`, the first before any training, when
the network is random. Nothing is reset in between.

Where the authors' code does what was not meant, this does not follow it: the label pass runs
in evaluation mode, in dataset order and on the images themselves (or on the mean over several
views), not in training mode on one shuffled, augmented view, which also changed the statistics
of batch normalisation. The solver stops at a marginal violation that does not depend on N, and
after a bounded number of iterations.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from selfsup.augment import random_views
from selfsup.config import AugmentConfig, Config
from selfsup.models import Network
from sinkhorn_ot import SinkhornWarning, sinkhorn

EVAL_BATCH = 1000


def update_times(total: float, updates: int, power: float) -> list[float]:
    """Return the moments of the label updates, counted in training samples seen.

    The gaps grow with a power above 1: labels change fast at first. The first moment is 0,
    the last is `total`, so that the final labels are those of the final network.
    """
    if updates == 1:
        return [0.0]
    return [total * (i / (updates - 1)) ** power for i in range(updates)]


def multi_head_loss(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return the cross-entropy, averaged over heads; `labels` is (heads, B)."""
    losses = [F.cross_entropy(z, y) for z, y in zip(logits, labels, strict=True)]
    return torch.stack(losses).mean()


@torch.no_grad()
def extract_features(
    network: Network,
    images: Tensor,
    augment: AugmentConfig | None = None,
    views: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the (N, D) features of uint8 images, in their order, in evaluation mode.

    With `views`, the mean over that many random views; as the heads are linear this
    is also the mean over views of the logits.
    """
    was_training = network.training
    network.eval()
    device = network.mean.device
    parts = []
    for batch in torch.split(images, EVAL_BATCH):
        x = batch.to(device).float() / 255
        if views and augment is not None and generator is not None:
            total = network.features(random_views(x, augment, generator))
            for _ in range(views - 1):
                total += network.features(random_views(x, augment, generator))
            parts.append(total / views)
        else:
            parts.append(network.features(x))
    network.train(was_training)
    return torch.cat(parts)


@dataclass(frozen=True)
class Assignment:
    """Labels of all heads, with the potentials that start the next solve."""

    labels: Tensor  # (heads, N) int64
    potentials: tuple[Tensor, ...]  # (K,) float64 per head
    marginal_violation: float  # the largest over heads
    unconverged: int  # heads whose solve stopped at the iteration limit
    passes: float  # over an N x K matrix, all heads together
    seconds: float


@torch.no_grad()
def assign_labels(
    network: Network,
    features: Tensor,
    config: Config,
    potentials: Sequence[Tensor] | None = None,
) -> Assignment:
    """Label the images of `features` with every head; one N x K matrix exists at a time."""
    start = time.perf_counter()
    results = []
    for h in range(len(network.heads.clusters)):
        logits = network.heads.head(h, features).cpu()
        warm = None if potentials is None else potentials[h]
        with warnings.catch_warnings():
            # The violation that was reached is in the log, and a cap on the work is wanted here.
            warnings.simplefilter("ignore", SinkhornWarning)
            result = sinkhorn(
                logits,
                epsilon=config.epsilon,
                tol=config.tol,
                max_iter=config.max_iter,
                g_init=warm,
            )
        results.append(result)
    return Assignment(
        labels=torch.stack([r.labels for r in results]),
        potentials=tuple(r.g for r in results),
        marginal_violation=max(float(r.marginal_violation) for r in results),
        unconverged=sum(not r.converged for r in results),
        passes=sum(float(r.n_passes) for r in results),
        seconds=time.perf_counter() - start,
    )
