"""Balanced k-means: scikit-learn's rules, exact sizes, and no worse than its definition."""

import itertools
import sys

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

import sinkhorn_ot
from sinkhorn_ot import BalancedKMeans


@parametrize_with_checks([BalancedKMeans(n_clusters=3)])
def test_it_keeps_the_rules_of_scikit_learn(estimator, check):
    check(estimator)


def blobs(sizes, seed=0):
    """Clusters of uneven sizes, which plain k-means would find."""
    rng = np.random.default_rng(seed)
    centres = 30 * rng.normal(size=(len(sizes), 3))
    return np.concatenate([rng.normal(c, size=(n, 3)) for c, n in zip(centres, sizes, strict=True)])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sizes_are_exact(dtype):
    x = blobs((400, 100, 50, 53)).astype(dtype)
    model = BalancedKMeans(4, random_state=0).fit(x)
    assert sorted(model.sizes_) == [150, 151, 151, 151]
    np.testing.assert_array_equal(np.bincount(model.labels_), model.sizes_)
    for k in range(4):
        mean = x[model.labels_ == k].mean(0)
        np.testing.assert_allclose(model.cluster_centers_[k], mean, atol=1e-4)
    off = ((x - model.cluster_centers_[model.labels_]) ** 2).sum()
    assert model.inertia_ == pytest.approx(off, rel=1e-5)


def test_sizes_stay_between_bounds():
    x = blobs((400, 100, 50, 53))
    model = BalancedKMeans(4, size_min=90, size_max=250, n_init=3, random_state=0).fit(x)
    assert model.sizes_.min() >= 90
    assert model.sizes_.max() <= 250
    free = BalancedKMeans(4, size_min=1, size_max=603, n_init=3, random_state=0).fit(x)
    assert sorted(free.sizes_) == [50, 53, 100, 400]
    assert free.inertia_ < model.inertia_


def test_the_best_start_is_the_optimum_of_a_tiny_problem():
    """All ways to cut six points into three pairs, by hand."""
    x = np.random.default_rng(3).normal(size=(6, 2))

    def inertia(pairs):
        return sum(((x[a] - x[b]) ** 2).sum() / 2 for a, b in pairs)

    best = min(
        inertia([order[:2], order[2:4], order[4:]]) for order in itertools.permutations(range(6))
    )
    model = BalancedKMeans(3, n_init=40, tol=0.0, random_state=0).fit(x)
    assert model.inertia_ == pytest.approx(best)


def test_new_samples_go_to_the_nearest_centre():
    x = blobs((60, 60, 60))
    model = BalancedKMeans(3, n_init=5, random_state=0).fit(x)
    distances = np.linalg.norm(x[:, None] - model.cluster_centers_, axis=2)
    np.testing.assert_array_equal(model.predict(x), distances.argmin(1))
    np.testing.assert_allclose(model.transform(x), distances, atol=1e-6)


def test_more_clusters_than_samples_are_refused():
    with pytest.raises(ValueError, match="n_samples=3 should be >= n_clusters=8"):
        BalancedKMeans().fit(np.zeros((3, 2)))


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "sinkhorn_ot.estimators", raising=False)
    with pytest.raises(ImportError, match=r"BalancedKMeans needs scikit-learn .* pip install"):
        _ = sinkhorn_ot.BalancedKMeans
