"""What one read costs in units of R, and what a call costs beyond its reads.

python benchmarks/passes.py

Prints the seconds of a read at g = 0 for every family, plain, with labels and f, and with a sketch,
and the microseconds of a whole call on 256 x 64 logits. R is measured between the reads.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from case import yardstick
from problems import EPSILON, FAMILIES, make_logits

from sinkhorn_ot import sinkhorn
from sinkhorn_ot.api import sketch_words
from sinkhorn_ot.arrays import Problem
from sinkhorn_ot.backends.cpu import CpuPasses


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--k", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    one_read(options.n, options.k, options.runs)
    small_call()


def one_read(n: int, k: int, runs: int) -> None:
    """Print a line for each family: medians, in seconds and multiples of R."""
    read, g = yardstick(), np.zeros(k)
    print("| family | R | a read | with labels and f | with a sketch |\n|---|---|---|---|---|")
    for family in FAMILIES:
        logits = make_logits(family, n, k)
        passes = CpuPasses(Problem(logits, None, np.full(k, 1 / k), EPSILON))
        sketch = passes.sketch(sketch_words(logits, None))
        sketch.expect(g, 7.0)
        seconds: dict[str, list[float]] = {"R": [], "plain": [], "labels": [], "sketch": []}
        for _ in range(runs):
            seconds["R"].append(read(logits))
            for name, what in (
                ("plain", {}),
                ("labels", {"assign": True}),
                ("sketch", {"sketch": sketch}),
            ):
                start = time.perf_counter()
                passes.read(g, **what)
                seconds[name].append(time.perf_counter() - start)
        r, *others = (statistics.median(s) for s in seconds.values())
        cells = " | ".join(f"{s:.3f} s, {s / r:.2f} R" for s in others)
        print(f"| {family} | {r:.3f} s | {cells} |", flush=True)


def small_call() -> None:
    """Print the median microseconds of a call that people make for every minibatch."""
    for family in ("flat", "peaked"):
        logits, seconds = make_logits(family, 256, 64), []
        for _ in range(300):
            start = time.perf_counter()
            result = sinkhorn(logits, epsilon=EPSILON, tol=1e-1)
            seconds.append(time.perf_counter() - start)
        a_read = _read_of(logits)
        print(
            f"256 x 64 {family}, tol 0.1: {1e6 * statistics.median(seconds):.0f} microseconds a "
            f"call of {result.n_passes:.1f} reads; a read in C++ takes {1e6 * a_read:.0f}"
        )


def _read_of(logits: np.ndarray) -> float:
    k = logits.shape[1]
    passes = CpuPasses(Problem(logits, None, np.full(k, 1 / k), EPSILON))
    g, seconds = np.zeros(k), []
    for _ in range(300):
        start = time.perf_counter()
        passes.read(g)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
