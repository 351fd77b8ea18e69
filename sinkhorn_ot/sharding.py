"""Rows spread over the processes of a torch.distributed group.

Each process passes its rows. What they have in common is K-vectors: the column masses of a read,
the sums of a sketch. Added over the processes they are those of one process but for rounding, and
all decisions are made on them, so every process takes the same steps.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sinkhorn_ot.arrays import Array, BadRow, Problem, Reading, is_torch, namespace
from sinkhorn_ot.backends.launches import sampled_rows

if TYPE_CHECKING:
    from sinkhorn_ot.backends import Backend

#: What every process says of its call: the number of its rows, and what must be the same.
Description = tuple[int, dict[str, Any]]


class Shard:
    """The place of this process's rows among all, and sums over the processes."""

    def __init__(self, group: Any, counts: list[int], watched: bool) -> None:
        self.dist = sys.modules["torch"].distributed
        self.group = group
        self.rank = int(self.dist.get_rank(group))
        self.counts = counts
        self.first = sum(counts[: self.rank])
        self.total = sum(counts)
        self.watched = watched  # some process has a callback
        self.sent: list[Any] = []

    @property
    def count(self) -> int:
        """Rows of this process."""
        return self.counts[self.rank]

    def place(self, row: int) -> tuple[int, int]:
        """Return the rank that has a row of the whole, and its number there."""
        rank = 0
        while row >= self.counts[rank]:
            row -= self.counts[rank]
            rank += 1
        return rank, row

    def sum(self, x: Array) -> Array:
        """Return the sum of a float64 vector over the processes."""
        return self._reduce(x, self.dist.ReduceOp.SUM)

    def largest(self, x: Array) -> Array:
        """Return the largest entries over the processes."""
        return self._reduce(x, self.dist.ReduceOp.MAX)

    def _reduce(self, x: Array, operation: Any) -> Array:
        torch = sys.modules["torch"]
        vector = x.clone() if is_torch(x) else torch.from_numpy(np.array(x, dtype=np.float64))
        self.dist.all_reduce(vector, operation, group=self.group)
        return vector if is_torch(x) else vector.numpy()

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        torch = sys.modules["torch"]
        device = "cuda" if self.dist.get_backend(self.group) == "nccl" else "cpu"
        return bool(self.largest(torch.tensor([float(flag)], device=device))[0] > 0)

    def pass_on(self, numbers: list[float]) -> None:
        """Send a few numbers to the next process that has rows."""
        later = [r for r in range(self.rank + 1, len(self.counts)) if self.counts[r]]
        message = sys.modules["torch"].tensor(numbers, dtype=sys.modules["torch"].float64)
        to = self.dist.get_global_rank(self.group, later[0])
        self.sent.append((self.dist.isend(message, to, group=self.group), message))

    def passed_on(self, length: int) -> list[float]:
        """Receive them from the last process before that has rows."""
        before = [r for r in range(self.rank) if self.counts[r]]
        message = sys.modules["torch"].empty(length, dtype=sys.modules["torch"].float64)
        source = self.dist.get_global_rank(self.group, before[-1])
        self.dist.recv(message, source, group=self.group)
        numbers: list[float] = message.tolist()
        return numbers

    def settle(self) -> None:
        """Wait until what was sent has arrived."""
        for work, _ in self.sent:
            work.wait()
        self.sent.clear()


