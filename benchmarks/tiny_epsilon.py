"""Tiny epsilon: a solve from nothing, and one from the potentials of exact labels.

    python benchmarks/tiny_epsilon.py [--n N --k K]

To a violation of 1e-3.  The three solves of a row run one after the other in this process, three
times; seconds are medians, and "ratio" is exact labels and the solve from their g over that from
nothing.
"Spread" is the standard deviation of the logits within rows, in units of epsilon.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

from problems import make_logits, wide
from records import Table

from sinkhorn_ot import balanced_labels, sinkhorn

TOL, RUNS = 1e-3, 3
SPREADS = (1_000.0, 10_000.0, 100_000.0)
COLUMNS = ["logits", "spread", "reads from nothing", "seconds", "reads of exact labels", "seconds",
           "reads from their g", "seconds", "ratio"]  # fmt: skip


def timed(solve: Callable[..., Any], logits: Any, **options: Any) -> tuple[Any, float]:
    """Return what a solve returns, and its seconds."""
    start = time.perf_counter()
    return solve(logits, **options), time.perf_counter() - start


def solved(table: Table, name: str, logits: Any, spread: float) -> None:
    """Solve a problem both ways, and add to the table what that took."""
    epsilon = float(logits.std(1).mean()) / spread
    seconds = []
    for _ in range(RUNS):
        cold, first = timed(sinkhorn, logits, epsilon=epsilon, tol=TOL)
        exact, second = timed(balanced_labels, logits)
        warm, third = timed(sinkhorn, logits, epsilon=epsilon, tol=TOL, g_init=exact.g)
        seconds.append((first, second, third))
    first, second, third = map(statistics.median, zip(*seconds, strict=True))
    ends = f"{warm.n_passes:.1f}"
    if not warm.converged:
        ends += f" (not solved: {warm.marginal_violation:.1e})"
    table.add(
        name, spread, cold.n_passes, first, exact.n_passes, second, ends, third,
        (second + third) / first,
    )  # fmt: skip


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--k", type=int, default=200)
    parser.add_argument("--save", metavar="NAME", help="keep the table in results/NAME.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # not converged: the table says so
    table = Table(COLUMNS, options.save, ["numpy"])
    for name in ("peaked", "late"):
        logits = make_logits(name, options.n, options.k)
        for spread in SPREADS:
            solved(table, f"{name}, {options.n:,} x {options.k:,}", logits, spread)
    for rows in (2100, 2000):  # 7 rows a class, and 6 2/3: no labels have that
        for spread in SPREADS[1:]:
            solved(table, f"normal, {rows:,} x 300", wide(0, 1.0, rows, 300), spread)


if __name__ == "__main__":
    main()
