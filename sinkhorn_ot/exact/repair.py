"""Exactly balanced labels from potentials that are nearly right, and the proof that they are best.

The work is in csrc/cpu/balanced.hpp: candidates of each row, shortest augmenting paths over the
classes, a check of all rows.  Here are the order of these, and what a read is for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sinkhorn_ot.exact.certificate import best_use_of_sizes

#: Paths are looked for in turns of this many seconds, so that Ctrl-C is answered.
TURN = 0.2
#: So often potentials are improved by the sizes that they give, if there is a way.
IMPROVEMENTS = 4

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Rows(Protocol):
    """What is read: see `HostRows`."""

    n: int
    k: int
    reads: float

    def spans(self) -> Iterator[tuple[Any, int, int]]:
        """Yield rows for the core, the number of the first, and how many threads to use."""


@dataclass(frozen=True)
class Sizes:
    """The least and the largest size of each class; they leave room for N in all."""

    low: Integers  # (K,)
    high: Integers  # (K,)


@dataclass(frozen=True)
class Candidates:
    """Which entries of a row are kept."""

    window: float  # those that are less than this below the largest of logits + g
    width: int  # and at most so many


@dataclass(frozen=True)
class Optimum:
    """Labels of the given sizes, and the potentials that prove how good they are."""

    labels: Integers
    g: Floats  # (K,), -inf for classes that may hold nothing
    counts: Integers
    objective: float  # sum of logits[i, labels[i]]
    gap: float  # what the optimum can be above it, at most
    phases: int
    moves: int
    kept: int


#: Makes better potentials of potentials, the sizes they give, and the rows of these without a tie.
Improve = Callable[[Floats, Floats, Floats], Floats]


class BadRow(Exception):
    """A row without a finite maximum, by its number."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


class TooLarge(Exception):
    """Potentials or sums of the logits overflow float64."""


class FarOff(Exception):
    """More rows are to be moved than was allowed."""


class Infeasible(Exception):
    """No labels of these sizes: `reached` are classes beyond which some samples cannot go."""

    def __init__(self, reached: NDArray[np.bool_], labels: Integers) -> None:
        super().__init__()
        self.reached, self.labels = reached, labels


def solve(
    rows: Rows,
    sizes: Sizes,
    g: Floats,
    candidates: Candidates,
    *,
    max_gap: float,
    tell: Callable[[int], None],
    most: int,
    improve: Improve | None,
) -> Optimum:
    """Find the optimum, beginning at `g` or what `improve` makes of it.

    `tell` hears how many rows are still to be moved.  `FarOff` is raised if there are more than
    `most` at first.
    """
    core = begin(rows, sizes, g, candidates)
    left = _first_labels(core, g, improve)
    tell(left)
    if left > most:
        raise FarOff
    window = candidates.window
    while True:
        _repair(core, rows, tell)
        for some, first, threads in rows.spans():
            core.check(some, first, threads, window, candidates.width)
        gap = _gap(core, sizes, rows.n)
        if not math.isfinite(core.objective + gap):
            raise TooLarge
        if gap <= max_gap * abs(core.objective) or not core.relabel():
            break
        window *= 2  # potentials still move: look further
    labels = np.empty(rows.n, np.int64)
    core.labels(labels)
    return Optimum(
        labels, np.array(core.g[:-1]), np.array(core.counts), core.objective, gap,
        core.phases, core.moves, core.kept,
    )  # fmt: skip


def _first_labels(core: Any, g: Floats, improve: Improve | None) -> int:
    """Label the rows by `g`, or by potentials that leave fewer to move; how many these are."""
    left = int(core.start(g))
    if improve is None:
        return left
    for _ in range(IMPROVEMENTS):
        if not left:
            break
        better = improve(g, np.array(core.counts, float), np.array(core.decided, float))
        now = int(core.start(better))
        if now >= left:
            return int(core.start(g))
        g, left = better, now
    return left


def begin(rows: Rows, sizes: Sizes, g: Floats, candidates: Candidates) -> Any:
    """Read the rows once, and return the core with the candidates of each."""
    from sinkhorn_ot._cpu import Balancer

    core = Balancer(rows.n, sizes.low.tolist(), sizes.high.tolist())
    for some, first, threads in rows.spans():
        bad = core.collect(some, first, threads, g, candidates.window, candidates.width)
        if bad >= 0:
            raise BadRow(bad)
    return core


def _repair(core: Any, rows: Rows, tell: Callable[[int], None]) -> None:
    """Look for paths until the sizes are right; where there is none, for further entries."""
    from sinkhorn_ot._cpu import State

    while True:
        try:
            state = core.repair(TURN)
            stuck = state is State.stuck
            found = sum(core.look_outside(*span) for span in rows.spans()) if stuck else 0
        except OverflowError:
            raise TooLarge from None
        tell(core.to_repair)
        if state is State.done:
            return
        if stuck and not found:
            labels = np.empty(rows.n, np.int64)
            core.labels(labels)
            raise Infeasible(np.array(core.reached), labels)


def _gap(core: Any, sizes: Sizes, n: int) -> float:
    """The slack of the rows, and that of the sizes: both are sums of what is not negative."""
    g, counts = np.array(core.g[:-1]), np.array(core.counts)
    used = counts > 0
    try:
        spent = math.fsum(counts[used] * g[used])
        sizes_slack = best_use_of_sizes(g, sizes.low, sizes.high, n) + spent
    except (OverflowError, ValueError):  # what fsum says of sums that are not finite
        return math.nan
    return float(core.slack + max(0.0, sizes_slack))
