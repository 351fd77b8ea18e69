"""Balanced k-means beside k-means-constrained, and beside faiss's k-means, which balances nothing.

python benchmarks/kmeans.py --n 10000 20000 200000 --width 64 --k 100 --rounds 3
python benchmarks/kmeans.py --n 1000000 --width 256 --k 1000 --rounds 3 --solvers sinkhorn_ot faiss

All begin at the same centres (k-means++) but for "five starts", and take the same number of rounds.
k-means-constrained minimises the sum of distances, not squared, so it goes another way.  Each row
is of a process of its own, ended after --timeout seconds.  Data: k normal clusters of uneven weight
(Dirichlet, 2), whose centres have a standard deviation of --spread in units of that within.  The
inertia is that of the labels about the means of their clusters, in float64; "added" is what the
peak of memory rose by, in MB; "CPU" are seconds of all threads.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from measuring import isolated, peak_bytes
from numpy.typing import NDArray
from records import Cell, Table, span

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


def points(n: int, width: int, k: int, spread: float) -> Floats:
    """Return normal clusters, made in blocks without a second copy."""
    rng = np.random.default_rng(0)
    centres = spread * rng.standard_normal((k, width), dtype=np.float32)
    out = np.empty((n, width), np.float32)
    weights = rng.dirichlet(np.full(k, 2.0))
    for block in np.array_split(out, max(1, n // 20_000)):
        rng.standard_normal(dtype=np.float32, out=block)
        block += centres[rng.choice(k, len(block), p=weights)]
    return out


def seeds(x: Floats, k: int) -> Floats:
    """Return centres by k-means++ on 64 samples a cluster, at most 16,000."""
    from sklearn.cluster import kmeans_plusplus

    return kmeans_plusplus(x[: min(64 * k, 16_000)], k, random_state=0)[0]


def ours(x: Floats, centres: Floats, rounds: int) -> Labels:
    """Return labels of `BalancedKMeans`."""
    from sinkhorn_ot import BalancedKMeans

    model = BalancedKMeans(len(centres), init=centres, max_iter=rounds, tol=0.0)
    return model.fit(x).labels_


def ours_in_blocks(x: Floats, centres: Floats, rounds: int) -> Labels:
    """Return labels of `BalancedKMeans` that may hold an eighth of N x K."""
    from sinkhorn_ot import BalancedKMeans

    limit = len(x) * len(centres) * 4 // 8
    model = BalancedKMeans(len(centres), init=centres, max_iter=rounds, tol=0.0, memory_limit=limit)
    return model.fit(x).labels_


def ours_five_starts(x: Floats, centres: Floats, rounds: int) -> Labels:
    """Return the best labels of five starts of `BalancedKMeans`, by its own k-means++."""
    from sinkhorn_ot import BalancedKMeans

    model = BalancedKMeans(len(centres), n_init=5, random_state=0, max_iter=rounds, tol=0.0)
    return model.fit(x).labels_


def constrained(x: Floats, centres: Floats, rounds: int) -> Labels:
    """Return labels of k-means-constrained: a minimum cost flow of OR-Tools each round."""
    from k_means_constrained import KMeansConstrained

    n, k = len(x), len(centres)
    model = KMeansConstrained(
        k,
        size_min=n // k,
        size_max=-(-n // k),
        init=centres,
        n_init=1,
        max_iter=rounds - 1,
        tol=0.0,
    )
    return model.fit(x).labels_


def faiss(x: Floats, centres: Floats, rounds: int) -> Labels:
    """Return labels of faiss's k-means on all samples."""
    import faiss

    n, k = len(x), len(centres)
    model = faiss.Kmeans(x.shape[1], k, niter=rounds - 1, max_points_per_centroid=-(-n // k))
    model.train(x, init_centroids=centres)
    return model.index.search(x, 1)[1][:, 0]


def argmax(x: Floats, centres: Floats, rounds: int) -> Labels:
    """Return labels of scikit-learn's k-means."""
    from sklearn.cluster import KMeans

    return KMeans(len(centres), init=centres, n_init=1, max_iter=rounds - 1, tol=0.0).fit(x).labels_


SOLVERS = {
    "sinkhorn_ot": ours,
    "sinkhorn_ot, N x K in blocks": ours_in_blocks,
    "sinkhorn_ot, five starts": ours_five_starts,
    "k-means-constrained": constrained,
    "faiss": faiss,
    "scikit-learn": argmax,
}
DEFAULT = ["sinkhorn_ot", "sinkhorn_ot, N x K in blocks", "k-means-constrained"]
#: Imported before the clock starts.
MODULES = {
    "sinkhorn_ot": "sinkhorn_ot.estimators",
    "sinkhorn_ot, N x K in blocks": "sinkhorn_ot.estimators",
    "sinkhorn_ot, five starts": "sinkhorn_ot.estimators",
    "k-means-constrained": "k_means_constrained",
    "faiss": "faiss",
    "scikit-learn": "sklearn.cluster",
}
COLUMNS = ["N x D, K", "solver", "seconds", "x ours", "CPU", "inertia above ours", "sizes",
           "added, MB"]  # fmt: skip
PACKAGES = ("numpy", "scikit-learn", "k-means-constrained", "ortools", "faiss-cpu")


def inertia(x: Floats, labels: Labels, k: int) -> float:
    """Sum of squared distances to the means of the clusters."""
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=k))
    total = 0.0
    for some in np.split(order, ends[:-1]):
        if len(some):
            cluster = x[some].astype(np.float64)
            total += float(((cluster - cluster.mean(0)) ** 2).sum())
    return total


