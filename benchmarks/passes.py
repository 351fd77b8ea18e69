"""What one read costs in units of R, where a solve spends its time, and what a small call costs.

python benchmarks/passes.py [--small]

Prints the seconds of a read at g = 0 for every family, plain, with labels and f, and with entries
kept (R is measured between the reads); the parts of a solve to 1e-3; the nanoseconds that the loop
takes when all rows are in the cache; and the microseconds of whole calls on few logits, with
`--small` these alone.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections import Counter

import numpy as np
from case import yardstick
from problems import EPSILON, FAMILIES, make_logits

from sinkhorn_ot import sinkhorn
from sinkhorn_ot.arrays import place_of
from sinkhorn_ot.backends import named
from sinkhorn_ot.backends.cpu import CpuKept, CpuPasses, needs
from sinkhorn_ot.checks import room_for_entries
from sinkhorn_ot.group import Group, GroupPasses
from sinkhorn_ot.passes import SETS, Problem

#: Calls on few logits: N, K, tol, and how many of them.
SMALL = (
    (256, 64, 1e-1, 300),
    (256, 64, 1e-3, 300),
    (10_000, 100, 1e-3, 30),
    (10_000, 100, 1e-6, 30),
)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--k", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="only calls on few logits")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error(f"--runs must be at least 1, got {options.runs}")
    if not options.small:
        one_read(options.n, options.k, options.runs)
        account(options.n, options.k)
        resident(options.k, options.runs)
    small_calls()


def one_read(n: int, k: int, runs: int) -> None:
    """Print a line for each family: medians, in seconds and multiples of R."""
    read, g = yardstick(), np.zeros(k)
    print("| family | R | a read | with labels and f | keeping entries |\n|---|---|---|---|---|")
    for family in FAMILIES:
        logits = make_logits(family, n, k)
        problem = Problem(logits, None, np.full(k, 1 / k), EPSILON)
        passes = GroupPasses(problem, Group(), named("cpu", place_of(logits)))
        kept = passes.keep(room_for_entries(logits, n, None, needs(logits, n)) // SETS)
        seconds: dict[str, list[float]] = {"R": [], "plain": [], "labels": [], "kept": []}
        for _ in range(runs):
            seconds["R"].append(read(logits))
            for name, what in (
                ("plain", {}),
                ("labels", {"assign": True}),
                ("kept", {"kept": kept}),
            ):
                start = time.perf_counter()
                passes.read(g, **what)
                seconds[name].append(time.perf_counter() - start)
        r, *others = (statistics.median(s) for s in seconds.values())
        cells = " | ".join(f"{s:.3f} s, {s / r:.2f} R" for s in others)
        print(f"| {family} | {r:.3f} s | {cells} |", flush=True)


def account(n: int, k: int) -> None:
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
    print("\n| family | a solve | " + " | ".join(parts) + " |\n" + "|---" * 6 + "|")
    for family in FAMILIES:
        logits = make_logits(family, n, k)
        for _ in range(2):
            seconds.clear(), calls.clear()
            start = time.perf_counter()
            sinkhorn(logits, epsilon=EPSILON, tol=1e-3)
            whole = time.perf_counter() - start
        cells = " | ".join(f"{seconds[p]:.3f} s in {calls[p]}" for p in parts)
        print(f"| {family} | {whole:.3f} s | {cells} |", flush=True)


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


def small_calls() -> None:
    """Print lower quartiles of calls on few logits, all families in turn."""
    print("\n| N x K | tol | " + " | ".join(FAMILIES) + " | a read |\n" + "|---" * 8 + "|")
    for n, k, tol, calls in SMALL:
        logits = {family: make_logits(family, n, k) for family in FAMILIES}
        seconds: dict[str, list[float]] = {family: [] for family in FAMILIES}
        for _ in range(calls):
            for family, matrix in logits.items():
                start = time.perf_counter()
                sinkhorn(matrix, epsilon=EPSILON, tol=tol)
                seconds[family].append(time.perf_counter() - start)
        times = [*seconds.values(), _reads_of(logits["flat"])]
        cells = " | ".join(f"{1e6 * sorted(each)[len(each) // 4]:.0f}" for each in times)
        print(f"| {n} x {k} | {tol:g} | {cells} |", flush=True)


def _reads_of(logits: np.ndarray) -> list[float]:
    k = logits.shape[1]
    passes = CpuPasses(Problem(logits, None, np.full(k, 1 / k), EPSILON))
    g, seconds = np.zeros(k), []
    for _ in range(300):
        start = time.perf_counter()
        passes.read(g)
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
