"""Falling epsilon: logits that spread over very many epsilon are first solved for larger ones."""

from __future__ import annotations

import math

from sinkhorn_ot.arrays import float64, namespace
from sinkhorn_ot.problem import Problem

#: Logits that spread over more than this many epsilon are solved for larger ones first; each is
#: this many times smaller than the one before, and solved to this violation.
WIDE, FALL, LEVEL_TOL = 400.0, 10.0, 1e-3
#: The spread is estimated from so many rows, or where they are short from so many entries.
ROWS, ENTRIES = 8, 1 << 12


def levels(problem: Problem) -> list[float]:
    """Return the epsilons to be solved before the problem's own, the largest first."""
    wide = spread(problem) / problem.epsilon
    if not wide > WIDE or math.isinf(wide):
        return []
    count = math.floor(math.log(wide, FALL))
    return [problem.epsilon * FALL**power for power in range(count, 0, -1)]


def spread(problem: Problem) -> float:
    """Return the standard deviation of the logits within their rows, of some rows.

    Of the processes of a group the largest; forbidden pairings do not count.
    """
    b = problem.b
    xp = namespace(b)
    rows, k = problem.logits.shape
    found = 0.0
    if rows:
        some = float64(problem.logits[:: max(rows // max(ROWS, ENTRIES // k), 1)], b)
        allowed = (some > -math.inf) & (some < math.inf) & (b > 0)
        count = xp.where(allowed, 1.0, 0.0).sum(1).clip(1.0)
        mean = xp.where(allowed, some, 0.0).sum(1) / count
        squares = xp.where(allowed, (some - mean[:, None]) ** 2, 0.0).sum(1) / count
        found = math.sqrt(float(squares.mean()))
    return float(problem.shard.max(float64([found], b))[0])
