"""Exactly balanced labels: seconds, reads, gap and memory, beside other exact solvers.

python benchmarks/balanced.py --n 1000000 --k 1000
python benchmarks/balanced.py --n 20000 --k 1000 --families peaked --solvers sinkhorn_ot pot
python benchmarks/balanced.py --n 4000 --k 100 --families peaked --solvers all

`pot`, `scipy` and `ortools` are exact.  The others are heuristics, to be judged by their sizes and
by what their objective lacks: "below", as a part of that of sinkhorn_ot in the same run.  Labels of
uneven sizes can have more than the optimum of even ones.
Each row is of a process of its own.  R is the time of one parallel read of the matrix in its dtype
(yardstick.c), measured before and after each run; the gap is found by plain NumPy from labels
and g; "added" is what the peak of memory rose by, as a part of
the input, the labels left out, if no earlier peak hid it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from typing import Any

import numpy as np
from measuring import isolated, repeated
from numpy.typing import NDArray
from problems import FAMILIES, make_logits
from records import Cell, Table, span

Labelling = tuple[NDArray[np.int64], NDArray[np.float64] | None]
#: Seconds after which a solver is stopped.
LIMIT = 3600.0
TIES = ("zeros", "votes", "quantised", "equal rows", "few rows")


def make(name: str, n: int, k: int) -> NDArray[Any]:
    """Return logits of a family of problems.py, or with many ties."""
    if name in FAMILIES:
        return make_logits(name, n, k)
    if name == "zeros":
        return np.full((n, k), 0, np.float32)  # pages of their own, which have to be read
    if name == "few rows":  # each a thousand times
        return make_logits("peaked", -(-n // 1000), k)[np.arange(n) // 1000]
    logits = make_logits("peaked", n, k)
    if name == "equal rows":  # 3 in 10
        logits[: 3 * n // 10] = logits[0]
        return logits
    for block in np.array_split(logits, max(1, n // 20_000)):
        block[:] = block > 0.5 if name == "votes" else np.round(3 * block)
    return logits


def ours(logits: NDArray[Any]) -> Labelling:
    """Return labels and the potentials that prove them."""
    from sinkhorn_ot import balanced_labels

    result = balanced_labels(logits)
    return result.labels, result.g


def pot(logits: NDArray[Any]) -> Labelling:
    """POT's network simplex on the transport problem."""
    import ot

    n, k = logits.shape
    sizes = np.full(k, n // k, float)
    plan = ot.emd(np.ones(n), sizes, -logits.astype(np.float64), numItermax=10**8)
    return plan.argmax(1), None


def scipy(logits: NDArray[Any]) -> Labelling:
    """SciPy's assignment with a column for each place."""
    from scipy.optimize import linear_sum_assignment

    n, k = logits.shape
    _, columns = linear_sum_assignment(np.repeat(logits, n // k, axis=1), maximize=True)
    return columns // (n // k), None


def ortools(logits: NDArray[Any]) -> Labelling:
    """OR-Tools' min-cost flow; it takes whole numbers, here millionths of the spread."""
    from ortools.graph.python import min_cost_flow

    n, k = logits.shape
    flow = min_cost_flow.SimpleMinCostFlow()
    start, end = np.repeat(np.arange(n), k), np.tile(np.arange(n, n + k), n)
    cost = np.round((logits.max() - logits) * (1e6 / np.ptp(logits))).astype(np.int64).ravel()
    arcs = flow.add_arcs_with_capacity_and_unit_cost(start, end, np.ones(n * k, np.int64), cost)
    flow.set_nodes_supplies(np.arange(n + k), np.r_[np.ones(n, int), np.full(k, -(n // k))])
    flow.solve()
    return flow.flows(arcs).reshape(n, k).argmax(1), None


def greedy(logits: NDArray[Any]) -> Labelling:
    """Sinkhorn's argmax; then classes that are too large give away whoever loses least by it."""
    from sinkhorn_ot import sinkhorn

    n, k = logits.shape
    epsilon = 0.02 * float(logits[:1000].std(1).mean()) or 1.0
    labels = sinkhorn(logits, epsilon=epsilon).labels
    room = n // k - np.bincount(labels, minlength=k)
    while (room < 0).any():
        rows = np.flatnonzero(room[labels] < 0)
        others = np.where(room > 0, logits[rows], -np.inf)
        to = others.argmax(1)
        loss = logits[rows, labels[rows]] - others[np.arange(len(rows)), to]
        for at in np.argsort(loss, kind="stable"):
            row = rows[at]
            if room[labels[row]] < 0 and room[to[at]] > 0:
                room[labels[row]] += 1
                room[to[at]] -= 1
                labels[row] = to[at]
    return labels, None


def argmax(logits: NDArray[Any]) -> Labelling:
    """Sinkhorn's argmax, as SeLa takes it."""
    from sinkhorn_ot import equipartition_labels

    epsilon = 0.02 * float(logits[:1000].std(1).mean()) or 1.0
    return equipartition_labels(logits, epsilon=epsilon), None


def quantile(logits: NDArray[Any], steps: int = 20) -> Labelling:
    """Quantile balancing of Megatron's router, for one expert a token, from its maths.

    A token is admitted by an expert if its score less the bias beta exceeds the second best of the
    token; beta becomes the value that N / K tokens exceed.  There a step is taken with each batch.
    """
    n, k = logits.shape
    beta = np.zeros(k, logits.dtype)
    for _ in range(steps):
        admitted_above = np.partition(logits - beta, -2, axis=1)[:, -2]
        beta = np.partition(logits - admitted_above[:, None], n - n // k - 1, axis=0)[
            n - n // k - 1
        ]
    return (logits - beta).argmax(1), None


SOLVERS = {
    "sinkhorn_ot": ours, "pot": pot, "scipy": scipy, "ortools": ortools, "argmax": argmax,
    "greedy": greedy, "quantile": quantile,
}  # fmt: skip
COLUMNS = ["logits", "solver", "seconds", "times R", "relative gap", "sizes", "below", "added"]
PACKAGES = {"pot": "POT", "scipy": "scipy", "ortools": "ortools"}
#: Imported before the clock starts.
MODULES = {"sinkhorn_ot": "sinkhorn_ot", "pot": "ot", "scipy": "scipy.optimize",
           "ortools": "ortools.graph.python.min_cost_flow", "argmax": "sinkhorn_ot",
           "greedy": "sinkhorn_ot", "quantile": "numpy"}  # fmt: skip


def gap(logits: NDArray[Any], labels: NDArray[np.int64], g: NDArray[np.float64]) -> float:
    """Relative gap, by weak duality and nothing of the package."""
    objective, bound = [], []
    for start in range(0, len(logits), 20_000):
        block = logits[start : start + 20_000].astype(np.float64)
        objective.append(math.fsum(block[np.arange(len(block)), labels[start : start + 20_000]]))
        bound.append(math.fsum((block + g).max(1)))
    counts = np.bincount(labels, minlength=len(g))
    reached = math.fsum(objective)
    return (math.fsum(bound) - math.fsum(counts * g) - reached) / max(abs(reached), 1e-300)


def case(options: argparse.Namespace) -> None:
    """Run one solver on one problem and print what it took, as JSON."""
    __import__(MODULES[options.solver])
    logits = make(options.family, options.n, options.k).astype(options.dtype, copy=False)
    runs = repeated(SOLVERS[options.solver], logits, options.runs)
    labels, g = runs.answer
    counts = np.bincount(labels, minlength=options.k)
    value = math.fsum(logits[np.arange(len(labels)), labels].astype(np.float64))
    print(
        json.dumps(
            {
                "seconds": statistics.median(runs.seconds),
                "R": statistics.median(runs.reads),
                "gap": None if g is None else gap(logits, labels, g),
                "sizes": [int(counts.min()), int(counts.max())],
                "objective": value,
                "added": (runs.added - 8 * len(labels)) / logits.nbytes,
            }
        )
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--k", type=int, default=1_000)
    parser.add_argument("--dtype", choices=["float32", "float16", "float64"], default="float32")
    parser.add_argument("--families", nargs="+", default=[*FAMILIES, *TIES])
    parser.add_argument("--solvers", nargs="+", choices=[*SOLVERS, "all"], default=["sinkhorn_ot"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--save", metavar="NAME", help="keep the table in results/NAME.json")
    parser.add_argument("--solver", choices=SOLVERS, help=argparse.SUPPRESS)
    parser.add_argument("--family", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.solver:
        case(options)
        return
    solvers = list(SOLVERS) if options.solvers == ["all"] else options.solvers
    packages = {PACKAGES[solver] for solver in solvers if solver in PACKAGES}
    table = Table(COLUMNS, options.save, ["numpy", *sorted(packages)])
    for family in options.families:
        best = None
        for solver in solvers:
            shared = [f"--{x}={getattr(options, x)}" for x in ("n", "k", "dtype", "runs")]
            found = isolated(
                "balanced.py", "--solver", solver, "--family", family, *shared, limit=LIMIT
            )
            if isinstance(found, str):
                table.add(family, solver, found, *[None] * (len(COLUMNS) - 3))
                continue
            below: Cell = None
            if solver == "sinkhorn_ot":
                best = found["objective"]
            elif best is not None:
                below = (best - found["objective"]) / max(abs(best), 1e-300)
            table.add(
                family, solver, found["seconds"], found["seconds"] / found["R"], found["gap"],
                span(*found["sizes"]), below, found["added"] if found["added"] > 0 else None,
            )  # fmt: skip


if __name__ == "__main__":
    main()
