"""Exactly balanced labels beside POT's network simplex and a greedy repair."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from balanced import MODULES, SOLVERS, gap, make
from solvers import installed

SIZES = ((10_000, 100),)
FAMILIES = ("flat", "peaked", "late", "votes", "equal rows")
ROLES = {"sinkhorn_ot": "ours", "pot": "yardstick", "greedy": "peer"}
PACKAGES = {"sinkhorn_ot": "sinkhorn-ot", "pot": "POT", "greedy": "sinkhorn-ot"}
problem = functools.lru_cache(maxsize=1)(make)


@pytest.mark.parametrize("solver", [name for name in ROLES if installed([MODULES[name]])])
@pytest.mark.parametrize("family", FAMILIES)
def test_exact(family: str, size: tuple[int, int], solver: str, measured: Any) -> None:
    """Ours comes with potentials, from which the gap is computed here; greedy repair has none."""
    n, k = size
    logits = problem(family, n, k)
    labels, g = measured(
        functools.partial(SOLVERS[solver], logits),
        logits,
        group=f"exact labels, {family}, {n:,} x {k:,}",
        solver=solver,
        role=ROLES[solver],
        packages=[PACKAGES[solver]],
    )
    counts = np.bincount(labels, minlength=k)
    measured.info.update(
        gap=None if g is None else gap(logits, labels, g),
        sizes=[int(counts.min()), int(counts.max())],
        objective=float(logits[np.arange(n), labels].sum(dtype=np.float64)),
    )
    assert solver != "sinkhorn_ot" or (abs(measured.info["gap"]) < 1e-12 and np.ptp(counts) <= 1)