def case(options: argparse.Namespace) -> None:
    """Run one solver and print what it took, as JSON."""
    __import__(MODULES[options.solver])
    (n,) = options.n
    x = points(n, options.width, options.k, options.spread)
    centres = seeds(x, options.k)
    before, start, spent = peak_bytes(), time.perf_counter(), time.process_time()
    labels = SOLVERS[options.solver](x, centres.copy(), options.rounds)
    seconds = time.perf_counter() - start
    spent = time.process_time() - spent
    added = (peak_bytes() - before) / 1e6
    counts = np.bincount(labels, minlength=options.k)
    print(
        json.dumps(
            {
                "seconds": round(seconds, 3),
                "cpu_seconds": round(spent, 3),
                "inertia": inertia(x, labels, options.k),
                "smallest": int(counts.min()),
                "largest": int(counts.max()),
                "added_mb": round(added),
            }
        )
    )


def run(options: argparse.Namespace) -> None:
    """Run all solvers at all sizes; one that fails has the reason in place of figures."""
    table = Table(COLUMNS, options.save, PACKAGES)
    for n in options.n:
        own = None
        for solver in options.solvers:
            shared = [f"--{name}={getattr(options, name)}"
                      for name in ("width", "k", "rounds", "spread")]  # fmt: skip
            found = isolated(
                "kmeans.py", "--solver", solver, "--n", n, *shared, limit=options.timeout
            )
            problem = (f"{n:,} x {options.width}, {options.k:,}", solver)
            if isinstance(found, str):
                table.add(*problem, found, *[None] * (len(COLUMNS) - 3))
                continue
            if solver == "sinkhorn_ot":
                own = found
            slower: Cell = None
            above: Cell = None
            if own is not None and own is not found:
                slower = found["seconds"] / own["seconds"]
                above = found["inertia"] / own["inertia"] - 1
            table.add(
                *problem, found["seconds"], slower, found["cpu_seconds"], above,
                span(found["smallest"], found["largest"]), found["added_mb"],
            )  # fmt: skip


def main() -> None:
    """Run, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[10_000])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--spread", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=600.0)
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=DEFAULT)
    parser.add_argument("--save", metavar="NAME", help="keep the table in results/NAME.json")
    parser.add_argument("--solver", choices=SOLVERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.solver:
        case(options)
    else:
        run(options)


if __name__ == "__main__":
    main()
