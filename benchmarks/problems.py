"""The seeded problems of the benchmarks, and the one yardstick for every solver's answer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EPSILON = 0.04
#: family -> standard deviation of the iid normal logits, in units of epsilon
FAMILIES = {"flat": 2.5, "peaked": 25.0}
BLOCK = 20_000


def make_logits(family: str, n: int, k: int, seed: int = 0) -> NDArray[np.float32]:
    """Return the (n, k) float32 logits of a family, made block by block without a second copy."""
    rng = np.random.default_rng(seed)
    logits = np.empty((n, k), np.float32)
    for block in np.array_split(logits, max(1, n // BLOCK)):
        rng.standard_normal(dtype=np.float32, out=block)
        block *= FAMILIES[family] * EPSILON
    return logits


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
