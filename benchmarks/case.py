"""One solver on one problem, in a process of its own: prints a line of JSON.

python benchmarks/case.py sinkhorn_ot --family late
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from problems import FAMILIES, REAL, load_real, make_logits, true_violation
from solvers import MODULES, OVERWRITES, SOLVERS, Logits

#: Seconds of a first run above which there is no second; seconds that short runs are repeated for,
#: as their first ones share the cores with threads that made the problem; and how often at most.
ONE_RUN_ABOVE, AT_LEAST, MOST_RUNS = 60.0, 0.5, 50


def main() -> None:
    """Run one solver and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("solver", choices=SOLVERS)
    parser.add_argument("--family", choices=[*FAMILIES, REAL], default="peaked")
    parser.add_argument("--logits", type=Path, help="saved logits of the family 'real'")
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--k", type=int, default=1_000)
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory-limit", type=float, help="as a part of the input")
    options = parser.parse_args()

    def problem() -> Logits:
        if options.family == REAL:
            return load_real(options.logits)
        return make_logits(options.family, options.n, options.k)

    for module in MODULES[options.solver]:  # importing is no part of solving
        importlib.import_module(module)
    logits = problem()
    solver = SOLVERS[options.solver]
    extra = {}
    if options.memory_limit is not None:
        extra["memory_limit"] = int(options.memory_limit * logits.nbytes)
    read = yardstick()
    pristine = logits.copy() if options.solver in OVERWRITES else logits
    before = _peak_bytes()  # the input is the largest thing so far
    seconds, reads = [], []

    def enough() -> bool:
        if len(seconds) < options.runs:
            return bool(seconds) and seconds[0] >= ONE_RUN_ABOVE
        return sum(seconds) >= AT_LEAST or len(seconds) >= MOST_RUNS

    while not enough():
        if pristine is not logits:
            np.copyto(logits, pristine)
        reads += [read(logits) for _ in range(3)]
        start = time.perf_counter()
        answer = solver(logits, options.tol, **extra)
        seconds.append(time.perf_counter() - start)
        reads += [read(logits) for _ in range(3)]
        if len(seconds) == 1:
            added = _peak_bytes() - before
    logits = pristine
    returned = 16 * len(logits)  # labels and f
    print(
        json.dumps(
            {
                "solver": options.solver,
                "family": options.family,
                "n": logits.shape[0],
                "k": logits.shape[1],
                "tol": options.tol,
                "seconds": round(statistics.median(seconds), 5),
                "min": round(min(seconds), 5),
                "max": round(max(seconds), 5),
                "runs": len(seconds),
                "read_seconds": round(statistics.median(reads), 6),
                "gb_per_s": round(logits.nbytes / statistics.median(reads) / 1e9, 1),
                "n_iter": answer.n_iter,
                "reads": answer.reads,
                "violation": true_violation(logits, answer.g),
                "added": round((added - returned) / logits.nbytes, 4),
                "memory_limit": options.memory_limit,
                "stalled": answer.stalled,
                "curve": answer.curve[:400],
            }
        )
    )


def yardstick():
    """Compile yardstick.c for this processor and return a function: seconds to read an array."""
    folder = Path(tempfile.mkdtemp())
    source = Path(__file__).with_name("yardstick.c")
    library = folder / "yardstick.so"
    flags = ["-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, source, "-o", library], check=True)
    function = ctypes.CDLL(str(library)).seconds_to_read
    function.restype = ctypes.c_double
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
    checksum = np.zeros(1)

    def read(x: Logits) -> float:
        return function(x.ctypes.data, x.shape[0], x.shape[1], checksum.ctypes.data)

    return read


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
