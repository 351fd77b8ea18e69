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
    wide = spread(problem)
    if not wide > WIDE or math.isinf(wide):
        return []
    count = math.floor(math.log(wide, FALL))
    return [problem.epsilon * FALL**power for power in range(count, 0, -1)]


def spread(problem: Problem) -> float:
    """Return the standard deviation of the logits within their rows, in epsilon, of some rows.

    Of all rows, whichever process of a group holds them; forbidden pairings do not count.
    """
    b, shard = problem.b, problem.shard
    xp = namespace(b)
    k = len(b)
    stride = max(problem.n // max(ROWS, ENTRIES // k), 1)
    some = float64(problem.logits[-shard.first % stride :: stride], b) / problem.epsilon
    allowed = (some > -math.inf) & (some < math.inf) & (b > 0)
    count = xp.where(allowed, 1.0, 0.0).sum(1).clip(1.0)
    mean = xp.where(allowed, some, 0.0).sum(1) / count
    squares = xp.where(allowed, some - mean[:, None], 0.0) ** 2
    sums = shard.sum(xp.stack(((squares.sum(1) / count).sum(), xp.ones_like(count).sum())))
    return math.sqrt(float(sums[0] / sums[1]))
