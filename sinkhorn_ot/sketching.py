"""Newton steps on a sketch: what makes a solve cost a handful of reads.

The semi-dual in the K numbers g is smooth and convex, but its Hessian costs as much as its
gradient: a read of the matrix. A *sketch* holds some rows and of these the entries that matter,
so it can be solved a hundred times while the matrix is read once. What it gets wrong is corrected
where it is known: after a read has given the true masses m(g), the sketch is not solved for the
marginal b but for ``b * m_sketch(g) / m(g)``. One Sinkhorn step on the sketch is then exactly a
Sinkhorn step on the matrix, and solving it accounts for how the clusters compete besides.

All of this is K-vectors; delta moves g to g + epsilon * delta.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sinkhorn_ot.arrays import Array, Problem, Reading, namespace

if TYPE_CHECKING:
    from sinkhorn_ot.backends import Passes, Sketch

#: Rows per cluster in the first sample, and the growth from sample to sample.
FIRST_SAMPLE, GROWTH = 4, 8
#: How far below the largest of its row an entry is kept (nats): in the first sample, where g is
#: far off, and later.
FAR, NEAR = 60.0, 16.0
#: A sample is solved to this multiple of its own noise.
NOISE = 1.2
#: A delta may not exceed this: entries that were left out would matter.
RADIUS = 30.0
#: Longest Newton step in any delta.
LONGEST = 6.0
NEWTON_STEPS, CG_STEPS, BACKTRACKS = 30, 50, 8


class Sketched:
    """A sketch that follows g, and the steps that it suggests."""

    def __init__(self, problem: Problem, passes: Passes, entries: int) -> None:
        self.xp = namespace(problem.b)
        self.problem = problem
        self.passes = passes
        self.sketch: Sketch = passes.sketch(entries)
        self.delta = self.xp.zeros_like(problem.b)

    def renew(self, g: Array, *, exact: bool, assign: bool) -> Reading:
        """Read the matrix at g and make the sketch anew on the way."""
        self.delta = self.xp.zeros_like(self.delta)
        return self.passes.read(
            g, exact=exact, assign=assign, sketch=self.sketch, cut=math.exp(-NEAR)
        )

    def step(self, g: Array, reading: Reading, tol: float) -> Array:
        """Return the g that solves the sketch for the marginal that `reading` corrects."""
        before = self.delta
        self.delta = self._solve(before, reading, tol=tol)
        return g + self.problem.epsilon * (self.delta - before)

    def start(self, g: Array) -> Array:
        """Solve growing samples of the rows, each no better than its own sampling noise."""
        n, k = self.problem.logits.shape
        cut = math.exp(-FAR)
        for stride in sample_strides(n, k):
            for _ in range(4):
                reading = self.passes.read(g, stride=stride, sketch=self.sketch, cut=cut)
                delta = self._solve(self.xp.zeros_like(self.delta), reading, tol=None)
                g = g + self.problem.epsilon * delta
                if float(abs(delta).max()) < RADIUS / 2:
                    break
            cut = math.exp(-NEAR)
        return g

    def _solve(self, delta: Array, reading: Reading, tol: float | None) -> Array:
        """Minimise the semi-dual of the sketch by Newton-CG with a line search.

        Without `tol` it is a sketch of a sample that is solved for b up to its sampling noise.
        """
        xp, b, sketch = self.xp, self.problem.b, self.sketch
        value, m, s = sketch.mass(delta)
        if tol is None:
            target = b
            deviation = xp.sqrt((s - m * m).clip(0.0) / max(sketch.rows, 1))
            tol = NOISE * math.sqrt(2 / math.pi) * float(deviation.sum())
        else:
            target = xp.where(b > 0, b * m / xp.exp(reading.log_mass), 0.0)
            target = target / target.sum()
        unseen = (m == 0) & (b > 0)
        if bool(unseen.any()):
            plain = xp.log(xp.where(unseen, b, 1.0)) - xp.where(unseen, reading.log_mass, 0.0)
            delta = (delta + plain).clip(-RADIUS, RADIUS)
            value, m, s = sketch.mass(delta)
        for _ in range(NEWTON_STEPS):
            residual = target - m
            violation = float(abs(residual).sum())
            if violation <= tol:
                break
            direction = self._direction(m, s, residual, min(0.3, math.sqrt(violation)))
            size = min(1.0, LONGEST / max(float(abs(direction).max()), 1e-300))
            slope = float((residual * direction).sum())
            level = value - float((target * delta).sum())
            for _ in range(BACKTRACKS):
                new = (delta + size * direction).clip(-RADIUS, RADIUS)
                new_value, new_m, new_s = sketch.mass(new)
                gain = level - (new_value - float((target * new).sum()))
                falls = float(abs(target - new_m).sum()) < (1 - 0.1 * size) * violation
                if falls or gain >= 1e-4 * size * slope:
                    break
                size /= 4
            else:
                break
            delta, value, m, s = new, new_value, new_m, new_s
        return delta

    def _direction(self, m: Array, s: Array, residual: Array, forcing: float) -> Array:
        """Solve ``(diag(m) - sum_i a_i p_i p_i') x = residual`` by conjugate gradients."""
        xp = self.xp
        diagonal = m - s + 1e-3 * m
        inverse = xp.where(diagonal > 0, 1.0 / xp.where(diagonal > 0, diagonal, 1.0), 0.0)
        x = xp.zeros_like(m)
        r = residual
        z = inverse * r
        p, rho = z, float((r * z).sum())
        stop = forcing**2 * rho
        for _ in range(CG_STEPS):
            q = m * p - self.sketch.second_moment(p)
            curvature = float((p * q).sum())
            if curvature <= 0:
                break
            alpha = rho / curvature
            x = x + alpha * p
            r = r - alpha * q
            z = inverse * r
            new_rho = float((r * z).sum())
            if new_rho <= stop:
                break
            p, rho = z + (new_rho / rho) * p, new_rho
        return x if bool(xp.any(x != 0)) else z


def sample_strides(n: int, k: int) -> list[int]:
    """One of how many rows each sample takes, the smallest sample first."""
    strides, rows = [], FIRST_SAMPLE * k
    while rows * GROWTH // 2 <= n:
        strides.append(n // rows)
        rows *= GROWTH
    return strides
