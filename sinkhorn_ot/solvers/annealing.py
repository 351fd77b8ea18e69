"""Falling epsilon: logits that spread over very many epsilon are first solved for larger ones."""

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
    g, warm, words = settings.g, settings.warm, settings.words
    start, steps, spent, stopped = time.perf_counter(), 0, 0.0, False
    passes = passes_of(problem)
    larger = levels(problem.epsilon, passes.spread()) if words and not warm else []
    for epsilon in larger:
        level = replace(problem, epsilon=epsilon)
        watch = Watch(
            level, passes_of(level), max(settings.tol, LEVEL_TOL), settings.asks,
            labels=False, spent=spent, start=start,
        )  # fmt: skip
        left = settings.max_iter - steps
        end, n_iter = newton.solve(watch, g, max_iter=left, words=words, warm=warm)
        g, warm, spent, stopped = end.g, True, watch.reads, watch.stopped
        steps += n_iter
        if stopped:
            break
    watch = Watch(problem, passes, settings.tol, settings.asks, spent=spent, start=start)
    left = 0 if stopped else settings.max_iter - steps
    if words:
        end, n_iter = newton.solve(watch, g, max_iter=left, words=words, warm=warm)
    else:
        end, n_iter = textbook.solve(watch, g, max_iter=left)
    watch.stopped = watch.stopped or stopped
    return watch, end, steps + n_iter


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
