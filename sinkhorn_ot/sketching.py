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

from sinkhorn_ot.arrays import Array, BadRow, Needs, Reading, namespace, on_host
from sinkhorn_ot.problem import Problem

if TYPE_CHECKING:
    from sinkhorn_ot.backends import Passes, Sketch

#: Rows per cluster in the first sample, and the growth from sample to sample.
FIRST_SAMPLE, GROWTH = 4, 8
#: A sample of at most this part of the rows is always worth it.
CHEAP = 1 / 16
#: How far below the largest of its row an entry matters (nats); by how many standard deviations,
#: as far as it is known, each g_k is expected to move, and at most.
REACH, MARGIN, FAR = 7.0, 3.0, 30.0
#: What a step is expected to leave of the violation, on a sketch of some and of all rows.
PARTIAL, COMPLETE = 1 / 64, 1 / 512
#: But not of a violation above this, when g moves too far for the sketch to know the way.
ROUGH = 0.2
#: A delta may not exceed this, or float32 entries could overflow.
RADIUS = 30.0
#: A sample is solved to this multiple of its own noise, and until no mass is off, beyond the noise,
#: by what would take more than so many nats of its g_k (in linear approximation).
NOISE, NEAR = 1.2, 2.0
#: A violation below this is not seen in a sketch in float32.
SINGLE_ENDS = 1e-6
#: Longest Newton step in any delta.
LONGEST = 6.0
NEWTON_STEPS, CG_STEPS, BACKTRACKS = 15, 40, 8
#: A device is asked whether conjugate gradients are done every so many steps only.
CG_PATIENCE = 8
#: Of the bytes of the input, what a solve may add by default.
DEFAULT_LIMIT = 0.55
LARGEST_SKETCH = 1 << 25


