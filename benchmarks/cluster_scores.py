"""Scores of 1,281,167 images in 3,000 clusters and 1,000 classes: ours, and scikit-learn's three.

python benchmarks/cluster_scores.py [IMAGES CLUSTERS CLASSES]
"""

from __future__ import annotations

import sys
import time

import numpy as np
from sklearn import metrics

from selfsup.evaluation.scores import cluster_scores


def main(n: int = 1_281_167, k: int = 3000, classes: int = 1000) -> None:
    """Time both on labels that are right for half of the images, and compare what they find."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, classes, n)
    labels = np.where(rng.random(n) < 0.5, rng.integers(0, k, n), truth * k // classes)
    began = time.perf_counter()
    ours = cluster_scores(truth, labels, k, classes)
    print(f"all scores of cluster_scores: {time.perf_counter() - began:.1f} s")
    for name, score in (
        ("nmi", metrics.normalized_mutual_info_score),
        ("ari", metrics.adjusted_rand_score),
        ("ami", metrics.adjusted_mutual_info_score),
    ):
        began = time.perf_counter()
        theirs = score(truth, labels)
        seconds = time.perf_counter() - began
        print(f"scikit-learn's {name}: {seconds:.1f} s, differs by {abs(theirs - ours[name]):.1e}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
