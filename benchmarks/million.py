"""A million by a thousand: seconds and peak memory of one solver, in a process of its own.

python benchmarks/million.py cpu
python benchmarks/million.py sela_original  # about 21 GB in all
"""

from __future__ import annotations

import argparse
import resource
import time

from problems import FAMILIES, make_logits, true_violation
from solvers import SOLVERS

CHOICES = [name for name in SOLVERS if name != "pot"]  # it would add ten times the input, 40 GB


def main() -> None:
    """Run one solver once and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("solver", choices=CHOICES)
    parser.add_argument("--family", choices=FAMILIES, default="peaked")
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--k", type=int, default=1_000)
    parser.add_argument("--tol", type=float, default=1e-3)
    options = parser.parse_args()

    logits = make_logits(options.family, options.n, options.k)
    before = _peak_gb()  # the input is the largest thing so far
    start = time.perf_counter()
    answer = SOLVERS[options.solver](logits, options.tol)
    seconds = time.perf_counter() - start
    added = _peak_gb() - before
    print(
        f"{options.solver:16} {options.family:7} {options.n:,} x {options.k:,} "
        f"({logits.nbytes / 1e9:.1f} GB): {seconds:.1f} s, {answer.n_iter} iterations, "
        f"violation {true_violation(logits, answer.g):.1e}, "
        f"{added:.3f} GB above the input (labels included)"
    )


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
