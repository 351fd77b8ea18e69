"""The specification: float64 in the log domain, one version for NumPy and torch."""

from __future__ import annotations

import math

from sinkhorn_ot.arrays import Array, BadRow, Needs, Reading, float64, namespace, row_blocks
from sinkhorn_ot.problem import Problem


def why_not(logits: Array | None) -> str | None:
    """It always can."""
    return None


def needs(logits: Array, n: int) -> Needs:
    """What a sketch takes: here an entry is three float64."""
    k = logits.shape[1]
    return Needs(besides=8 * n, held=8 * n, least=6 * 4 * k, everything=6 * n * k)


class ReferencePasses:
    """The passes in a handful of array operations, block of rows by block of rows."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.xp = namespace(problem.logits)
        self.shard = problem.shard
        a = problem.a
        if a is None:
            a = float64([1.0 / problem.n], problem.b).repeat(problem.logits.shape[0])
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
        xp = self.xp
        # the last entry is the total mass of the rows
        log_mass = xp.full_like(xp.concatenate((g, g[:1])), -math.inf)
        bad, potentials, labels = None, [g[:0]], [xp.asarray(g[:0], dtype=xp.int64)]
        if sketch is not None:
            sketch.start(self.problem.n // stride)
        try:
            for taken in self._blocks(stride):
                shifted = float64(self.problem.logits[taken], g) + g
                self._check_rows(shifted, taken)
                f, sums = self._sums(shifted, self.log_a[taken])
                log_mass = xp.logaddexp(log_mass, sums)
                potentials.append(f)
                labels.append(xp.argmax(shifted, axis=1))
                if sketch is not None:
                    turn = (self.shard.first + taken.start) // stride
                    sketch.keep(shifted / self.problem.epsilon, self.log_a[taken], turn)
        except BadRow as error:
            bad = error.row
        self.shard.raise_least(bad)
        if sketch is not None:
            sketch.close()
        self.reads += 1 / stride
        log_mass = self.shard.log_sum(log_mass)
        log_mass = log_mass[:-1] - log_mass[-1]
        if not assign:
            return Reading(log_mass)
        return Reading(log_mass, xp.concatenate(potentials), xp.concatenate(labels))

    def _blocks(self, stride: int) -> list[slice]:
        """The first of each `stride` rows, in blocks of those that are held here."""
        shard = self.shard
        count = shard.total // stride
        first, last = (min(-(-row // stride), count) for row in (shard.first, shard.last))
        if first == last:
            return []
        return [
            slice(
                (first + rows.start) * stride - shard.first,
                (first + rows.stop - 1) * stride - shard.first + 1,
                stride,
            )
            for rows in row_blocks(last - first, self.problem.logits.shape[1])
        ]

    def _sums(self, shifted: Array, log_a: Array) -> tuple[Array, Array]:
        """Potentials of some rows; logarithms of their column masses and of their total mass."""
        xp, epsilon = self.xp, self.problem.epsilon
        f = epsilon * (log_a - logsumexp(xp, shifted / epsilon, axis=1))
        sums = logsumexp(xp, (shifted + f[:, None]) / epsilon, axis=0)
        return f, xp.concatenate((sums, logsumexp(xp, log_a[:, None], axis=0)))

    def sketch(self, words: int) -> ReferenceSketch:
        """Return an empty sketch; see `Passes`. Here an entry takes three float64."""
        return ReferenceSketch(self, max(words // 6, 1))

    def _check_rows(self, shifted: Array, rows: slice) -> None:
        bad = ~self.xp.isfinite(self.xp.amax(shifted, axis=1))
        if bool(bad.any()):
            step = rows.step or 1
            first = rows.start + step * int(self.xp.nonzero(bad)[0][0])
            raise BadRow(self.shard.first + first)


class ReferenceSketch:
    """Rows of a pass, entries out of reach as zeros; see `Sketch`."""

    def __init__(self, passes: ReferencePasses, room: int) -> None:
        self.xp = passes.xp
        self.shard = passes.shard
        self.room = room
        self.move: Array = 0.0
        self.reach = math.inf
        self.every = self.rows = self.words = 0
        self.total: Array = 0.0
        b = passes.problem.b
        self.none = b[:0], b[None][:0]
        self.kept = [self.none]
        self.weights = self.entries = self.probabilities = b[:0]

    def expect(self, move: Array, reach: float) -> None:
        """Say what matters; see `Sketch`."""
        self.move, self.reach = move, reach

    def start(self, count: int) -> None:
        """Forget all; of so many rows keep evenly spaced ones, as many as fit."""
        self.every = -(-count * self.none[1].shape[1] // self.room)
        self.kept = [self.none]

    def keep(self, scaled: Array, log_a: Array, turn: int) -> None:
        """Keep some of the rows that begin with the one of that `turn` in the pass."""
        xp = self.xp
        some = slice(-turn % self.every, None, self.every)
        scaled = scaled[some]
        below = xp.amax(scaled, axis=1)[:, None] - scaled
        least = xp.amin(below + self.move, axis=1)[:, None]  # when all have moved down
        matter = below - self.move <= least + self.reach
        sparse = (2 * matter.sum(1) < scaled.shape[1])[:, None]  # other rows are kept whole
        self.kept.append((xp.exp(log_a[some]), xp.where(sparse & ~matter, 0.0, xp.exp(-below))))

    def close(self) -> None:
        """Count what was kept."""
        self.weights, self.entries = map(self.xp.concatenate, zip(*self.kept, strict=True))
        self.kept = [self.none]
        words = (2 * (self.entries > 0).sum(1)).clip(None, self.entries.shape[1]).sum()
        counts = float64([len(self.weights), int(words), 0.0], self.weights)
        counts[2] = self.weights.sum()
        counts = self.shard.sum(counts)
        self.rows, self.words, self.total = int(counts[0]), int(counts[1]), counts[2]

    def mass(self, delta: Array) -> tuple[Array, Array]:
        """Return masses and second moments; see `Sketch`."""
        plan = self.entries * self.xp.exp(delta)
        self.probabilities = p = plan / plan.sum(1)[:, None]
        a, k = self.weights / self.total, len(delta)
        sums = self.shard.sum(self.xp.concatenate((a @ p, a @ p**2)))
        return sums[:k], sums[k:]

    def second_moment(self, v: Array) -> Array:
        """Return the product; see `Sketch`."""
        a = self.weights / self.total
        return self.shard.sum((a * (self.probabilities @ v)) @ self.probabilities)


def logsumexp(xp: Array, x: Array, axis: int) -> Array:
    """Log of the sum of exp along `axis`; -inf for a slice of -inf."""
    top = xp.amax(x, axis=axis, keepdims=True)
    top = xp.where(top > -math.inf, top, 0.0)
    return safe_log(xp, xp.sum(xp.exp(x - top), axis=axis)) + top.squeeze(axis)


def safe_log(xp: Array, x: Array) -> Array:
    """Log of non-negative numbers; -inf for 0, without NumPy's warning."""
    return xp.where(x > 0, xp.log(xp.where(x > 0, x, 1.0)), -math.inf)
