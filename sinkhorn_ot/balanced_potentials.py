"""Potentials to begin with: those of the entropic problem at a small epsilon, by `sinkhorn`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sinkhorn_ot.api import sinkhorn
from sinkhorn_ot.arrays import Array, float64, is_torch, row_blocks
from sinkhorn_ot.balanced_start import Sample, masses_within
from sinkhorn_ot.result import Progress, SinkhornResult
from sinkhorn_ot.solvers.balanced import Floats, Sizes

#: Potentials at the wanted epsilon are tried with so many reads; where they do not reach the
#: violation, epsilon falls from the spread of the logits by this factor, with so many reads each.
START_TOL, START_READS = 1e-3, 10
LEVEL_TOL, LEVEL_READS, FALL = 1e-2, 15, 2.5
#: All but the last of these are of a sample: so many rows for each class.
LEVEL_ROWS = 64


def entropic_potentials(
    logits: Array,
    sample: Sample,
    sizes: Sizes,
    epsilon: float,
    memory_limit: int | None,
    backend: str,
    tell: Callable[[float, int | None], None],
) -> tuple[Floats, float]:
    """Potentials of the entropic problem, and the reads of the matrix that they took."""
    n, k = map(int, logits.shape)
    if epsilon == 0.0 or not math.isfinite(epsilon):  # all logits are equal, or bad
        return np.zeros(k), 0.0
    target, free = (sizes.low + sizes.high) / 2, np.zeros(k, bool)
    if (sizes.high - sizes.low).max() > 1:
        target = n * masses_within(sample, sizes, n)
        free = (target > sizes.low * (1 + 1e-6) + 1e-6) & (target < sizes.high * (1 - 1e-6))
    used = _columns_in_use(logits, sample) & (sizes.high > 0)
    target = np.where(used, np.maximum(target, 1e-6 * n / k), 0.0)
    if not used.any():
        return np.zeros(k), 0.0

    masses = float64(target / target.sum(), logits)
    spent = 0.0

    def entropic(
        level: float, g: Array | None, tol: float, reads: int, stride: int = 1
    ) -> SinkhornResult:
        nonlocal spent
        before = spent

        def watch(info: Progress) -> bool:
            tell(before + info.n_passes / stride, None)
            return info.n_passes >= reads

        found: SinkhornResult = sinkhorn(
            logits[::stride], b=masses, epsilon=level, tol=tol, g_init=g,
            memory_limit=memory_limit, backend=backend, callback=watch,
        )  # fmt: skip
        spent += found.n_passes / stride
        return found

    end = entropic(epsilon, None, START_TOL, START_READS)
    if not end.converged:  # such as many equal rows
        falls = max(1, math.ceil(math.log(sample.deviation / epsilon, FALL)))
        start, stride = None, max(1, n // max(LEVEL_ROWS * k, LEVEL_ROWS << 10))
        for fall in range(falls, -1, -1):
            step = 1 if fall == 0 else stride
            end = entropic(epsilon * FALL**fall, start, LEVEL_TOL, LEVEL_READS, step)
            start = end.g
    g = np.array(end.g.cpu().numpy() if is_torch(end.g) else end.g)
    level = float(np.median(g[free & used])) if (free & used).any() else 0.0
    g[free | ~used] = level
    return g, spent


def _columns_in_use(logits: Array, sample: Sample) -> NDArray[np.bool_]:
    """Which clusters some row may join; all rows are looked at only where the sample has none."""
    seen = np.asarray((sample.rows > -math.inf).any(0))
    for rows in row_blocks(*logits.shape):
        if seen.all():
            break
        some = (logits[rows] > -math.inf).any(0)
        seen |= np.asarray(some.cpu().numpy() if is_torch(some) else some)
    return seen


def given_potentials(g_init: Array, k: int) -> Floats:
    """Potentials that the user passed; classes without one begin with the least of the others."""
    g = np.array(g_init.detach().cpu().numpy() if is_torch(g_init) else g_init, np.float64)
    if g.shape != (k,):
        raise ValueError(f"g_init must have shape ({k},), got {g.shape}")
    if not (g < math.inf).all():
        raise ValueError("g_init must be finite, or -inf for classes that may hold nothing")
    finite = g > -math.inf
    return np.where(finite, g, g[finite].min() if finite.any() else 0.0)
