"""A checked input, and what to say of one that turns out to be bad."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sinkhorn_ot.arrays import Array, float64, namespace
from sinkhorn_ot.sharding import Shard


@dataclass(frozen=True)
class Problem:
    """A checked input: what every backend and the solver work from."""

    logits: Array  # (N, K), as the user passed it; in a group of processes the rows held here
    a: Array | None  # (N,) float64, None for 1/N each; of the rows held here
    b: Array  # (K,) float64
    epsilon: float
    place: Shard | None = None  # of the rows held here; None: these are all

    @property
    def shard(self) -> Shard:
        """Where the rows held here lie among all."""
        return self.place or Shard((self.logits.shape[0],))

    @property
    def n(self) -> int:
        """N: the rows of all processes."""
        return self.shard.total


def explain_bad_row(problem: Problem, row: int) -> ValueError:
    """The error for the first row that cannot be labelled; the process that holds it tells all."""
    shard = problem.shard
    here = shard.first <= row < shard.last
    return ValueError(shard.hear(_what_is_bad(problem, row - shard.first, row) if here else None))


def _what_is_bad(problem: Problem, at: int, row: int) -> str:
    values = float64(problem.logits[at], problem.b)
    xp = namespace(values)
    wrong = xp.isnan(values) | (values == math.inf)
    if bool(wrong.any()):
        column = int(xp.nonzero(wrong)[0][0])
        return (
            f"logits[{row}, {column}] is {float(values[column])} (the first bad row is {row}); "
            "logits must be finite, or -inf to forbid a pairing: look for a diverged network "
            "or an unnormalised input"
        )
    where = "" if bool((values == -math.inf).all()) else " among the clusters with b > 0"
    return (
        f"row {row} of logits is -inf everywhere{where}, so sample {row} can go nowhere; allow "
        "at least one cluster or drop the sample"
    )


def explain_empty_column(column: int) -> ValueError:
    """The error for a cluster that no sample may join."""
    return ValueError(
        f"column {column} of logits is -inf for every sample (with a > 0), so cluster {column} "
        f"can receive nothing although b[{column}] > 0; set b[{column}] = 0 or drop the column"
    )