def sketch_words(logits: Array, n: int, memory_limit: int | None, needs: Needs) -> int:
    """How many words of 4 bytes a sketch may take; 0 when there is no room for a useful one.

    Of all `n` rows, whichever of them are held here.
    """
    entries = n * logits.shape[1]
    default = max(int(DEFAULT_LIMIT * entries * logits.itemsize), needs.always)
    limit = default if memory_limit is None else memory_limit
    # the allocator's pages and the threads' stacks are within the limit too
    room = int(0.95 * limit - needs.besides) // 4
    wanted = max(min(max(entries // 16, needs.small), LARGEST_SKETCH), needs.least)
    words = min(room, wanted, needs.everything)
    return words if words >= min(needs.least, needs.everything) else 0


class Sketched:
    """A sketch that follows g, and the steps that it suggests."""

    def __init__(self, problem: Problem, passes: Passes, words: int) -> None:
        self.xp = namespace(problem.b)
        self.problem = problem
        self.passes = passes
        self.words = words
        self.sketch: Sketch = passes.sketch(words)
        self.delta = self.xp.zeros_like(problem.b)
        self.noise = math.inf  # the violation to be expected after the last solve of a sketch
        self.reach = REACH
        self.move = self.delta + FAR  # how far each g_k is expected to move yet, in epsilon
        self.safe = self.move  # how far it may move on the sketch that is there

    def renew(self, g: Array, *, exact: bool, assign: bool) -> Reading:
        """Read the matrix at g and make the sketch anew on the way."""
        self.delta = self.xp.zeros_like(self.delta)
        self.safe = (self.move + self.reach / 2).clip(None, RADIUS / 2)
        self.sketch.expect(self.move, self.reach)
        return self.passes.read(g, exact=exact, assign=assign, sketch=self.sketch)

    @property
    def worn(self) -> bool:
        """Whether g has left the place where the sketch is accurate."""
        return bool((abs(self.delta) > self.safe).any())

    def left_by_a_step(self, violation: float) -> float:
        """Return the violation that is expected after a step from this one."""
        if violation > ROUGH:
            return violation / 10
        all_rows = self.sketch.rows > 0.9 * self.problem.n
        return violation * (COMPLETE if all_rows else PARTIAL)

    def distrust(self) -> None:
        """Keep more from now on: a step on the sketch did not lower the violation."""
        self.reach = min(2 * self.reach, FAR)

    def step(self, g: Array, reading: Reading, tol: float) -> Array:
        """Return the g that solves the sketch for the marginal that `reading` corrects."""
        before, b = self.delta, self.problem.b
        m, s = self.sketch.mass(before, exact=tol < SINGLE_ENDS)
        mass = self.xp.exp(reading.log_mass)
        seen = (mass > 0) & (m > 0)
        target = self.xp.where(seen, b * m / self.xp.where(seen, mass, 1.0), b)
        self.delta = self._solve(before, m, s, target / target.sum(), reading, tol)
        return g + self.problem.epsilon * (self.delta - before)

    def start(self, g: Array, tol: float) -> Array:
        """Solve growing samples of the rows, each no better than its own sampling noise.

        They grow as long as that is cheap or saves a read of the whole on the way to `tol`.
        """
        zero, found = self.xp.zeros_like(self.delta), True
        for stride in sample_strides(self.problem.n, len(g)):
            if stride * CHEAP < 1 and not (found and self._saves_a_read(tol)):
                break
            found = False  # anything beyond the noise of this sample
            for _ in range(3):
                self.sketch.expect(self.move, self.reach)
                try:
                    reading = self.passes.read(g, stride=stride, sketch=self.sketch)
                except BadRow:
                    return g  # the read of the whole names the first bad row
                m, s = self.sketch.mass(zero)
                if not math.isfinite(float((m + self.xp.exp(reading.log_mass)).sum())):
                    return g  # rows of the sample have no mass, or are bad: nothing to learn
                delta = self._solve(zero, m, s, self.problem.b, reading, None)
                g = g + self.problem.epsilon * delta
                found = found or bool((delta != 0).any())
                if float(abs(delta).max()) < RADIUS / 2:
                    break
            if not found:
                self.move = self.move / 2  # that g was right already says more than the sample
        return g

    def _saves_a_read(self, tol: float) -> bool:
        """Whether the next sample would bring `tol` within reach of one step less."""
        if self.noise > ROUGH:
            return True
        n = self.problem.n
        if self.sketch.words / max(self.sketch.rows, 1) * n < self.words:
            return False  # a sketch of all rows: one step does it anyhow

        def steps(violation: float) -> int:
            return math.ceil(math.log(max(violation / tol, 1.0)) / -math.log(PARTIAL))

        return tol > 0 and steps(self.noise) > steps(self.noise / math.sqrt(GROWTH))

    def _solve(
        self,
        delta: Array,
        m: Array,
        s: Array,
        target: Array,
        reading: Reading,
        tol: float | None,
    ) -> Array:
        """Minimise the semi-dual of the sketch by Newton-CG with a line search.

        Without `tol` it is a sketch of a sample, solved up to its noise.  `m` and `s` are its
        masses and second moments at `delta`.
        """
        xp, sketch = self.xp, self.sketch
        exact = tol is not None and tol < SINGLE_ENDS
        unseen = (m == 0) & (target > 0)
        if bool(unseen.any()):
            plain = xp.log(xp.where(unseen, target, 1.0)) - xp.where(unseen, reading.log_mass, 0.0)
            delta = (delta + plain).clip(-RADIUS, RADIUS)
            m, s = sketch.mass(delta, exact=exact)
        residual = target - m
        violation = float(abs(residual).sum())
        for _ in range(NEWTON_STEPS):
            done = self._is_noise(target, m, s) if tol is None else violation <= tol
            if done:
                break
            direction = self._direction(m, s, residual, min(0.3, math.sqrt(violation)))
            size = min(1.0, LONGEST / max(float(abs(direction).max()), 1e-300))
            value = None
            for _ in range(BACKTRACKS):
                new = (delta + size * direction).clip(-RADIUS, RADIUS)
                new_m, new_s = sketch.mass(new, exact=exact)
                left = float(abs(target - new_m).sum())
                if left < (1 - 0.1 * size) * violation:
                    break
                # the violation may rise on the way down: then the objective decides
                value = sketch.value(delta) if value is None else value
                gain = value - sketch.value(new) + float((target * (new - delta)).sum())
                if gain >= 1e-4 * size * float((residual * direction).sum()):
                    break
                size /= 4
            else:
                break
            delta, m, s = new, new_m, new_s
            residual, violation = target - m, left
        deviation = self._deviation(target, m, s)
        self.noise = float(expected_violation(deviation))
        self.move = (MARGIN * deviation / (m - s).clip(1e-300)).clip(None, FAR)
        return delta

    def _deviation(self, target: Array, m: Array, s: Array) -> Array:
        """Return the standard deviation of the masses of a sample like this one, for the true g."""
        variance = self.xp.where(m < target / 2, target, s - m * m)
        return self.xp.sqrt(variance.clip(0.0) / max(self.sketch.rows, 1))

    def _is_noise(self, target: Array, m: Array, s: Array) -> bool:
        """Whether a sample like this one would give such masses at the true g."""
        wrong, deviation = abs(target - m), self._deviation(target, m, s)
        far = (m > 0) & (wrong > MARGIN * deviation) & (wrong > NEAR * (m - s))
        return bool((wrong.sum() <= NOISE * expected_violation(deviation)) & ~far.any())

    def _direction(self, m: Array, s: Array, residual: Array, forcing: float) -> Array:
        """Return the damped Newton step, by conjugate gradients.

        It solves ``(diag(m + |residual| / LONGEST) - sum_i a_i p_i p_i') x = residual``, with 0 for
        columns that the sketch does not have. Rows of the undamped matrix sum to 0 and only its
        diagonal is positive, so where x is largest ``|residual| / LONGEST * x <= residual``: no
        entry exceeds LONGEST (but for what conjugate gradients leave), however far a column is from
        its marginal. Damping that goes with the residual does not slow the end down (Li, Fukushima,
        Qi and Yamashita, 2004).
        """
        xp = self.xp
        m = m + xp.where(m > 0, abs(residual) / LONGEST, 0.0)
        diagonal = m - s + 1e-3 * m
        inverse = xp.where(diagonal > 0, 1.0 / xp.where(diagonal > 0, diagonal, 1.0), 0.0)
        x = xp.zeros_like(m)
        r = residual
        z = inverse * r
        p, rho = z, (r * z).sum()
        stop = forcing**2 * rho
        going = rho > 0
        host = on_host(m)
        # on a device what has stopped stays as it is until that is noticed
        unless_stopped = (lambda _, new, old: new) if host else xp.where
        for step in range(CG_STEPS):
            q = m * p - self.sketch.second_moment(p)
            curvature = (p * q).sum()
            going = going & (curvature > 0)
            if host and not going:
                break
            alpha = unless_stopped(going, rho / curvature, 0.0)
            x = x + alpha * p
            r = r - alpha * q
            z = inverse * r
            new_rho = (r * z).sum()
            going = going & (new_rho > stop)
            if (host or step % CG_PATIENCE == CG_PATIENCE - 1) and not bool(going):
                break
            p = unless_stopped(going, z + new_rho / rho * p, p)
            rho = unless_stopped(going, new_rho, rho)
        return xp.where((x != 0).any(), x, z)


def expected_violation(deviation: Array) -> Array:
    """Return the expected 1-norm of independent normal errors."""
    return math.sqrt(2 / math.pi) * deviation.sum()


def sample_strides(n: int, k: int) -> list[int]:
    """One of how many rows each sample takes, the smallest sample first."""
    strides, rows = [], FIRST_SAMPLE * k
    while 3 * rows <= n:
        strides.append(n // rows)
        rows *= GROWTH
    return strides
