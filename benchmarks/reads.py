"""Reads of problems on which a solve may stall, over seeds: a table on standard output.

    python benchmarks/reads.py [--seeds 20]

Work on samples and on kept entries is counted as the parts of a read that it costs.
"""

from __future__ import annotations

import argparse
import statistics
import warnings

from problems import HARD
from records import Table

from sinkhorn_ot import sinkhorn


def main() -> None:
    """Print a line for each family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--save", metavar="NAME", help="keep the table in results/NAME.json")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {options.seeds}")
    warnings.simplefilter("ignore")  # not converged: the table says so
    table = Table(["family", "to", "median", "worst", "unsolved"], options.save, ["numpy"])
    for name, (make, epsilon, tol) in HARD.items():
        results = [sinkhorn(make(seed), epsilon=epsilon, tol=tol) for seed in range(options.seeds)]
        reads = [result.n_passes for result in results]
        unsolved = sum(not result.converged for result in results)
        table.add(
            name, f"{tol:g}", statistics.median(reads), max(reads), f"{unsolved} of {options.seeds}"
        )


if __name__ == "__main__":
    main()
