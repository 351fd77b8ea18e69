"""Whole solves, from logits to labels, beside their peers: per family and size, small calls too."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from problems import FAMILIES, make_logits, true_violation
from solvers import MODULES, OVERWRITES, PACKAGES, SOLVERS, installed

SIZES = ((256, 64), (100_000, 100), (10_000, 1_000))
TOL = 1e-3
HERE = [name for name in SOLVERS if name != "textbook" and installed(MODULES[name])]
ROLES = {"sinkhorn_ot": "ours", "torch_two_matvec": "yardstick"}
problem = functools.lru_cache(maxsize=1)(make_logits)


@pytest.mark.parametrize("solver", HERE)
@pytest.mark.parametrize("family", FAMILIES)
def test_solve(family: str, size: tuple[int, int], solver: str, measured: Any) -> None:
    """All stop at the same violation, recomputed here from the g that they return."""
    logits = problem(family, *size)
    x = logits.copy() if solver in OVERWRITES else logits
    answer = measured(
        functools.partial(SOLVERS[solver], x, TOL),
        x,
        group=f"solve, {family}, {size[0]:,} x {size[1]:,}, to {TOL:g}",
        solver=solver,
        role=ROLES.get(solver, "peer"),
        packages=PACKAGES[solver],
        prepare=functools.partial(np.copyto, x, logits) if solver in OVERWRITES else None,
    )
    violation = true_violation(logits, answer.g)
    measured.info.update(reads=answer.reads, n_iter=answer.n_iter)
    measured.info["violation"] = violation if np.isfinite(violation) else None
    assert solver != "sinkhorn_ot" or violation <= 1.05 * TOL
