"""Scores of 1,281,167 images in 3,000 clusters and 1,000 classes: ours, and scikit-learn's three.

python benchmarks/cluster_scores.py
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from records import Table
from sklearn import metrics

from selfsup.evaluation.scores import cluster_scores


def main() -> None:
    """Time both on labels that are right for half of the images, and compare what they find."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--clusters", type=int, default=3000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--save", metavar="NAME", help="keep the table in results/NAME.json")
    options = parser.parse_args()
    n, k, classes = options.images, options.clusters, options.classes
    rng = np.random.default_rng(0)
    truth = rng.integers(0, classes, n)
    labels = np.where(rng.random(n) < 0.5, rng.integers(0, k, n), truth * k // classes)
    table = Table(["scores", "seconds", "differs by"], options.save, ["numpy", "scikit-learn"])
    began = time.perf_counter()
    ours = cluster_scores(truth, labels, k, classes)
    table.add("cluster_scores: all", time.perf_counter() - began, None)
    for name, score in (
        ("nmi", metrics.normalized_mutual_info_score),
        ("ari", metrics.adjusted_rand_score),
        ("ami", metrics.adjusted_mutual_info_score),
    ):
        began = time.perf_counter()
        theirs = score(truth, labels)
        seconds = time.perf_counter() - began
        table.add(f"scikit-learn: {name}", seconds, abs(theirs - ours[name]))


if __name__ == "__main__":
    main()
