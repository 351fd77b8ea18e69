"""The specification: float64 in the log domain, one version for NumPy and torch.

It gives up rows that are not needed and everything that makes a read fast; what is left is the
formulas.
"""

from __future__ import annotations

import math

import numpy as np

from sinkhorn_ot.arrays import Array, Place, float64, namespace, row_blocks
from sinkhorn_ot.passes import (
    REACH,
    Counts,
    Needs,
    Problem,
    Reading,
    hashed,
    room_for_rows,
    sampled_here,
    sampled_row,
)

#: Words of 4 bytes for each entry of a row that is kept: three float64.
WORDS = 6


def why_not(place: Place | None) -> str | None:
    """It always can."""
    return None


def needs(logits: Array, n: int) -> Needs:
    """What kept entries take."""
    k = logits.shape[1]
    return Needs(
        besides=8 * n, held=8 * n, least=4 * WORDS * k, everything=room_for_rows(n, WORDS * k)
    )


class ReferencePasses:
    """The passes in a handful of array operations, block of rows by block of rows."""

    may_wait = True

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.xp = namespace(problem.logits)
        rows = problem.logits.shape[0]
        self.a = (
            float64([1 / problem.n], problem.b).repeat(rows) if problem.a is None else problem.a
        )
        self.reads = 0.0
        self.bad_row: int | None = None

    def number(self, x: Array) -> float:
        """Return a number."""
        return float(x)

    def first_bad_row(self) -> int | None:
        """Return the first row without a finite maximum."""
        return self.bad_row

    @np.errstate(invalid="ignore")  # of bad rows, which make all masses NaN
    def read(
        self,
        g: Array,
        *,
        exact: bool = True,
        log: bool = True,
        stride: int = 1,
        assign: bool = False,
        kept: ReferenceKept | None = None,
        share: float = 1.0,
    ) -> Reading:
        """Read the rows; it is always exact and in the log domain."""
        xp, problem, epsilon = self.xp, self.problem, self.problem.epsilon
        first, last = sampled_here(problem.n, problem.first, problem.logits.shape[0], stride)
        log_mass = [xp.full_like(g, -math.inf)]
        weight, fs, labels = [self.a[:1] * 0.0], [g[:0]], [xp.asarray(g[:0], dtype=xp.int64)]
        bad: int | None = None
        if kept is not None:
            kept.clear()
        for block in row_blocks(last - first, len(g)) if first < last else ():
            numbers = xp.arange(first + block.start, first + block.stop)
            rows = sampled_row(numbers, stride) - problem.first
            shifted = float64(problem.logits[rows], g) + g
            bad = self._first_bad(shifted, rows) if bad is None else bad
            log_sum = logsumexp(xp, shifted / epsilon, 1)
            log_a = safe_log(xp, self.a[rows])
            log_p = shifted / epsilon - log_sum[:, None]
            log_mass.append(logsumexp(xp, log_p + log_a[:, None], 0))
            weight.append(self.a[rows].sum().reshape(1))
            fs.append(epsilon * (log_a - log_sum))
            labels.append(xp.argmax(shifted, axis=1))
            if kept is not None:
                kept.keep(log_p, self.a[rows], hashed(numbers) < share * 2**32)
        self.reads += 1 / stride
        total = xp.concatenate(weight).sum().reshape(1)
        log_total = xp.log(xp.where(total > 0, total, 1.0))
        mass = logsumexp(xp, xp.stack(log_mass), 0) - log_total
        if bad is not None:
            mass = mass * math.nan
            if stride == 1 and self.bad_row is None:  # a sample need not hold the first one
                self.bad_row = bad
        reading = Reading(mass, total * problem.n)
        if not assign:
            return reading
        return reading._replace(f=xp.concatenate(fs), labels=xp.concatenate(labels))

    def keep(self, words: int) -> ReferenceKept:
        """Return room for kept entries."""
        return ReferenceKept(self, words)

    def _first_bad(self, shifted: Array, rows: Array) -> int | None:
        bad = ~self.xp.isfinite(self.xp.amax(shifted, axis=1))
        return self.problem.first + int(rows[bad][0]) if bool(bad.any()) else None


class ReferenceKept:
    """Probabilities of some rows, entries out of reach as zeros."""

    def __init__(self, passes: ReferencePasses, words: int) -> None:
        self.xp, self.n, self.room = passes.xp, passes.problem.n, words
        self.none = passes.problem.b[None][:0], passes.problem.b[:0]
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self.parts = [self.none]
        self.rows = 0

    def keep(self, log_p: Array, a: Array, chosen: Array) -> None:
        """Keep the chosen rows: entries within reach of the largest, or if these are half all."""
        log_p = log_p[chosen]
        reach = log_p >= self.xp.amax(log_p, axis=1)[:, None] - REACH
        reach = reach | (2 * reach.sum(1) >= log_p.shape[1])[:, None]
        self.rows += len(log_p)
        self.parts.append((self.xp.where(reach, self.xp.exp(log_p), 0.0), a[chosen] * self.n))
        if self.counts.misfits:
            self.parts = [self.none]

    @property
    def counts(self) -> Counts:
        """Return how much is kept."""
        words = WORDS * self.rows * self.none[0].shape[1]
        return Counts(self.rows, words, 4 * words, int(words > self.room))

    def mass(self, delta: Array) -> tuple[Array, Array, Array]:
        """Return masses, second moments and weight."""
        entries, self.w = map(self.xp.concatenate, zip(*self.parts, strict=True))
        plan = entries * self.xp.exp(delta)
        self.p = p = plan / plan.sum(1)[:, None]
        return self.w @ p, self.w @ p**2, self.w.sum().reshape(1)

    def second_moment(self, v: Array) -> Array:
        """Return the product."""
        return (self.w * (self.p @ v)) @ self.p


def logsumexp(xp: Array, x: Array, axis: int) -> Array:
    """Log of the sum of exp along `axis`; -inf for a slice of -inf."""
    top = xp.amax(x, axis=axis, keepdims=True)
    top = xp.where(top > -math.inf, top, 0.0)
    return safe_log(xp, xp.sum(xp.exp(x - top), axis=axis)) + top.squeeze(axis)


def safe_log(xp: Array, x: Array) -> Array:
    """Log of non-negative numbers; -inf for 0, without NumPy's warning."""
    return xp.where(x > 0, xp.log(xp.where(x > 0, x, 1.0)), -math.inf)
