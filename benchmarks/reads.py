"""Reads of problems on which a solve may stall, over seeds: a table on standard output.

    python benchmarks/reads.py [SEEDS]

Work on samples and on kept entries is counted as the parts of a read that it costs.
"""

from __future__ import annotations

import statistics
import sys
import warnings

from problems import HARD

from sinkhorn_ot import sinkhorn


def main() -> None:
    """Print a line for each family."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    warnings.simplefilter("ignore")  # not converged: the table says so
    print("| family | to | median | worst | unsolved |\n|---|---|---|---|---|")
    for name, (make, epsilon, tol) in HARD.items():
        results = [sinkhorn(make(seed), epsilon=epsilon, tol=tol) for seed in range(seeds)]
        reads = [result.n_passes for result in results]
        unsolved = sum(not result.converged for result in results)
        print(
            f"| {name} | {tol:g} | {statistics.median(reads):.1f} | {max(reads):.1f} | "
            f"{unsolved} of {seeds} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
