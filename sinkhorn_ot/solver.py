"""The Sinkhorn iteration over K-vectors, for every backend."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sinkhorn_ot.arrays import Array, BadRow, EmptyColumn, Reading, namespace, on_host
from sinkhorn_ot.problem import Problem
from sinkhorn_ot.result import Progress, SinkhornResult
from sinkhorn_ot.sketching import Sketched

if TYPE_CHECKING:
    from sinkhorn_ot.backends import Passes

#: With a `tol` below this, a violation below this must be found in float64.
EXACT_BELOW = 5e-7
#: A reading this many times above `tol` is not expected to be the last: it makes no labels.
HOPELESS = 300.0
#: Fewer entries than this are read faster than a sketch is made: it has to be worth it.
SMALL = 1 << 17

Callback = Callable[[Progress], object]


@dataclass
class _Trace:
    """Records the history and asks the callback whether to go on."""

    problem: Problem
    passes: Passes
    callback: Callback | None
    start: float = field(default_factory=time.perf_counter)
    entries: list[Progress] = field(default_factory=list)

    def add(self, violation: float) -> bool:
        self.close(violation)
        return self.problem.shard.stops(self.callback, self.entries[-1])

    def close(self, violation: float) -> None:
        now = time.perf_counter() - self.start
        self.entries.append(Progress(self.passes.reads, violation, now))


@dataclass
class _Steps:
    """Which step comes next: one on the sketch, or after its failures some of Sinkhorn's."""

    problem: Problem
    passes: Passes
    sketched: Sketched | None
    plain: int  # Sinkhorn steps to take before the next on the sketch; fast ones do not count
    failures: int = 0
    usable: bool = False  # there is a sketch of the whole, at a g that is near enough
    stale: bool = True  # it ought to be made anew
    leapt: bool = False  # the last step was taken on it

    def read(self, g: Array, *, exact: bool, assign: bool, near_end: bool) -> Reading:
        """Read the matrix, and make the sketch on the way if a step on it is to be expected."""
        if self.sketched and self.plain == 0 and self.stale and not near_end:
            self.usable, self.stale = True, False
            return self.sketched.renew(g, exact=exact, assign=assign)
        return self.passes.read(g, exact=exact, assign=assign)

    def failed(self) -> None:
        """Take Sinkhorn steps for a while, each time longer; then try a sketch that keeps more."""
        if self.sketched:
            self.sketched.distrust()
        self.failures += 1
        self.plain = 2**self.failures

    def step(self, g: Array, reading: Reading, violation: float, ratio: float, tol: float) -> Array:
        """Return the next g; `ratio` is the violation over the best one before."""
        xp, b = namespace(self.problem.b), self.problem.b
        self.leapt = self.plain == 0 and self.usable
        if self.sketched and self.leapt:
            goal = 0.3 * max(tol, self.sketched.left_by_a_step(violation))
            g = self.sketched.step(g, reading, tol=goal)
            self.usable = not self.sketched.worn
            self.stale = ratio > 0.1 or not self.usable
        else:
            log_b = xp.log(xp.where(b > 0, b, 1.0))
            g = g + xp.where(b > 0, self.problem.epsilon * (log_b - reading.log_mass), 0.0)
            self.stale = True
            if self.plain > 0 and ratio > 0.3:
                self.plain -= 1
        return centre(xp, g, b)


