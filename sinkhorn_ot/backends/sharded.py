"""Passes over the rows of several processes, for a backend that knows only of its own.

Every process reads its rows and makes a sketch of them; what they find is added with the mass of
the rows as weight. It stays on the device; only counts come to the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sinkhorn_ot.arrays import Array, Reading, float64, namespace
from sinkhorn_ot.backends.launches import sampled_rows
from sinkhorn_ot.problem import Problem

if TYPE_CHECKING:
    from sinkhorn_ot.backends import Passes, Sketch


def sharded(problem: Problem, passes: Callable[[Problem], Passes]) -> Passes:
    """The passes over the rows of all processes, made of those over the rows held here."""
    return passes(problem) if problem.shard.peers is None else ShardedPasses(problem, passes)


class ShardedPasses:
    """The passes of all processes; see `Passes`."""

    def __init__(self, problem: Problem, passes: Callable[[Problem], Passes]) -> None:
        self.problem, self.shard = problem, problem.shard
        self.xp = namespace(problem.b)
        self.rows = problem.logits.shape[0]
        #: None without rows: there is nothing to launch then
        self.local = passes(replace(problem, place=None)) if self.rows else None

    @property
    def may_wait(self) -> bool:
        """Always: there is no graph with a process group in it."""
        return True

    @property
    def reads(self) -> float:
        """Reads of the matrix by all processes, each of its part."""
        mine = 0.0 if self.local is None else self.local.reads * self.rows / self.problem.n
        return float(self.shard.sum(float64([mine], self.problem.b))[0])

    def number(self, x: Array) -> float:
        """Return a number; see `Passes`."""
        return float(x) if self.local is None else self.local.number(x)

    def first_bad_row(self) -> int | None:
        """The least bad row of all processes."""
        row = None if self.local is None else self.local.first_bad_row()
        return self.shard.least(None if row is None else self.shard.first + row)

    def read(
        self,
        g: Array,
        *,
        exact: bool = False,
        stride: int = 1,
        assign: bool = False,
        sketch: ShardedSketch | None = None,
    ) -> Reading:
        """Read the rows once; see `Passes`."""
        xp, b = self.xp, self.problem.b
        weight = self._weight(stride)
        reading = Reading(xp.full_like(b, -math.inf), b[:0], xp.asarray(b[:0], dtype=xp.int64))
        if sketch is not None:
            sketch.weight = None
        if self.local is not None and self.rows >= stride:
            local = None if sketch is None else sketch.local
            reading = self.local.read(g, exact=exact, stride=stride, assign=assign, sketch=local)
            if sketch is not None:
                sketch.weight = weight
        parts = xp.concatenate((reading.log_mass, weight * 0.0)) + xp.log(weight)
        sums = self.shard.log_sum(xp.where(weight > 0, parts, -math.inf))
        log_mass = sums[:-1] - sums[-1]
        if not assign:
            return Reading(log_mass)
        f: Array = reading.f
        if self.problem.a is None and self.rows:
            f = f + self.problem.epsilon * math.log(self.rows / self.problem.n)
        return Reading(log_mass, f, reading.labels)

    def sketch(self, words: int) -> ShardedSketch:
        """Return room for a sketch; see `Passes`."""
        return ShardedSketch(self, words * self.rows // self.problem.n)

    def _weight(self, stride: int) -> Array:
        """The mass of the rows of a pass that are held here: (1,)."""
        a, count = self.problem.a, self.rows // stride
        if a is None:
            return float64([count / self.problem.n], self.problem.b)
        rows = sampled_rows(self.xp, count, stride, a.device)
        return a[rows].sum().reshape(1)


class ShardedSketch:
    """The sketches of all processes; see `Sketch`."""

    def __init__(self, passes: ShardedPasses, words: int) -> None:
        self.passes, self.shard = passes, passes.shard
        self.local: Sketch | None = None if passes.local is None else passes.local.sketch(words)
        self.weight: Array = None  # of the rows that it stands for, (1,); None for no rows
        self.total: Array = None

    def expect(self, move: Array, reach: float) -> None:
        """Say what matters; see `Sketch`."""
        if self.local is not None:
            self.local.expect(move, reach)

    @property
    def rows(self) -> int:
        """Rows that were kept."""
        return self._count(lambda local: local.rows)

    @property
    def words(self) -> int:
        """Memory that they take, in words of 4 bytes."""
        return self._count(lambda local: local.words)

    def mass(self, delta: Array) -> tuple[Array, Array]:
        """Return masses and second moments; see `Sketch`."""
        xp, k = self.passes.xp, len(delta)
        mine = float64([0.0] * (2 * k + 1), delta)
        local = self._filled()
        if local is not None:
            found = local.mass(delta)
            mine = xp.concatenate((*found, xp.ones_like(delta[:1]))) * self.weight
        sums = self.shard.sum(mine)
        self.total = sums[-1]
        return sums[:k] / self.total, sums[k:-1] / self.total

    def second_moment(self, v: Array) -> Array:
        """Return the product; see `Sketch`."""
        local = self._filled()
        mine = v * 0.0 if local is None else local.second_moment(v) * self.weight
        return self.shard.sum(mine) / self.total

    def _count(self, of: Callable[[Sketch], int]) -> int:
        mine = 0 if self.local is None or self.weight is None else of(self.local)
        return int(self.shard.sum(float64([mine], self.passes.problem.b))[0])

    def _filled(self) -> Sketch | None:
        """The sketch of the rows held here, if it has any."""
        if self.weight is None or self.local is None or not self.local.rows:
            return None
        return self.local
