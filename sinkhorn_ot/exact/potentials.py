"""Potentials to begin with: those of the entropic problem at a small epsilon, by `sinkhorn`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sinkhorn_ot.arrays import Array, float64, row_blocks
from sinkhorn_ot.entropic.checks import Options
from sinkhorn_ot.entropic.heads import solve_one
from sinkhorn_ot.entropic.result import SinkhornResult
from sinkhorn_ot.exact.certificate import as_numpy
from sinkhorn_ot.exact.repair import Floats, Sizes
from sinkhorn_ot.exact.start import Sample, masses_within
from sinkhorn_ot.passes import Progress

#: Without potentials of a similar problem a sample of so many rows for each class (and at least so
#: many in all) is solved to this violation, or in so many reads of it; then the whole.
ROWS_A_CLASS, LEAST_ROWS = 16, 4096
SAMPLE_TOL, SAMPLE_READS = 1e-2, 75
WHOLE_TOL, WHOLE_READS = 2e-3, 4
#: From potentials of a similar problem so many reads of the whole may be taken.
WARM_READS = 30
#: More steps than so many reads allow.
MAX_ITER = 1000
#: The epsilons at which an entropic problem is solved: potentials are some thousand times as large.
LEAST_EPSILON, MOST_EPSILON = sys.float_info.min, 1e300


@dataclass(frozen=True)
class Goal:
    """The masses of the classes in the entropic problem."""

    masses: Floats  # (K,), adding up to about 1; 0 for classes that may hold nothing
    free: NDArray[np.bool_]  # classes whose size lies between its bounds

    @staticmethod
    def of(sample: Sample, sizes: Sizes, n: int) -> Goal:
        """The wanted sizes over N, or within wide bounds what suits the sample."""
        target, free = (sizes.low + sizes.high) / 2, np.zeros(len(sizes.low), bool)
        if (sizes.high - sizes.low).max() > 1:
            target = n * masses_within(sample, sizes, n)
            free = (target > sizes.low * (1 + 1e-6) + 1e-6) & (target < sizes.high * (1 - 1e-6))
        least = 1e-6 * n / len(target)
        return Goal(np.where(sizes.high > 0, np.maximum(target, least), 0.0) / n, free)

    def shifted(self, excess: Floats) -> Goal:
        """The goal for rows in which classes have so much more mass than in all rows."""
        return replace(self, masses=np.maximum(self.masses + excess, self.masses / 4))


def entropic_potentials(
    logits: Array,
    sample: Sample,
    goal: Goal,
    epsilon: float,
    memory_limit: int | None,
    backend: str,
    tell: Callable[[float, int | None], None],
    g_init: Floats | None = None,
) -> tuple[Floats, float]:
    """Potentials of the entropic problem, and the reads of the matrix that they took.

    `g_init` are those of a similar problem.
    """
    n, k = map(int, logits.shape)
    start = np.zeros(k) if g_init is None else g_init
    used = _columns_in_use(logits, sample) & (goal.masses > 0)
    if not LEAST_EPSILON <= epsilon <= MOST_EPSILON or not used.any():
        return start, 0.0  # logits are all equal, bad, or so large that potentials may overflow
    masses = np.where(used, goal.masses, 0.0)
    b = float64(masses / masses.sum(), logits)
    spent = 0.0

    def entropic(g: Array | None, tol: float, reads: int, stride: int) -> SinkhornResult:
        nonlocal spent
        before = spent

        def watch(info: Progress) -> bool:
            tell(before + info.n_passes / stride, None)
            return info.n_passes >= reads

        options = Options(
            None, b, epsilon, tol, MAX_ITER, g, "auto", memory_limit, backend, None, watch
        )
        found = solve_one(logits[::stride], options)
        spent += found.n_passes / stride
        return found

    end = None
    if g_init is not None:
        end = entropic(float64(g_init, logits), WHOLE_TOL, WARM_READS, 1)
    if end is None or not end.converged:
        stride = max(1, n // max(ROWS_A_CLASS * k, LEAST_ROWS))
        if not np.isfinite(sample.rows[:, used]).all():
            stride = 1  # a class might have no row in a sample
        end = entropic(None, SAMPLE_TOL, SAMPLE_READS, stride)
        if stride > 1:
            end = entropic(end.g, WHOLE_TOL, WHOLE_READS, 1)
    g = np.array(as_numpy(end.g))
    free = goal.free & used
    g[goal.free | ~used] = float(np.median(g[free])) if free.any() else 0.0
    return g, spent


def _columns_in_use(logits: Array, sample: Sample) -> NDArray[np.bool_]:
    """Which clusters some row may join; all rows are looked at only where the sample has none."""
    seen = np.asarray((sample.rows > -math.inf).any(0))
    for rows in row_blocks(*logits.shape):
        if seen.all():
            break
        some = (logits[rows] > -math.inf).any(0)
        seen |= as_numpy(some)
    return seen


def given_potentials(g_init: Array, k: int) -> Floats:
    """Potentials that the user passed; classes without one begin with the least of the others."""
    g = as_numpy(g_init).astype(np.float64)
    if g.shape != (k,):
        raise ValueError(f"g_init must have shape ({k},), got {g.shape}")
    if not (g < math.inf).all():
        raise ValueError("g_init must be finite, or -inf for classes that may hold nothing")
    finite = g > -math.inf
    return np.where(finite, g, g[finite].min() if finite.any() else 0.0)
