"""The specification: float64 in the log domain, one version for NumPy and torch."""

from __future__ import annotations

import math

from sinkhorn_ot.arrays import Array, BadRow, Problem, float64, namespace, row_blocks


def why_not(logits: Array | None) -> str | None:
    """It always can."""
    return None


class ReferencePasses:
    """The passes in a handful of array operations, block of rows by block of rows."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.xp = namespace(problem.logits)
        self.log_a = None if problem.a is None else safe_log(self.xp, problem.a)
        self.reads = 0.0

    def log_mass(self, g: Array, *, exact: bool) -> Array:
        """Return log of the column masses; see `Passes`."""
        return self._pass(g)[2]

    def assign(self, g: Array) -> tuple[Array, Array, Array]:
        """Return labels, f and log mass; see `Passes`."""
        return self._pass(g)

    def _pass(self, g: Array) -> tuple[Array, Array, Array]:
        xp, epsilon = self.xp, self.problem.epsilon
        n, k = self.problem.logits.shape
        labels, potentials, log_mass = [], [], xp.full_like(g, -math.inf)
        for rows in row_blocks(n, k):
            shifted = float64(self.problem.logits[rows], g) + g
            self._check_rows(shifted, rows)
            log_a = -math.log(n) if self.log_a is None else self.log_a[rows]
            f = epsilon * (log_a - logsumexp(xp, shifted / epsilon, axis=1))
            log_mass = xp.logaddexp(
                log_mass, logsumexp(xp, (shifted + f[:, None]) / epsilon, axis=0)
            )
            labels.append(xp.argmax(shifted, axis=1))
            potentials.append(f)
        self.reads += 1
        return xp.concatenate(labels), xp.concatenate(potentials), log_mass

    def _check_rows(self, shifted: Array, rows: slice) -> None:
        bad = ~self.xp.isfinite(self.xp.amax(shifted, axis=1))
        if bool(bad.any()):
            raise BadRow(rows.start + int(self.xp.nonzero(bad)[0][0]))


def logsumexp(xp: Array, x: Array, axis: int) -> Array:
    """Log of the sum of exp along `axis`; -inf for a slice of -inf."""
    top = xp.amax(x, axis=axis, keepdims=True)
    top = xp.where(top > -math.inf, top, 0.0)
    return safe_log(xp, xp.sum(xp.exp(x - top), axis=axis)) + top.squeeze(axis)


def safe_log(xp: Array, x: Array) -> Array:
    """Log of non-negative numbers; -inf for 0, without NumPy's warning."""
    return xp.where(x > 0, xp.log(xp.where(x > 0, x, 1.0)), -math.inf)