def solve(
    problem: Problem,
    passes: Passes,
    g: Array,
    *,
    tol: float,
    max_iter: int,
    sketch_words: int,
    warm: bool,
    callback: Callback | None,
    backend: str,
) -> tuple[SinkhornResult, bool]:
    """Move g until ``||m(g) - b||_1 <= tol``; rows are always exact.

    Each iteration is one read of the matrix and one step: Sinkhorn's ``g += epsilon * log(b / m)``
    (Cuturi 2013, in the semi-dual variable g), or with `sketch_words` a step of `Sketched`;
    whenever that does not lower the violation, Sinkhorn steps from the best g instead.

    With ``tol == 0`` it takes exactly `max_iter` steps and returns the last g.  Otherwise the g of
    the least violation seen is the one that is returned.  The flag says whether the
    callback stopped it.
    """
    xp, b = namespace(problem.b), problem.b
    trace = _Trace(problem, passes, callback)
    sketched = Sketched(problem, passes, sketch_words) if sketch_words else None
    g = centre(xp, g, b)
    small = problem.n * len(b) < SMALL
    if sketched and not warm and not small:
        g = centre(xp, sketched.start(g, tol), b)
    steps = _Steps(problem, passes, sketched, plain=2 if small else 0)
    # textbook steps without a goal need no violation, so nothing has to wait for it
    watch = tol > 0 or problem.shard.asks or callback is not None or sketched is not None
    n_iter, violation, ratio, stopped = 0, math.inf, 0.01, False
    forecast = HOPELESS * tol if warm else math.inf
    exact = tol == 0  # nothing would tell when float32 is no longer enough
    best: tuple[float, Array, Reading] | None = None
    while True:
        last = n_iter >= max_iter
        assign = last or (tol > 0 and forecast <= HOPELESS * tol)
        near_end = last or (tol > 0 and steps.leapt and forecast <= tol)
        reading = steps.read(g, exact=exact, assign=assign, near_end=near_end)
        if n_iter == 0:
            first = reading.log_mass
            if watch or on_host(b):
                _check_columns(xp, first, b)
        if watch or last:
            violation = _violation(passes, reading, b, first)
            # a last reading has labels, and float64 where `tol` asks for it
            refine = not exact and tol < EXACT_BELOW
            if violation <= max(tol, EXACT_BELOW * refine) and (refine or reading.labels is None):
                exact = exact or refine
                reading = passes.read(g, exact=exact, assign=True)
                violation = _violation(passes, reading, b, first)
            if not last:
                stopped = trace.add(violation)
            ratio = 0.01 if best is None else violation / max(best[0], 1e-300)
            forecast = violation * min(ratio, 1.0)
            if sketched and best is None:
                forecast = sketched.left_by_a_step(violation)
        if best is None or ratio < 1 or tol == 0:
            best = violation, g, reading
        if stopped or last or (tol > 0 and violation <= tol):
            break
        reading = Reading(reading.log_mass)  # labels of an earlier g are only memory
        best = best[0], best[1], Reading(best[2].log_mass)
        if ratio >= 1 and steps.leapt:
            steps.failed()
            _, g, reading = best
        g = steps.step(g, reading, violation, ratio, tol)
        n_iter += 1
    violation, g, final = best
    if final.labels is None:
        final = passes.read(g, exact=exact, assign=True)
        violation = _violation(passes, final, b, first)
    if not trace.entries or trace.entries[-1].n_passes != passes.reads:
        trace.close(violation)
    result = SinkhornResult(
        labels=final.labels,
        f=final.f,
        g=g,
        n_iter=n_iter,
        n_passes=passes.reads,
        converged=violation <= tol,
        marginal_violation=violation,
        history=tuple(trace.entries),
        epsilon=problem.epsilon,
        backend=backend,
    )
    return result, stopped


def _violation(passes: Passes, reading: Reading, b: Array, first: Array) -> float:
    """``||m - b||_1``; for a device this is the one wait for it per iteration.

    While a CUDA graph is recorded there is no waiting, and it is NaN.  Otherwise NaN says that a
    row or (in the `first` reading) a column was bad, which not every backend says at once.
    """
    if not passes.may_wait:
        return math.nan
    xp = namespace(b)
    violation = passes.number(xp.sum(abs(xp.exp(reading.log_mass) - b)))
    if math.isnan(violation):
        _check_columns(xp, first, b)
        row = passes.first_bad_row()
        if row is not None:
            raise BadRow(row)
    return violation


def centre(xp: Array, g: Array, b: Array) -> Array:
    """Fix the free constant of g: ``sum_k b_k g_k = 0`` over b_k > 0."""
    return g - xp.sum(b * xp.where(b > 0, g, 0.0))


def _check_columns(xp: Array, log_mass: Array, b: Array) -> None:
    empty = (b > 0) & (log_mass == -math.inf)
    if bool(xp.any(empty)):
        raise EmptyColumn(int(xp.nonzero(empty)[0][0]))
