"""Rows that are repeated so often that they fill many classes: potentials that share them out.

At the optimum all classes that equal rows fill are equally good to them.  Entropic potentials make
them so only within some epsilon, so that by the largest entry all these rows begin in one class.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from sinkhorn_ot.exact.repair import Floats
from sinkhorn_ot.exact.start import REACH, Sample

#: Rows are looked at here if they fill more than so many classes of usual size; so many different
#: ones, the most frequent first.
FILLED, MOST = 16, 16
#: Other rows from which it is learned how many move as a potential does.
OTHERS = 256
#: Steps of a bisection, and rounds over the different rows.
BISECTIONS, ROUNDS = 40, 5


@dataclass(frozen=True)
class EqualRows:
    """Rows that fill many classes, and what is known of the other rows."""

    rows: Floats  # (G, K), all different
    times: Floats  # (G,), how often each is repeated, about
    sizes: Floats  # (K,), of the classes
    epsilon: float
    slope: float  # the part of its other rows that a class gains if its g rises by epsilon

    @staticmethod
    def of(sample: Sample, sizes: Floats, g: Floats, epsilon: float) -> EqualRows | None:
        """Find them in a sample, if there are any; `g` are entropic potentials."""
        n_rows, k = sample.rows.shape
        if k <= FILLED:
            return None
        keys = np.array([hash(row.tobytes()) for row in sample.rows])
        often = [
            (int((keys == key).argmax()), times)
            for key, times in Counter(keys.tolist()).most_common(MOST)
            if times > FILLED * max(1.0, n_rows / k)
        ]
        often = [(i, times) for i, times in often if np.isfinite(sample.rows[i]).any()]
        if not often:
            return None
        numbers = [i for i, _ in often]
        others = sample.rows[~np.isin(keys, keys[numbers])]
        others = others[np.isfinite(others).any(1)]
        slope = 0.0
        if len(others):
            plan = _plan(others[:: -(-len(others) // OTHERS)] + g, epsilon)
            slope = float((plan * (1 - plan)).sum(1).mean())
        times = np.array([times for _, times in often]) * (sizes.sum() / n_rows)
        return EqualRows(sample.rows[numbers], times, sizes, epsilon, slope)

    def by_plan(self, g: Floats) -> Floats:
        """Move entropic potentials, at which equal rows have the room that their plan gives."""
        plan = _plan(self.rows + g, self.epsilon)
        return self._moved(g, (self.times[:, None] * plan).sum(0), self.times)

    def by_counts(self, g: Floats, counts: Floats, decided: Floats) -> Floats:
        """Move potentials at which `decided` of the rows of each class had no tie."""
        levels = (self.rows + g).max(1)
        owner = (levels[:, None] - self.rows).argmin(0)
        times = np.bincount(owner, counts - decided, len(self.rows))
        return self._moved(g, self.sizes - decided, times.astype(np.float64))

    def _moved(self, g: Floats, room: Floats, times: Floats) -> Floats:
        """Potentials at which equal rows fill the room of classes that are equally good to them.

        At `g` the other rows leave `room`.  A class fills it with more of them as its potential
        rises, by `slope`, but only until it is as good to the equal rows r as their level L, which
        is at L - r_k.  They fill what room is left there; their levels leave enough for all.
        """
        slopes = self.slope / self.epsilon * np.maximum(self.sizes - room, 0.0)
        reach = REACH * self.epsilon
        least = np.abs(room) / reach  # no potential moves further
        steps = np.divide(room, np.maximum(slopes, least), out=np.zeros_like(g), where=room != 0)
        alone = g + steps
        levels = (self.rows + g).max(1)
        for _ in range(min(ROUNDS, 2 * len(levels) - 1)):
            for number, row in enumerate(self.rows):
                bounds = levels[:, None] - self.rows
                bounds[number] = np.inf
                over = row + np.minimum(alone, bounds.min(0))
                usual = row + g
                low, high = levels[number] - reach, levels[number] + reach
                for _ in range(BISECTIONS):
                    level = (low + high) / 2
                    filled = level < over
                    left = room[filled] - slopes[filled] * (level - usual[filled])
                    low, high = (level, high) if left.sum() > times[number] else (low, level)
                levels[number] = high
        moved: Floats = np.minimum(alone, (levels[:, None] - self.rows).min(0))
        return moved


def _plan(shifted: Floats, epsilon: float) -> Floats:
    """Row by row, the softmax."""
    plan = np.exp((shifted - shifted.max(1, keepdims=True)) / epsilon)
    return np.asarray(plan / plan.sum(1, keepdims=True))
