"""What a sample of rows tells the exact assignment before it begins."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sinkhorn_ot.exact.repair import Candidates, Floats, Optimum, Rows, Sizes, begin, solve
from sinkhorn_ot.exact.rows import HostRows

#: Epsilon of the entropic potentials, in standard deviations of the logits of a row.
EPSILON = 0.02
#: Entries are kept for about so many ways out of each class, and of each row as far down as so
#: many epsilon; of rows with many equal ones at most so many.
WAYS, REACH, WIDEST = 200, 8.0, 24
#: Sinkhorn steps within bounds on a sample, and their epsilon in standard deviations.
BOX_STEPS, BOX_EPSILON = 300, 0.1
#: A grid of the logits is noticed if it is coarser than this part of epsilon.
FINE = 0.05
#: Rows of which all values are looked at where their largest ones are all equal.
SOME_ROWS = 64
#: Entries of the rows on which two beginnings are compared.
TRIAL_ENTRIES = 1 << 20


@dataclass(frozen=True)
class Sample:
    """Some rows, spread evenly; entries of classes that may hold nothing are -inf."""

    rows: Floats  # (S, K)
    deviation: float  # of the logits of a row, forbidden pairings left out

    @staticmethod
    def of(rows: Floats, sizes: Sizes) -> Sample:
        """Look at some rows; those with bad entries are found later, when all are read."""
        good = (rows < math.inf).all(1, keepdims=True)
        rows = np.where(good & (sizes.high > 0), rows, -math.inf)
        finite = np.isfinite(rows)
        count = np.maximum(finite.sum(1), 1)
        values = np.where(finite, rows, 0.0)
        unit = 2.0 ** (math.frexp(max(values.max(), -values.min()))[1] - 1)  # squares are finite
        values /= unit
        mean = values.sum(1) / count
        squares = np.where(finite, values - mean[:, None], 0.0) ** 2
        return Sample(rows, unit * math.sqrt(float((squares.sum(1) / count).mean())))


def masses_within(sample: Sample, sizes: Sizes, n: int) -> Floats:
    """Masses of the classes in the entropic problem with sizes between bounds, on a sample.

    This is Sinkhorn's iteration where a class is scaled only as far as to its bound: the potential
    of a class between its bounds stays 0.
    """
    low, high = sizes.low / n, sizes.high / n
    top = sample.rows.max(1, keepdims=True)
    epsilon = BOX_EPSILON * sample.deviation or 1.0
    kernel = np.exp((sample.rows - np.where(np.isfinite(top), top, 0.0)) / epsilon)
    kernel = kernel[kernel.any(1)]
    scaling = np.ones(kernel.shape[1])
    mass = np.zeros_like(scaling)
    for _ in range(BOX_STEPS):
        mass = kernel.T @ (1 / (kernel @ scaling)) / len(kernel)
        some = mass > 0
        scaling[some] = np.clip(1.0, low[some] / mass[some], high[some] / mass[some])
    return mass * scaling


def solve_from(
    rows: Rows,
    sizes: Sizes,
    sample: Sample,
    g: Floats,
    epsilon: float,
    *,
    room: int,
    max_gap: float = 0.0,
    tell: Callable[[int], None],
    most: int,
) -> Optimum:
    """Find the optimum from `g`, with room for so many candidates a row; see `repair.solve`."""
    g = g.copy()
    g[sizes.high == 0] = -math.inf
    g = on_grid(sample, sizes, rows.n, g, epsilon)
    kept = candidates(sample, rows.n, g, epsilon, room)
    return solve(rows, sizes, g, kept, max_gap=max_gap, tell=tell, most=most)


def candidates(sample: Sample, n: int, g: Floats, epsilon: float, room: int) -> Candidates:
    """How far below the top of a row entries are kept, if there is room for so many a row."""
    shifted = sample.rows + g
    k = shifted.shape[1]
    width = max(2, min(WIDEST, room, k))
    below = max(k - 1 - math.ceil(min(WAYS, k) * k / n), 0)
    shifted = shifted[np.isfinite(shifted).any(1)]
    slack = shifted.max(1) - np.partition(shifted, below, axis=1)[:, below]
    slack = slack[np.isfinite(slack)]
    usual = float(np.median(slack)) if len(slack) else 0.0
    return Candidates(min(max(usual, REACH * epsilon), sys.float_info.max), width)


def on_grid(sample: Sample, sizes: Sizes, n: int, g: Floats, epsilon: float) -> Floats:
    """`g`, or `g` rounded to the grid on which the logits lie, if that leaves less to repair.

    Integers, votes and 16-bit numbers make ties in masses where potentials lie on their grid, and
    ties can be shared out.
    """
    q = _grid(sample)
    if not FINE * epsilon < q < math.inf:
        return g
    rounded = np.where(np.isfinite(g), np.round(g / q) * q, g)
    rows = sample.rows[: max(1, TRIAL_ENTRIES // len(g))]
    rows = np.ascontiguousarray(rows[np.isfinite(rows).any(1)])
    if not len(rows):
        return g
    part = len(rows) / n
    fewer = Sizes(
        np.floor(sizes.low * part).astype(np.int64), np.ceil(sizes.high * part).astype(np.int64)
    )
    left = []
    for start in (g, rounded):
        core = begin(
            HostRows(rows), fewer, start, candidates(sample, len(rows), start, epsilon, WIDEST)
        )
        left.append(core.start(start))
    return rounded if left[1] < left[0] else g


def _grid(sample: Sample) -> float:
    """The usual distance of neighbouring values among the largest of the rows."""
    k = sample.rows.shape[1]
    largest = np.partition(sample.rows, max(k - 4, 0), axis=1)[:, max(k - 4, 0) :]
    values, counts = np.unique(largest[np.isfinite(largest)], return_counts=True)
    if len(values) == 1:  # votes
        few = sample.rows[:SOME_ROWS]
        values, counts = np.unique(few[np.isfinite(few)], return_counts=True)
    if len(values) < 2:
        return 0.0
    apart = np.diff(values)
    weights = np.minimum(counts[1:], counts[:-1])
    real = apart > 1e-6 * np.abs(values).max()  # equal but for rounding
    if not real.any():
        return 0.0
    apart, weights = apart[real], weights[real]
    order = np.argsort(apart)
    upto = np.cumsum(weights[order])
    return float(apart[order][np.searchsorted(upto, upto[-1] / 2)])
