"""What a solve knows of itself on its way: violations, the best g, history, who stops it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sinkhorn_ot.arrays import Array, namespace
from sinkhorn_ot.group import GroupPasses
from sinkhorn_ot.passes import Problem, Progress, Reading

#: With a `tol` below this, a violation below this must be found in float64.
EXACT_BELOW = 5e-7


@dataclass(frozen=True)
class Seen:
    """A g at which the matrix was read."""

    g: Array  # (K,)
    log_mass: Array  # (K,), of P(g)
    violation: float

    def gradient(self, b: Array) -> Array:
        """Return ``m(g) - b``, the gradient of the semi-dual."""
        return namespace(b).exp(self.log_mass) - b


@dataclass
class Watch:
    """Looks at every reading of a solve, and remembers the best one."""

    problem: Problem
    passes: GroupPasses
    tol: float
    #: Whether the caller wants to stop; None if nobody is to be asked.
    asks: Callable[[Progress], bool] | None = None
    labels: bool = True  # whether they are wanted: not of a larger epsilon
    spent: float = 0.0  # reads of the matrix before this solve, which count too
    exact: bool = False  # whether readings are in float64 from now on
    stopped: bool = False  # by the callback
    best: Seen | None = None  # of the least violation
    history: list[Progress] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)
    first: Array = None  # log masses of the first reading
    labelled: tuple[Seen, Reading] | None = None  # the last reading, if it made labels

    def __post_init__(self) -> None:
        """Without a goal nothing would tell when float32 is no longer enough."""
        self.exact = self.exact or self.tol == 0

    @property
    def reads(self) -> float:
        """Reads of the matrix so far."""
        return self.spent + self.passes.reads

    def read(self, g: Array, *, assign: bool, by: Callable[..., Reading] | None = None) -> Seen:
        """Read the matrix at g, measure the violation, remember the best g, ask the callback.

        Where the violation is small enough for an end, but labels or float64 are missing, the
        matrix is read once more.
        """
        self.labelled = None  # those of an earlier g are only memory
        assign = assign and self.labels
        reading = (by or self.passes.read)(g, exact=self.exact, assign=assign)
        if self.first is None:
            self.begin(reading, look=self.passes.may_wait)
        violation = self.violation(reading)
        refine = self.tol < EXACT_BELOW and not self.exact
        missing = self.labels and reading.labels is None
        if violation <= max(self.tol, EXACT_BELOW * refine) and (refine or missing):
            self.exact = self.exact or refine
            reading = self.passes.read(g, exact=self.exact, assign=True)
            violation = self.violation(reading)
        seen = Seen(g, reading.log_mass, violation)
        if reading.labels is not None:
            self.labelled = seen, reading
        if self.best is None or violation < self.best.violation:
            self.best = seen
        self.history.append(Progress(self.reads, violation, time.perf_counter() - self.start))
        if self.asks is not None and self.asks(self.history[-1]):
            self.stopped = True
        return seen

    def begin(self, reading: Reading, *, look: bool) -> None:
        """Take the first reading: a column that is forbidden to all rows shows in it."""
        self.first = reading.log_mass
        if look:
            self._check_first()

    def violation(self, reading: Reading) -> float:
        """Return ``||m - b||_1``; a device is waited for.

        NaN says that a row was bad, or that a column was in the first reading. While a CUDA graph
        is recorded there is no waiting, and it is NaN.
        """
        if not self.passes.may_wait:
            return math.nan
        b = self.problem.b
        xp = namespace(b)
        violation = self.passes.number(abs(xp.exp(reading.log_mass) - b).sum())
        if math.isnan(violation):
            self._check_first()
        return violation

    def crept(self, begun: int, reads: int) -> bool:
        """Whether so many reads did not halve the least violation that `history[begun:]` had."""
        seen = [progress.marginal_violation for progress in self.history[begun:]]
        return len(seen) > reads and min(seen[-reads:]) > min(seen[:-reads]) / 2

    def final(self, end: Seen) -> tuple[Reading, float]:
        """Return the reading with labels of the g at which a solve ends, and its violation."""
        if self.labelled is not None and self.labelled[0] is end:
            reading, violation = self.labelled[1], end.violation
        else:
            self.labelled = None
            reading = self.passes.read(end.g, exact=self.exact, assign=True)
            violation = self.violation(reading)
        if not self.history or self.history[-1].n_passes != self.reads:
            now = time.perf_counter() - self.start
            self.history.append(Progress(self.reads, violation, now))
        return reading, violation

    def _check_first(self) -> None:
        b = self.problem.b
        xp = namespace(b)
        bad = (b > 0) & ~(self.first > -math.inf)
        if not bool(bad.any()):
            return
        if bool(xp.isnan(self.first).any()):
            raise self.passes.bad_row()
        column = int(xp.nonzero(bad)[0][0])
        raise ValueError(
            f"column {column} of logits is -inf for every sample (with a > 0), so cluster "
            f"{column} can receive nothing although b[{column}] > 0; set b[{column}] = 0 or "
            "drop the column"
        )


def centre(g: Array, b: Array) -> Array:
    """Fix the free constant of g: ``sum_k b_k g_k = 0`` over b_k > 0."""
    xp = namespace(b)
    return g - (b * xp.where(b > 0, g, 0.0)).sum()


def moved(g: Array, start: Array, problem: Problem) -> Array:
    """Return how far g is from `start`, in epsilon; 0 where b is 0, as g is -inf there."""
    xp, used = namespace(g), problem.b > 0
    difference = xp.where(used, g, 0.0) - xp.where(used, start, 0.0)
    return difference / problem.epsilon


def sinkhorn_step(log_mass: Array, b: Array) -> Array:
    """Return ``log(b / m)``, by which Sinkhorn's iteration moves g / epsilon; 0 where b is 0."""
    xp, used = namespace(b), b > 0
    return xp.where(used, xp.log(xp.where(used, b, 1.0)) - log_mass, 0.0)
