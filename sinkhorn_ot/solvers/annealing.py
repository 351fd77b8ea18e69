"""Falling epsilon: logits that spread over very many epsilon are first solved for larger ones."""

from __future__ import annotations

import math

#: Logits that spread over more than this many epsilon are solved for larger ones first; each is
#: this many times smaller than the one before, and solved to this violation.
WIDE, FALL, LEVEL_TOL = 400.0, 10.0, 1e-3


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
    count = math.floor(math.log(wide, FALL))
    return [epsilon * FALL**power for power in range(count, 0, -1)]
