"""Nearest neighbours by cosine, exactly and in blocks, and their vote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from selfsup.seeds import Stream, generator_of

#: Rows of queries and of the bank that are compared at once: 64 MB of similarities.
QUERIES, BANK = 512, 1 << 15
#: Numbers of a block of rows at most: 512 MB in float64.
NUMBERS = 1 << 26
#: Eigenvectors are found exactly of matrices that are at most so wide; otherwise by iteration.
EXACT, ITERATIONS, SPARE = 4096, 8, 16


def row_blocks(rows: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Split rows of `dim` numbers so that a block fits into memory."""
    return torch.split(rows, max(1, min(BANK, NUMBERS // dim)))


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
    for block in row_blocks(rows, bank.shape[1]):
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


def unit_rows(features: Tensor, device: torch.device | str) -> Iterator[Tensor]:
    """Give (B, D) float32 blocks of features whose rows have length 1."""
    for block in row_blocks(features, features.shape[1]):
        yield F.normalize(block.to(device).float())


def principal_components(
    features: Tensor, dim: int, device: torch.device | str, seed: int = 0
) -> Tensor:
    """Return the map of features of length 1 onto their principal components.

    They are found exactly, of the (D, D) matrix of products of columns or the (n, n) matrix of
    products of rows. Where both are wider than 4096, or there are over 4 GB of features, they are
    found by subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4) in 9 reads.

    Parameters
    ----------
    features : Tensor
        (n, D) floats on any device; they are normalised here, block after block.
    dim : int
        Less than n and D.
    device : torch.device or str
        Where to compute.
    seed : int
        Where the iteration begins.

    Returns
    -------
    Tensor
        (D + 1, dim) float32: with features x of length 1, ``x @ map[:-1] + map[-1]`` are the
        centred coordinates. Sums are taken in float64.
    """
    n, width = features.shape
    total = torch.zeros(width, dtype=torch.float64, device=device)
    for x in unit_rows(features, device):
        total += x.sum(0, dtype=torch.float64)
    mean = total / n

    def products(right: Tensor) -> Tensor:
        sums = torch.zeros_like(right)
        for x in unit_rows(features, device):
            centred = x.double() - mean
            sums += centred.T @ (centred @ right)
        return sums

    if width <= min(n, EXACT):
        whole = torch.zeros((width, width), dtype=torch.float64, device=device)
        for x in unit_rows(features, device):
            centred = x.double() - mean
            whole += centred.T @ centred
        axes = torch.linalg.eigh(whole)[1].flip(1)[:, :dim]
    elif n <= EXACT and n * width <= 8 * NUMBERS:
        centred = torch.cat([x.double() for x in unit_rows(features, device)]) - mean
        left = torch.linalg.eigh(centred @ centred.T)[1].flip(1)[:, :dim]
        axes = F.normalize(centred.T @ left, dim=0)
    else:
        generator = generator_of(seed, Stream.SPLITS)
        start = torch.randn((width, min(dim + SPARE, n)), dtype=torch.float64, generator=generator)
        basis = torch.linalg.qr(start.to(device))[0]
        for _ in range(ITERATIONS):
            basis = torch.linalg.qr(products(basis))[0]
        inner = torch.linalg.eigh(basis.T @ products(basis))[1]
        axes = basis @ inner.flip(1)[:, :dim]
    return torch.cat([axes, -(mean @ axes)[None]]).float()


def projected(features: Tensor, components: Tensor) -> Tensor:
    """Return the coordinates of (n, D) features on principal components, on the CPU.

    The features get length 1 first, as in :func:`principal_components`.
    """
    blocks = unit_rows(features, components.device)
    return torch.cat([torch.addmm(components[-1], x, components[:-1]).cpu() for x in blocks])


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
