"""Exactly balanced labels where rows are repeated so often that they fill many classes."""

import math

import numpy as np
import pytest
from optimum import best

from sinkhorn_ot import balanced_labels


def with_equal_rows(rng, kind):
    """Rows most of which are equal to one or two of them, filling more than 16 classes each."""
    groups = 2 if kind == "two groups" else 1
    k = 20 * groups + int(rng.integers(0, 3))
    n = int(rng.integers(6 * k, 8 * k))
    logits = rng.normal(size=(n, k))
    copies = int(0.9 * n)
    logits[:copies] = logits[-groups:][rng.integers(0, groups, copies)]
    if kind == "forbidden pairs":
        logits[:copies, 1] = -np.inf
    return rng.permutation(logits).astype(np.float16 if kind == "float16" else np.float32)


@pytest.mark.parametrize("kind", ["one group", "two groups", "forbidden pairs", "float16"])
def test_the_optimum_with_equal_rows_is_scipys(kind):
    """Where potentials are moved so that ties share equal rows out, by sizes and by bounds."""
    rng = np.random.default_rng(len(kind))
    for _ in range(8):
        logits = with_equal_rows(rng, kind)
        n, k = logits.shape
        for low, high in ((n // k, -(-n // k)), (n // k - 1, n // k + 2)):
            result = balanced_labels(logits, sizes_min=low, sizes_max=high)
            counts = np.bincount(result.labels, minlength=k)
            assert low <= counts.min() <= counts.max() <= high
            taken = math.fsum(logits.astype(np.float64)[np.arange(n), result.labels])
            expected = best(logits, np.full(k, low), np.full(k, high))
            assert taken == pytest.approx(expected, rel=1e-9)
            assert 0 <= result.gap <= 1e-9 * n


@pytest.mark.parametrize("groups", [1, 2])
def test_equal_rows_that_fill_many_classes_are_shared_out_at_once(groups):
    """Few are moved; if all began in the class of their largest entry, most of them would be."""
    logits = np.random.default_rng(0).normal(size=(8000, 80)).astype(np.float32)
    for group in range(groups):
        logits[group : 2500 * groups : groups] = logits[group]
    logits = np.random.default_rng(1).permutation(logits)
    result = balanced_labels(logits)
    assert (result.counts == 100).all()
    assert abs(result.gap) <= 1e-12 * result.objective
    assert result.n_moved <= 500
