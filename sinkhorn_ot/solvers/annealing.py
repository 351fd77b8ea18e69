"""Falling epsilon: where a solve creeps, or is likely to, larger epsilons are solved first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

from sinkhorn_ot.group import GroupPasses
from sinkhorn_ot.passes import Problem, Settings
from sinkhorn_ot.solvers import newton, textbook
from sinkhorn_ot.solvers.watch import Seen, Watch

#: Logits that spread over more than WIDE epsilon are solved for larger ones first. The largest is
#: one over which they spread FIRST times at most; each is FALL times smaller than the one before,
#: and solved to the violation LEVEL_TOL.
WIDE, FIRST, FALL, LEVEL_TOL = 400.0, 50.0, 5.0, 1e-3
#: Where so many reads do not halve the violation, an epsilon FALL times larger is solved first, or
#: one between this and that which was solved last, unless they are so CLOSE.
PATIENCE, CLOSE = 10.0, 1.2


def solve(
    problem: Problem, settings: Settings, passes_of: Callable[[Problem], GroupPasses]
) -> tuple[Watch, Seen, int]:
    """Solve for the larger epsilons if there are any, each from the g of the one before.

    Returns
    -------
    Watch, Seen, int
        What is known of the solve at the `epsilon` of the problem, the g at which it ended, and the
        steps that were taken in all.
    """
    g, words, epsilon = settings.g, settings.words, problem.epsilon
    start, steps, spent, stopped = time.perf_counter(), 0, 0.0, False
    passes = passes_of(problem)
    if not words:
        watch = Watch(problem, passes, settings.tol, settings.asks, start=start)
        return watch, *textbook.solve(watch, g, max_iter=settings.max_iter)
    todo = [epsilon] if settings.warm else [*levels(epsilon, passes.spread()), epsilon]
    warm, patience = settings.warm, PATIENCE if settings.tol > 0 else math.inf
    solved = math.inf  # the epsilon that was solved last
    best: Seen | None = None  # at the epsilon of the problem
    while True:
        now = todo[0]
        level = problem if now == epsilon else replace(problem, epsilon=now)
        tol = settings.tol if now == epsilon else max(settings.tol, LEVEL_TOL)
        watch = Watch(
            level, passes_of(level), tol, settings.asks,
            labels=now == epsilon, spent=spent, start=start,
        )  # fmt: skip
        left = 0 if stopped else settings.max_iter - steps
        end, n_iter = newton.solve(
            watch, g, max_iter=left, words=words, warm=warm, patience=patience
        )
        steps, spent, stopped = steps + n_iter, watch.reads, stopped or watch.stopped
        if now == epsilon and (best is None or not best.violation <= end.violation):
            best = end
        if end.violation > tol and n_iter < left and not stopped:  # it crept
            between = FALL * now if solved == math.inf else math.sqrt(now * solved)
            if CLOSE * now < between < passes.spread():
                todo.insert(0, between)
            else:  # nothing is known that would help: the steps that are left are for the end
                g, warm, patience, todo = end.g, True, math.inf, [epsilon]
        elif now != epsilon:
            g, warm, solved = end.g, True, now
            todo = [epsilon] if stopped else todo[1:]
        else:
            assert best is not None
            watch.stopped = stopped
            return watch, best, steps


def levels(epsilon: float, spread: float) -> list[float]:
    """Return the epsilons to be solved before `epsilon`, the largest first.

    Parameters
    ----------
    epsilon : float
        That of the problem.
    spread : float
        Standard deviation of the logits within their rows, in units of the logits.
    """
    wide = spread / epsilon
    if not wide > WIDE or math.isinf(wide):
        return []
    count = math.ceil(math.log(wide / FIRST, FALL))
    return [epsilon * FALL**power for power in range(count, 0, -1)]