def meet(group: object, describe: Callable[[], Description], watched: bool) -> Shard:
    """Compare what the processes were called with, and share out the rows.

    An error in one of them, or a difference, raises in all: none waits for another for ever.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available():
        raise TypeError("process_group needs torch with torch.distributed; import torch first")
    dist = torch.distributed
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            "process_group must be a torch.distributed.ProcessGroup, such as "
            f"torch.distributed.group.WORLD after init_process_group, got {type(group).__name__}"
        )
    error: Exception | None = None
    rows, common = 0, dict[str, Any]()
    try:
        rows, common = describe()
    except (TypeError, ValueError) as mistake:
        error = mistake
    said: list[Any] = [None] * dist.get_world_size(group)
    mine = None if error is None else (type(error).__name__, str(error))
    dist.all_gather_object(said, (rows, common, mine, watched), group=group)
    if error is not None:
        raise error
    for rank, (_, _, theirs, _) in enumerate(said):
        if theirs is not None:
            kind = TypeError if theirs[0] == "TypeError" else ValueError
            raise kind(f"rank {rank} of the group: {theirs[1]}")
    for rank, (_, theirs, _, _) in enumerate(said):
        for name, value in said[0][1].items():
            if theirs[name] != value:
                raise ValueError(
                    f"{name} must be the same in all processes: rank 0 has {value}, rank {rank} "
                    f"has {theirs[name]}"
                )
    counts = [int(n) for n, _, _, _ in said]
    if sum(counts) == 0:
        raise ValueError("no process of the group has any rows")
    return Shard(group, counts, any(w for _, _, _, w in said))


class ShardedPasses:
    """The passes over the rows of all processes; see `Passes`."""

    def __init__(self, problem: Problem, backend: Backend) -> None:
        assert problem.shard is not None
        self.shard: Shard = problem.shard
        self.problem = problem
        # A backend that does not know of places reads its rows as if they were all.
        placed = self.placed = backend.placed
        local = problem if placed else replace(problem, shard=None)
        self.local: Any = backend.passes(local) if placed or self.shard.count else None
        # and weighs them in units of their mean
        apart = not placed and problem.a is not None and self.shard.count > 0
        self.scale = self.shard.total / self.shard.count if apart else 1.0
        self.reads = 0.0
        self.may_wait = True

    def number(self, x: Array) -> float:
        """Return a number; see `Passes`."""
        return float(x)

    def first_bad_row(self) -> int | None:
        """Return the least of all processes; see `Passes`."""
        row = None if self.local is None else self.local.first_bad_row()
        return self._least_row(None if row is None else row + self._offset)

    def read(
        self,
        g: Array,
        *,
        exact: bool = False,
        stride: int = 1,
        assign: bool = False,
        sketch: ShardedSketch | None = None,
    ) -> Reading:
        """Read the rows of all processes; see `Passes`."""
        xp, problem, shard = namespace(g), self.problem, self.shard
        bad: int | None = None
        k = g.shape[0]
        reading = Reading(xp.full_like(g, -math.inf), weight=0.0)
        if self.placed or shard.count >= stride:
            part = None if sketch is None else sketch.local
            try:
                reading = self.local.read(g, exact=exact, stride=stride, assign=assign, sketch=part)
            except BadRow as error:
                bad = error.row + self._offset
        weight = reading.weight if self.placed else self._weight(stride)
        parts = xp.zeros(k + 3, **_like(g))
        parts[:k], parts[k] = xp.exp(reading.log_mass) * weight, weight
        if sketch is not None:
            sketch.renewed(taken=self.placed or shard.count >= stride, bad=bad is not None)
            parts[k + 1], parts[k + 2] = sketch.held()
        if bad is not None:
            parts[:] = math.nan
        parts = shard.sum(parts)
        if bool(xp.isnan(parts[k])):
            row = self._least_row(bad)
            if row is not None:
                raise BadRow(row)
        whole = parts[k]
        log_mass = _log(xp, parts[:k] / whole)
        if bool((parts[:k][g > -math.inf] < self.floor).any()):
            log_mass = self._log_masses(g, stride, reading, whole)
        if sketch is not None:
            sketch.whole = int(parts[k + 1]), int(parts[k + 2])
        self.reads += 1 / stride
        f = reading.f
        if assign and f is None:
            f, labels = xp.zeros(0, **_like(g)), xp.zeros(0, **{**_like(g), "dtype": xp.int64})
            return Reading(log_mass, f, labels)
        if f is not None and not self.placed and problem.a is None:
            f = f + problem.epsilon * math.log(shard.count / shard.total)
        return Reading(log_mass, f, reading.labels)

    @property
    def floor(self) -> float:
        """Masses, in units of a row, below which sums may have lost something."""
        return float(getattr(self.local, "floor", 0.0))

    def _log_masses(self, g: Array, stride: int, reading: Reading, whole: Array) -> Array:
        """Return the masses in the log domain: of a read of their own, or what was read."""
        xp = namespace(g)
        if self.floor > 0:
            reading = self.local.read_log(g, stride)
            self.reads += 1 / stride
        weight = float(reading.weight if self.placed else self._weight(stride))
        log_weight = math.log(weight) if weight > 0 else -math.inf
        log_sums = reading.log_mass + log_weight
        top = self.shard.largest(log_sums)
        safe = xp.where(top > -math.inf, top, 0.0)
        total = self.shard.sum(xp.exp(log_sums - safe))
        return _log(xp, total) + safe - xp.log(whole)

    def _least_row(self, row: int | None) -> int | None:
        like = self.problem.b
        nothing = float(self.shard.total)
        mine = namespace(like).zeros(1, **_like(like))
        mine[0] = -(nothing if row is None else row)
        least = -float(self.shard.largest(mine)[0])
        return None if least == nothing else int(least)

    def _weight(self, stride: int) -> Any:
        """Mass of the rows that a backend which is not placed has read."""
        n, a = self.shard.count, self.problem.a
        if a is None:
            return n // stride
        rows = sampled_rows(namespace(a), n // stride, stride, a.device)
        return a[rows].sum() * self.shard.total

    @property
    def _offset(self) -> int:
        return 0 if self.placed else self.shard.first

    def sketch(self, words: int) -> ShardedSketch:
        """Return room for a sketch, of `words` over all processes; see `Passes`."""
        return ShardedSketch(self, None if self.local is None else self.local.sketch(words))


class ShardedSketch:
    """A sketch of which every process holds the rows that it has; see `Sketch`."""

    def __init__(self, passes: ShardedPasses, local: Any) -> None:
        self.passes = passes
        self.local = local
        self.empty = True  # no row of this process is in it
        self.whole = (0, 0)
        self.total_weight: Array = 1.0  # of all processes

    def expect(self, move: Array, reach: float) -> None:
        """Say what matters; see `Sketch`."""
        if self.local is not None:
            self.local.expect(move, reach)

    def renewed(self, *, taken: bool, bad: bool) -> None:
        """Note whether the last read has filled this process's part."""
        self.empty = bad or not taken or self.local.rows == 0

    def held(self) -> tuple[int, int]:
        """Rows and words of this process."""
        return (0, 0) if self.empty else (self.local.rows, self.local.words)

    @property
    def rows(self) -> int:
        """Rows of all processes."""
        return self.whole[0]

    @property
    def words(self) -> int:
        """Words of all processes."""
        return self.whole[1]

    def mass(self, delta: Array, *, exact: bool = False) -> tuple[Array, Array]:
        """Return masses and second moments; see `Sketch`."""
        xp, k = namespace(delta), delta.shape[0]
        parts = xp.zeros(2 * k + 1, **_like(delta))
        if not self.empty:
            weight = self._weight()
            m, s = self.local.mass(delta, exact=exact)
            parts[:k], parts[k : 2 * k], parts[2 * k] = m * weight, s * weight, weight
        parts = self.passes.shard.sum(parts)
        self.total_weight = parts[2 * k]
        self._count()
        return parts[:k] / self.total_weight, parts[k : 2 * k] / self.total_weight

    def value(self, delta: Array) -> float:
        """Return the value; see `Sketch`."""
        part = namespace(delta).zeros(1, **_like(delta))
        if not self.empty:
            part[0] = self.local.value(delta) * self._weight()
        self._count()
        return float(self.passes.shard.sum(part)[0] / self.total_weight)

    def second_moment(self, v: Array, *, exact: bool = False) -> Array:
        """Return the product; see `Sketch`."""
        part = namespace(v).zeros_like(v)
        if not self.empty:
            part = self.local.second_moment(v, exact=exact) * self._weight()
        self._count()
        return self.passes.shard.sum(part) / self.total_weight

    def _weight(self) -> Any:
        return self.local.total_weight * self.passes.scale

    def _count(self) -> None:
        problem = self.passes.problem
        whole = problem.rows * problem.logits.shape[1] * int(problem.logits.itemsize)
        self.passes.reads += 4 * self.words / whole


def _log(xp: Any, x: Array) -> Array:
    return xp.where(x > 0, xp.log(xp.where(x > 0, x, 1.0)), x * 0.0 - math.inf)


def _like(g: Array) -> dict[str, Any]:
    return {"dtype": g.dtype, "device": g.device} if is_torch(g) else {"dtype": g.dtype}
