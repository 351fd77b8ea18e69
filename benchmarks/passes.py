"""Where a solve spends its time, and how fast its arithmetic is where memory does not count.

python benchmarks/passes.py

Prints, for every family, what part of the time of a solve to 1e-3 each kind of work takes and how
often it is done, and the nanoseconds that a read takes when all rows are in the cache. What a read
and a solve cost as a whole, `make bench` measures.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections import Counter

import numpy as np
from problems import EPSILON, FAMILIES, make_logits
from records import Cell, Table

from sinkhorn_ot import sinkhorn
from sinkhorn_ot.backends.cpu import CpuKept, CpuPasses
from sinkhorn_ot.passes import Problem


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--k", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--save", metavar="NAME", help="keep the parts in results/NAME.json")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error(f"--runs must be at least 1, got {options.runs}")
    account(options.n, options.k, options.save)
    resident(options.k, options.runs)


def account(n: int, k: int, save: str | None) -> None:
    """Print what the second of two solves to 1e-3 spends its time on, for each family."""
    seconds: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    sampling = False

    def timed(function, name):
        @functools.wraps(function)
        def run(self, *args, **options):
            nonlocal sampling
            part = name
            if name == "read":
                sampling = options.get("stride", 1) > 1
                part = "samples" if sampling else "reads"
            elif sampling:
                part = "steps on samples"
            start = time.perf_counter()
            answer = function(self, *args, **options)
            seconds[part] += time.perf_counter() - start
            calls[part] += 1
            return answer

        return run

    CpuPasses.read = timed(CpuPasses.read, "read")
    for operation in ("mass", "second_moment"):
        setattr(CpuKept, operation, timed(getattr(CpuKept, operation), "steps on kept entries"))
    parts = ("reads", "samples", "steps on samples", "steps on kept entries")
    columns = ["family", "seconds"]
    for part in parts:
        columns += [f"{part}, %", "times"]
    table = Table(columns, save, ["numpy"])
    for family in FAMILIES:
        logits = make_logits(family, n, k)
        for _ in range(2):
            seconds.clear(), calls.clear()
            start = time.perf_counter()
            sinkhorn(logits, epsilon=EPSILON, tol=1e-3)
            whole = time.perf_counter() - start
        cells: list[Cell] = []
        for part in parts:
            cells += [round(100 * seconds[part] / whole), calls[part]]
        table.add(family, whole, *cells)


def resident(k: int, runs: int) -> None:
    """Print the nanoseconds of one core for 16 entries while all rows are one and the same."""
    row = make_logits("flat", 1, k)
    logits = np.broadcast_to(row, (400_000_000 // k, k))
    passes = CpuPasses(Problem(logits, None, np.full(k, 1 / k), EPSILON))
    passes.threads, g, seconds = 1, np.zeros(k), []
    for _ in range(runs):
        start = time.perf_counter()
        passes.read(g)
        seconds.append(time.perf_counter() - start)
    each = 16e9 / logits.size
    print(
        f"\nRows in the cache, one thread ({passes.simd}): {each * statistics.median(seconds):.2f} "
        f"ns per 16 entries, at best {each * min(seconds):.2f}"
    )


if __name__ == "__main__":
    main()
