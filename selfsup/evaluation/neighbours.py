"""Nearest neighbours by cosine, exactly and in blocks, and their vote."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

#: Rows of queries and of the bank that are compared at once: 64 MB of similarities.
QUERIES, BANK = 512, 1 << 15


@torch.no_grad()
def most_similar(
    queries: Tensor, bank: Tensor, k: int, *, device: torch.device | str = "cpu",
    rows: Tensor | None = None, own: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the k rows of a bank that are most similar to each query.

    The bank is read once, in blocks; the queries are held on the device.

    Parameters
    ----------
    queries, bank : Tensor
        (n, D) and (m, D) floats on any device, mapped from files or not; rows are normalised here.
    k : int
        At most as many are returned as there are.
    device : torch.device or str
        Where to compute.
    rows : Tensor, optional
        (r,) int64 rows of the bank that count; all without.
    own : Tensor, optional
        (n,) int64: a row of the bank for each query that is none of its neighbours.

    Returns
    -------
    similarity : Tensor
        (n, k) float32 cosines on `device`, falling.
    index : Tensor
        (n, k) int64 rows of the bank.
    """
    rows = torch.arange(len(bank)) if rows is None else rows
    k = min(k, len(rows) - (own is not None))
    asked = F.normalize(queries.to(device).float())
    similarities = torch.full((len(asked), k), -torch.inf, device=device)
    indices = torch.zeros((len(asked), k), dtype=torch.int64, device=device)
    for block in torch.split(rows, BANK):
        known = F.normalize(bank[block].to(device).float())
        here = block.to(device)
        for some in torch.split(torch.arange(len(asked)), QUERIES):
            part = slice(int(some[0]), int(some[-1]) + 1)
            similarity = asked[part] @ known.T
            if own is not None:
                same = own[part].to(device)[:, None] == here
                similarity.masked_fill_(same, -torch.inf)
            top, place = similarity.topk(min(k, len(here)), dim=1)
            both = torch.cat([similarities[part], top], 1)
            similarities[part], order = both.topk(k, dim=1)
            indices[part] = torch.cat([indices[part], here[place]], 1).gather(1, order)
    return similarities, indices


def votes(similarity: Tensor, targets: Tensor, classes: int, k: int, sigma: float) -> Tensor:
    """Return the (n,) classes that win the weighted vote of Wu et al. (2018), equation 4.

    Parameters
    ----------
    similarity : Tensor
        (n, m) cosines of the neighbours, falling; the first `k` vote.
    targets : Tensor
        (n, m) int64 classes of the neighbours.
    classes : int
        Number of classes.
    k : int
        Number of votes.
    sigma : float
        The weight of a vote is exp(similarity / sigma).
    """
    weights = torch.exp((similarity[:, :k] - similarity[:, :1]) / sigma)  # the winner is the same
    total = torch.zeros((len(similarity), classes), device=similarity.device)
    return total.scatter_add_(1, targets[:, :k], weights).argmax(1)


def principal_components(features: Tensor, dim: int, device: torch.device | str) -> Tensor:
    """Return the (D + 1, dim) float32 map onto principal components; its last row is the shift.

    ``features @ map[:-1] + map[-1]`` are the centred coordinates; sums are taken in float64.
    """
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=device)
    products = torch.zeros((len(total), len(total)), dtype=torch.float64, device=device)
    for block in torch.split(features, BANK):
        x = block.to(device).double()
        total += x.sum(0)
        products += x.T @ x
    mean = total / len(features)
    _, vectors = torch.linalg.eigh(products / len(features) - torch.outer(mean, mean))
    axes = vectors.flip(1)[:, :dim]
    return torch.cat([axes, -(mean @ axes)[None]]).float()


def projected(features: Tensor, components: Tensor) -> Tensor:
    """Return the coordinates of (n, D) features on principal components, on the CPU."""
    device = components.device
    blocks = [
        torch.addmm(components[-1], block.to(device).float(), components[:-1]).cpu()
        for block in torch.split(features, BANK)
    ]
    return torch.cat(blocks)


def leave_one_out(features: Tensor, targets: Tensor, classes: int, k: int, sigma: float) -> float:
    """Return the kNN accuracy of images among which each is asked for by all others."""
    own = torch.arange(len(features))
    similarity, index = most_similar(features, features, k, device=features.device, own=own)
    targets = targets.to(features.device)
    found = votes(similarity, targets[index], classes, k, sigma)
    return float((found == targets).double().mean())


def grid_accuracy(
    similarity: Tensor, neighbours: Tensor, targets: Tensor, classes: int,
    grid: Sequence[tuple[int, float]],
) -> dict[tuple[int, float], float]:  # fmt: skip
    """Return the accuracy of each (k, sigma), from the classes of the same neighbours."""
    targets = targets.to(similarity.device)
    return {
        (k, sigma): float(
            (votes(similarity, neighbours, classes, k, sigma) == targets).double().mean()
        )
        for k, sigma in grid
    }
