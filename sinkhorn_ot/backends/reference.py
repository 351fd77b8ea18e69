"""The specification: float64 in the log domain, one version for NumPy and torch."""

from __future__ import annotations

import math

import numpy

from sinkhorn_ot.arrays import (
    Array,
    BadRow,
    Needs,
    Problem,
    Reading,
    float64,
    is_torch,
    namespace,
    row_blocks,
)


def why_not(logits: Array | None) -> str | None:
    """It always can."""
    return None


def needs(logits: Array, n: int) -> Needs:
    """What a sketch takes: here an entry is three float64."""
    k = logits.shape[1]
    return Needs(besides=8 * n, least=6 * 4 * k, everything=6 * n * k)


class ReferencePasses:
    """The passes in a handful of array operations, block of rows by block of rows."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.xp = namespace(problem.logits)
        a = problem.a
        if a is None:
            a = float64([1.0 / problem.rows], problem.b).repeat(problem.logits.shape[0])
        self.log_a = safe_log(self.xp, a)
        self.reads = 0.0
        self.may_wait = True

    def number(self, x: Array) -> float:
        """Return a number; see `Passes`."""
        return float(x)

    def first_bad_row(self) -> int | None:
        """None: a bad row raises at once."""
        return None

    def read(
        self,
        g: Array,
        *,
        exact: bool = True,
        stride: int = 1,
        assign: bool = False,
        sketch: ReferenceSketch | None = None,
    ) -> Reading:
        """Read the rows; see `Passes`."""
        xp, epsilon = self.xp, self.problem.epsilon
        n, k = self.problem.rows, self.problem.logits.shape[1]
        first = 0 if self.problem.shard is None else self.problem.shard.first
        begin = -(-first // stride)  # of the sample, the first of each `stride` rows
        end = min(n // stride, -(-(first + self.problem.logits.shape[0]) // stride))
        labels, potentials = [xp.asarray([], **self._where("int64"))], [self.log_a[:0]]
        kept = [(self.log_a[:0], float64(self.problem.logits[:0], g))]
        log_mass, log_total = xp.full_like(g, -math.inf), -math.inf
        for rows in row_blocks(max(end - begin, 0), k) if end > begin else ():
            start = (begin + rows.start) * stride - first
            taken = slice(start, start + (rows.stop - rows.start - 1) * stride + 1, stride)
            shifted = float64(self.problem.logits[taken], g) + g
            self._check_rows(shifted, start + first, stride)
            log_a = self.log_a[taken]
            f = epsilon * (log_a - logsumexp(xp, shifted / epsilon, axis=1))
            log_mass = xp.logaddexp(
                log_mass, logsumexp(xp, (shifted + f[:, None]) / epsilon, axis=0)
            )
            log_total = numpy.logaddexp(log_total, float(logsumexp(xp, log_a, axis=0)))
            labels.append(xp.argmax(shifted, axis=1))
            potentials.append(f)
            if sketch is not None:
                every = -(-(n // stride) * k // sketch.room)  # evenly spaced rows, as many as fit
                spared = slice(-(begin + rows.start) % every, None, every)
                some = shifted[spared]
                below = (xp.amax(some, axis=1)[:, None] - some) / epsilon
                least = xp.amin(below + sketch.move, axis=1)[:, None]  # when all have moved down
                matter = below - sketch.move <= least + sketch.reach
                sparse = (2 * matter.sum(1) < k)[:, None]  # other rows are kept whole
                entries = xp.where(sparse & ~matter, 0.0, xp.exp(-below))
                kept.append((xp.exp(log_a[spared]), entries))
        if sketch is not None:
            sketch.weights, sketch.kept = map(xp.concatenate, zip(*kept, strict=True))
        self.reads += 1 / stride
        weight = n * math.exp(log_total)
        if weight > 0:
            log_mass = log_mass - log_total
        if not assign:
            return Reading(log_mass, weight=weight)
        return Reading(log_mass, xp.concatenate(potentials), xp.concatenate(labels), weight)

    def sketch(self, words: int) -> ReferenceSketch:
        """Return an empty sketch; see `Passes`. Here an entry takes three float64."""
        return ReferenceSketch(self.xp, max(words // 6, 1))

    def _where(self, dtype: str) -> dict[str, Array]:
        logits = self.problem.logits
        kind = {"dtype": getattr(self.xp, dtype)}
        return kind | ({"device": logits.device} if is_torch(logits) else {})

    def _check_rows(self, shifted: Array, first: int, stride: int) -> None:
        bad = ~self.xp.isfinite(self.xp.amax(shifted, axis=1))
        if bool(bad.any()):
            raise BadRow(first + stride * int(self.xp.nonzero(bad)[0][0]))


class ReferenceSketch:
    """Rows of a pass, entries out of reach as zeros; see `Sketch`."""

    def __init__(self, xp: Array, room: int) -> None:
        self.xp = xp
        self.room = room
        self.move: Array = 0.0
        self.reach = math.inf
        self.weights = self.kept = self.probabilities = xp.zeros((0, 0))

    def expect(self, move: Array, reach: float) -> None:
        """Say what matters; see `Sketch`."""
        self.move, self.reach = move, reach

    @property
    def rows(self) -> int:
        """Rows that were kept."""
        return int(self.weights.shape[0])

    @property
    def total_weight(self) -> float:
        """Mass of the rows that were kept."""
        return float(self.weights.sum())

    @property
    def words(self) -> int:
        """The words that a compact sketch of these rows would take."""
        dense = self.kept.shape[1]
        return sum(min(2 * int(count), dense) for count in (self.kept > 0).sum(1))

    def mass(self, delta: Array, *, exact: bool = False) -> tuple[Array, Array]:
        """Return masses and second moments; see `Sketch`."""
        plan = self.kept * self.xp.exp(delta)
        self.probabilities = plan / plan.sum(1)[:, None]
        a = self.weights / self.weights.sum()
        return a @ self.probabilities, a @ self.probabilities**2

    def value(self, delta: Array) -> float:
        """Return the value; see `Sketch`."""
        a = self.weights / self.weights.sum()
        return float((a * self.xp.log((self.kept * self.xp.exp(delta)).sum(1))).sum())

    def second_moment(self, v: Array, *, exact: bool = False) -> Array:
        """Return the product; see `Sketch`."""
        a = self.weights / self.weights.sum()
        return (a * (self.probabilities @ v)) @ self.probabilities


def logsumexp(xp: Array, x: Array, axis: int) -> Array:
    """Log of the sum of exp along `axis`; -inf for a slice of -inf."""
    top = xp.amax(x, axis=axis, keepdims=True)
    top = xp.where(top > -math.inf, top, 0.0)
    return safe_log(xp, xp.sum(xp.exp(x - top), axis=axis)) + top.squeeze(axis)


def safe_log(xp: Array, x: Array) -> Array:
    """Log of non-negative numbers; -inf for 0, without NumPy's warning."""
    return xp.where(x > 0, xp.log(xp.where(x > 0, x, 1.0)), -math.inf)
