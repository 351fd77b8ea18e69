"""One read of the logits: alone, with labels and f, and with entries kept; and torch's softmax."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from problems import EPSILON, FAMILIES, make_logits

from sinkhorn_ot.arrays import place_of
from sinkhorn_ot.backends import named
from sinkhorn_ot.backends.cpu import needs
from sinkhorn_ot.entropic.checks import room_for_entries
from sinkhorn_ot.group import Group, GroupPasses
from sinkhorn_ot.passes import SETS, Problem

SIZES = ((100_000, 100), (10_000, 1_000))
problem = functools.lru_cache(maxsize=1)(make_logits)


@pytest.mark.parametrize("kind", ["alone", "with labels and f", "keeping entries", "torch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_read(family: str, size: tuple[int, int], kind: str, measured: Any) -> None:
    """All add up the masses of the columns, at g = 0."""
    n, k = size
    logits, g = problem(family, n, k), np.zeros(k)
    passes = GroupPasses(
        Problem(logits, None, np.full(k, 1 / k), EPSILON), Group(), named("cpu", place_of(logits))
    )
    room = room_for_entries(logits, n, None, needs(logits, n)) // SETS
    runs = {
        "alone": functools.partial(passes.read, g),
        "with labels and f": functools.partial(passes.read, g, assign=True),
        "keeping entries": functools.partial(passes.read, g, kept=passes.keep(room)),
        "torch": lambda: torch.softmax(torch.from_numpy(logits) / EPSILON, 1).sum(0) / n,
    }
    theirs = kind == "torch"
    found = measured(
        runs[kind],
        logits,
        group=f"read, {family}, {n:,} x {k:,}",
        solver=kind if theirs else f"sinkhorn_ot {kind}",
        role="yardstick" if theirs else "ours",
        packages=["torch" if theirs else "sinkhorn-ot"],
    )
    measured.info["reads"] = 1
    mass = np.asarray(found) if theirs else np.exp(np.asarray(found.log_mass))
    assert abs(mass.sum() - 1) < 1e-3
