"""The seeded problems of the benchmarks, and the one yardstick for every solver's answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

EPSILON = 0.04
#: family -> standard deviation of the logits in units of epsilon
IID = {"flat": 2.5, "peaked": 25.0}
CLUSTERED = {"early": 2.5, "middle": 10.0, "late": 40.0}
FAMILIES = (*IID, *CLUSTERED)
REAL = "real"
BLOCK = 20_000
DIM = 64


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
