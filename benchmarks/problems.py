"""The seeded problems of the benchmarks, and the one yardstick for every solver's answer."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

EPSILON = 0.04
#: family -> standard deviation of the logits in units of epsilon
IID = {"flat": 2.5, "peaked": 25.0}
CLUSTERED = {"early": 2.5, "middle": 10.0, "late": 40.0}
FAMILIES = (*IID, *CLUSTERED)
#: What stands beside tables and plots.
DEFINED = {
    **{family: f"noise, {spread:g} ε" for family, spread in IID.items()},
    **{family: f"clustered, {spread:g} ε" for family, spread in CLUSTERED.items()},
}
UNITS = (
    "The number is the standard deviation of the logits; noise is normal; clustered are features "
    "around centres of uneven weight times prototypes, as a network in training makes them; ε is "
    f"{EPSILON}. R is the time of one read of the array by all threads, measured around each run"
)
REAL = "real"
BLOCK = 20_000
DIM = 64


def size_of(text: str) -> tuple[int, int]:
    """Parse NxK."""
    try:
        n, k = map(int, text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NxK, such as 10000x100") from None
    return n, k


def make_logits(family: str, n: int, k: int, seed: int = 0) -> NDArray[np.float32]:
    """Return the (n, k) float32 logits of a family, made block by block without a second copy.

    `flat` and `peaked` are iid normal. `early`, `middle` and `late` are what a network makes during
    training: unit features around k / 2 centres of Zipf sizes (exponent 0.8, noise 0.7), times
    random prototypes, plus a bias for each column of 0.3 times their spread.
    """
    rng = np.random.default_rng(seed)
    logits = np.empty((n, k), np.float32)
    blocks = np.array_split(logits, max(1, n // BLOCK))
    if family in IID:
        for block in blocks:
            rng.standard_normal(dtype=np.float32, out=block)
            block *= IID[family] * EPSILON
        return logits
    centres = rng.standard_normal((max(2, k // 2), DIM), dtype=np.float32)
    size = 1 / np.arange(1, len(centres) + 1) ** 0.8
    prototypes = rng.standard_normal((DIM, k), dtype=np.float32)
    bias = 0.3 * rng.standard_normal(k, dtype=np.float32)
    for block in blocks:
        centre = rng.choice(len(centres), len(block), p=size / size.sum())
        features = rng.standard_normal((len(block), DIM), dtype=np.float32)
        features = centres[centre] + 0.7 * features
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        with threadpool_limits(1):  # the bits depend on the threads
            np.matmul(features, prototypes, out=block)
        block += bias
        block *= CLUSTERED[family] * EPSILON / np.sqrt(1 + 0.3**2)
    return logits


def k_means(seed: int, n: int = 20_000, k: int = 100, width: int = 64) -> NDArray[np.float32]:
    """Minus squared distances to centroids that are some of the points, but for a row constant."""
    rng = np.random.default_rng(seed)
    centres = 0.7 * rng.normal(size=(k, width))
    which = rng.choice(k, n, p=rng.dirichlet(np.full(k, 2.0)))
    points = centres[which] + 0.5 * rng.normal(size=(n, width))
    chosen = points[rng.choice(n, k, replace=False)]
    return (2 * points @ chosen.T - (chosen * chosen).sum(1)).astype(np.float32)


def blocks(seed: int, joining: int, n: int = 20_000, groups: int = 10) -> NDArray[np.float64]:
    """Groups of ten clusters of uneven weight, which hardly any row joins."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 10 * groups))
    which = rng.choice(groups, n, p=rng.dirichlet(np.full(groups, 30.0)))
    logits += 30.0 * (np.repeat(np.arange(groups), 10) == which[:, None])
    logits[:joining] = rng.normal(size=(joining, 10 * groups))
    return logits


def equal_rows(seed: int, shares: Sequence[float], n: int, k: int) -> NDArray[np.float32]:
    """Normal logits, of which a part of the rows is the same, and another part another one."""
    logits = np.random.default_rng(seed).normal(size=(n, k)).astype(np.float32)
    start = 0
    for share in shares:
        end = start + round(share * n)
        logits[start:end] = logits[start]
        start = end
    return logits


