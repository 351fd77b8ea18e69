"""Tiny epsilon: a solve from nothing, and one from the potentials of exact labels.

    python benchmarks/tiny_epsilon.py [N K]

The three solves of a row run one after the other in this process, three times; seconds are medians.
"Spread" is the standard deviation of the logits within rows, in units of epsilon.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from problems import make_logits, wide

from sinkhorn_ot import balanced_labels, sinkhorn

TOL, RUNS = 1e-3, 3
SPREADS = (1_000.0, 10_000.0, 100_000.0)


def timed(solve: Callable[..., Any], logits: Any, **options: Any) -> tuple[Any, float]:
    """Return what a solve returns, and its seconds."""
    start = time.perf_counter()
    return solve(logits, **options), time.perf_counter() - start


def row(name: str, logits: Any, spread: float) -> str:
    """Solve a problem both ways, and say what that took."""
    epsilon = float(logits.std(1).mean()) / spread
    seconds = []
    for _ in range(RUNS):
        cold, first = timed(sinkhorn, logits, epsilon=epsilon, tol=TOL)
        exact, second = timed(balanced_labels, logits)
        warm, third = timed(sinkhorn, logits, epsilon=epsilon, tol=TOL, g_init=exact.g)
        seconds.append((first, second, third))
    first, second, third = map(statistics.median, zip(*seconds, strict=True))
    ends = "" if warm.converged else f" (ends at {warm.marginal_violation:.1e})"
    return (
        f"| {name} | {spread:,.0f} | {cold.n_passes:.1f}, {first:.3f} s | "
        f"{exact.n_passes:.1f}, {second:.3f} s | {warm.n_passes:.1f}, {third:.3f} s{ends} | "
        f"{(second + third) / first:.2f} |"
    )


def main() -> None:
    """Print a table."""
    n, k = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (50_000, 200)
    warnings.simplefilter("ignore")  # not converged: the table says so
    print(f"{n:,} x {k:,}, to a violation of {TOL:g}; reads, seconds\n")
    print("| logits | spread | from nothing | exact labels | from their g | ratio of seconds |")
    print("|---|---|---|---|---|---|")
    for name in ("peaked", "late"):
        logits = make_logits(name, n, k)
        for spread in SPREADS:
            print(row(name, logits, spread), flush=True)
    for rows in (2100, 2000):  # 7 rows a class, and 6 2/3: no labels have that
        for spread in SPREADS[1:]:
            print(row(f"normal, {rows:,} x 300", wide(0, 1.0, rows, 300), spread), flush=True)


if __name__ == "__main__":
    main()
