"""The Sinkhorn iteration over K-vectors, for every backend."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sinkhorn_ot.arrays import Array, EmptyColumn, Problem, namespace
from sinkhorn_ot.result import Progress, SinkhornResult

if TYPE_CHECKING:
    from sinkhorn_ot.backends import Passes

#: Below this violation float32 exponentials are no longer good enough to steer by.
EXACT_BELOW = 1e-5

Callback = Callable[[Progress], object]


@dataclass(frozen=True)
class _Point:
    """An exact assignment and the g it belongs to."""

    labels: Array
    f: Array
    g: Array
    log_mass: Array
    violation: float


@dataclass
class _Trace:
    """Records the history and asks the callback whether to go on."""

    passes: Passes
    callback: Callback | None
    start: float = field(default_factory=time.perf_counter)
    entries: list[Progress] = field(default_factory=list)

    def add(self, violation: float) -> bool:
        self.close(violation)
        return self.callback is not None and bool(self.callback(self.entries[-1]))

    def close(self, violation: float) -> None:
        now = time.perf_counter() - self.start
        self.entries.append(Progress(self.passes.reads, violation, now))


def solve(
    problem: Problem,
    passes: Passes,
    g: Array,
    *,
    tol: float,
    max_iter: int,
    callback: Callback | None,
    backend: str,
) -> tuple[SinkhornResult, bool]:
    """Textbook Sinkhorn on the column potential (Cuturi 2013, in the semi-dual variable g).

    ``g += epsilon * log(b / m(g))`` until ``||m(g) - b||_1 <= tol``; the rows are always exact.
    With ``tol == 0`` it takes exactly `max_iter` steps and returns the last g.  Otherwise the g of
    the least violation seen is the one that is returned.  The flag says whether the
    callback stopped it.
    """
    xp, b = namespace(problem.b), problem.b
    used = b > 0
    log_b = xp.log(xp.where(used, b, 1.0))
    trace = _Trace(passes, callback)
    watch = tol > 0 or callback is not None

    def point(g: Array) -> _Point:
        labels, f, log_mass = passes.assign(g)
        return _Point(labels, f, g, log_mass, violation_of(xp, log_mass, b))

    g = centre(xp, g, b)
    best_g, least, n_iter, stopped = g, math.inf, 0, False
    exact = tol == 0  # nothing would tell when float32 is no longer enough
    final: _Point | None = None
    while n_iter < max_iter:
        log_mass = passes.log_mass(g, exact=exact)
        if n_iter == 0:
            _check_columns(xp, log_mass, used)
        if watch:
            violation = violation_of(xp, log_mass, b)
            stopped = trace.add(violation)
            if tol > 0 and violation < least:
                best_g, least = g, violation
            exact = exact or violation < EXACT_BELOW
            if stopped or (tol > 0 and violation <= tol):
                here = point(g)
                if stopped or here.violation <= tol:
                    final = here
                    break
                exact, log_mass = True, here.log_mass  # float32 promised too much
        g = centre(xp, g + xp.where(used, problem.epsilon * (log_b - log_mass), 0.0), b)
        n_iter += 1
    if final is None:
        final = point(g)
        if final.violation > least:
            final = min(final, point(best_g), key=lambda p: p.violation)
    trace.close(final.violation)
    result = SinkhornResult(
        labels=final.labels,
        f=final.f,
        g=final.g,
        n_iter=n_iter,
        n_passes=passes.reads,
        converged=final.violation <= tol,
        marginal_violation=final.violation,
        history=tuple(trace.entries),
        epsilon=problem.epsilon,
        backend=backend,
    )
    return result, stopped


def violation_of(xp: Array, log_mass: Array, b: Array) -> float:
    """``||m - b||_1``; for a device this is the one wait for it per iteration."""
    return float(xp.sum(abs(xp.exp(log_mass) - b)))


def centre(xp: Array, g: Array, b: Array) -> Array:
    """Fix the free constant of g: ``sum_k b_k g_k = 0`` over b_k > 0."""
    return g - xp.sum(b * xp.where(b > 0, g, 0.0))


def _check_columns(xp: Array, log_mass: Array, used: Array) -> None:
    empty = used & (log_mass == -math.inf)
    if bool(xp.any(empty)):
        raise EmptyColumn(int(xp.nonzero(empty)[0][0]))
