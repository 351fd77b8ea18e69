"""One solver on one problem, in a process of its own: prints a line of JSON.

python benchmarks/case.py sinkhorn_ot --family late
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import statistics
from pathlib import Path

from measuring import repeated
from problems import FAMILIES, REAL, load_real, make_logits, true_violation
from solvers import MODULES, OVERWRITES, SOLVERS


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
    for module in MODULES[options.solver]:  # importing is no part of solving
        importlib.import_module(module)
    if options.family == REAL:
        logits = load_real(options.logits)
    else:
        logits = make_logits(options.family, options.n, options.k)
    solve = functools.partial(SOLVERS[options.solver], tol=options.tol)
    if options.memory_limit is not None:
        solve = functools.partial(solve, memory_limit=int(options.memory_limit * logits.nbytes))
    pristine = logits.copy() if options.solver in OVERWRITES else None
    runs = repeated(solve, logits, options.runs, pristine)
    answer = runs.answer
    if pristine is not None:
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
                "seconds": round(statistics.median(runs.seconds), 5),
                "min": round(min(runs.seconds), 5),
                "max": round(max(runs.seconds), 5),
                "runs": len(runs.seconds),
                "read_seconds": round(statistics.median(runs.reads), 6),
                "gb_per_s": round(logits.nbytes / statistics.median(runs.reads) / 1e9, 1),
                "n_iter": answer.n_iter,
                "reads": answer.reads,
                "violation": true_violation(logits, answer.g),
                "added": round((runs.added - returned) / logits.nbytes, 4),
                "memory_limit": options.memory_limit,
                "stalled": answer.stalled,
                "curve": answer.curve[:400],
            }
        )
    )


if __name__ == "__main__":
    main()
