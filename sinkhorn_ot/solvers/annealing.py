"""Falling epsilon: where a solve creeps, or is likely to, larger epsilons are solved first."""

from __future__ import annotations

import math
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
#: Where so many reads do not halve the violation, an epsilon FALL times larger is solved first, or,
#: if a larger one has been, their geometric mean, unless that is less than CLOSE times the smaller.
PATIENCE, CLOSE = 10, 1.2


def solve(
    problem: Problem, settings: Settings, passes_of: Callable[[Problem], GroupPasses]
) -> tuple[Watch, Seen, int]:
    """Solve for the larger epsilons that the problem needs, each from the g of the one before.

    Where the solve at the `epsilon` of the problem creeps it is tried again after a larger one.

    Returns
    -------
    Watch, Seen, int
        What is known of the solve at the `epsilon` of the problem, its best g, and the steps that
        were taken in all.
    """
    g, words, epsilon = settings.g, settings.words, problem.epsilon
    ours = Watch(problem, passes_of(problem), settings.tol, settings.asks)
    if not words:
        return ours, *textbook.solve(ours, g, max_iter=settings.max_iter)
    todo = [epsilon]
    if not settings.warm:
        todo = [*levels(epsilon, ours.passes.spread()), epsilon]
    warm, patience = settings.warm, PATIENCE if settings.tol > 0 else None
    steps, over = 0, False
    solved = math.inf  # the epsilon that was solved last
    while True:
        watch = ours
        if todo[0] != epsilon:
            level = replace(problem, epsilon=todo[0])
            watch = Watch(
                level, passes_of(level), max(settings.tol, LEVEL_TOL), settings.asks,
                labels=False, spent=ours.reads, start=ours.start,
            )  # fmt: skip
        left = 0 if over else settings.max_iter - steps
        end, n_iter = newton.solve(
            watch, g, max_iter=left, words=words, warm=warm, patience=patience
        )
        steps += n_iter
        over = over or watch.stopped or steps == settings.max_iter
        if watch is not ours:
            ours.spent += watch.passes.reads
            ours.stopped = watch.stopped
        if end.violation > watch.tol and not over:  # it crept
            larger = between(todo[0], solved, ours.passes.spread())
            if larger is not None:
                todo.insert(0, larger)
            else:  # nothing is known that would help: the steps that are left are for the end
                g, warm, patience, todo = (ours.best or end).g, True, None, [epsilon]
        elif watch is ours:
            return ours, end, steps
        else:
            g, warm, solved = end.g, True, todo[0]
            todo = [epsilon] if over else todo[1:]


def between(epsilon: float, solved: float, spread: float) -> float | None:
    """Return an epsilon to be solved before one that crept, None if none is likely to help.

    Parameters
    ----------
    epsilon : float
        At which the solve crept.
    solved : float
        A larger one that was solved; inf if there is none.
    spread : float
        Standard deviation of the logits within their rows, in units of the logits.
    """
    larger = FALL * epsilon if solved == math.inf else math.sqrt(epsilon * solved)
    return larger if CLOSE * epsilon < larger < spread < math.inf else None


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