def few_columns(seed: int, k: int, n: int = 1_000_000) -> NDArray[np.float32]:
    """Very many short rows, as of a router: some columns are more popular."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, k)) + np.linspace(0, 2, k)).astype(np.float32)


def wide(seed: int, spread: float, n: int = 2000, k: int = 300) -> NDArray[np.float32]:
    """Normal logits whose standard deviation is `spread` times EPSILON."""
    return (EPSILON * spread * np.random.default_rng(seed).normal(size=(n, k))).astype(np.float32)


def any_kind(seed: int) -> NDArray[np.float32]:
    """Logits of a kind, a size and a spread that the seed draws; they are for an epsilon of 1."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.choice([300, 2000, 6000])), int(rng.choice([5, 20, 100, 300]))
    few = rng.normal(size=(int(rng.choice([1, 3, 20, 100])), k))
    some = few[rng.choice(len(few), n, p=rng.dirichlet(np.full(len(few), 0.7)))]
    noise = rng.normal(size=(n, k))
    kinds = {
        "normal": lambda: noise,
        "heavy tails": lambda: rng.standard_t(3, size=(n, k)),
        "mostly zero": lambda: noise * (rng.random((n, k)) < 0.05),
        "counts": lambda: rng.poisson(2, size=(n, k)),
        "votes": lambda: rng.random((n, k)) < 0.1,
        "sure of one class": lambda: np.log(rng.dirichlet(np.full(k, 0.1), n) + 1e-30),
        "low rank": lambda: rng.normal(size=(n, 2)) @ rng.normal(size=(2, k)),
        "blocks": lambda: noise + 10 * (rng.integers(3, size=(n, 1)) == np.arange(k) % 3),
        "the same order": lambda: np.sort(noise, axis=1),
        "equal rows": lambda: some,
        "nearly equal rows": lambda: some + 10 ** rng.uniform(-4, -1) * noise,
        "some equal rows": lambda: np.where(rng.random((n, 1)) < rng.uniform(), noise, some),
        "two ways": lambda: noise + 5 * (rng.random((n, 1)) < 0.5) * np.linspace(-1, 1, k),
    }
    logits = kinds[rng.choice(list(kinds))]().astype(np.float32)
    return logits * (10 ** rng.uniform(-0.3, 3.0) / max(logits.std(1).mean(), 1e-6))


#: Problems on which a solve may stall: what makes one of a seed, epsilon, and tol.
HARD: dict[str, tuple[Callable[[int], NDArray[Any]], float, float]] = {
    **{f"k-means, epsilon {e:g}": (k_means, e, 1e-4) for e in (2.0, 0.5, 0.1)},
    **{
        f"1,000,000 x {k}": (functools.partial(few_columns, k=k), EPSILON, 1e-3)
        for k in (2, 3, 5, 8)
    },
    **{
        f"spread of {s:,} epsilon": (functools.partial(wide, spread=s), EPSILON, 1e-3)
        for s in (10_000, 100_000)
    },
    "three rows in ten equal": (
        functools.partial(equal_rows, shares=(0.3,), n=10_000, k=100),
        0.02,
        1e-3,
    ),
    "any kind": (any_kind, 1.0, 1e-3),
    "16 x 1,000": (lambda seed: np.random.default_rng(seed).normal(size=(16, 1000)), 0.05, 1e-4),
    **{
        f"blocks, {j} joining rows": (functools.partial(blocks, joining=j), 1.0, 1e-4)
        for j in (50, 0)
    },
}


def load_real(path: Path) -> NDArray[np.float32]:
    """Return logits that `benchmarks/real_logits.py` saved."""
    return np.load(path)


def true_violation(logits: NDArray[np.float32], g: NDArray[np.float64]) -> float:
    """Return ||m(g) - 1/K||_1 in float64, for the potential g that a solver returned."""
    n, k = logits.shape
    mass = np.zeros(k)
    for block in np.array_split(logits, max(1, n // BLOCK)):
        p = block + g
        p -= p.max(axis=1, keepdims=True)
        p /= EPSILON
        np.exp(p, out=p)
        p /= p.sum(axis=1, keepdims=True)
        mass += p.sum(axis=0)
    return float(np.abs(mass / n - 1 / k).sum())
