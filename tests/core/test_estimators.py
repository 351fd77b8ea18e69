"""Balanced k-means: scikit-learn's rules, exact sizes, and no worse than its definition."""

import itertools
import sys

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

import sinkhorn_ot
from sinkhorn_ot import BalancedKMeans, estimators


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


@pytest.mark.parametrize("bounds", [{}, {"size_min": 300, "size_max": 500}])
def test_a_matrix_that_does_not_fit_is_never_whole(bounds, monkeypatch):
    """The same labels in the end, though at most an eighth of N x K is made at a time."""
    made = []
    rows_of = estimators.Scores.__getitem__

    def watched(scores, rows):
        block = rows_of(scores, rows)
        made.append(block.nbytes)
        return block

    monkeypatch.setattr(estimators.Scores, "__getitem__", watched)
    rng = np.random.default_rng(0)
    x = (2 * rng.normal(size=(20, 4)) + rng.normal(size=(400, 20, 4))).reshape(-1, 4)
    x = x.astype(np.float32)
    matrix = len(x) * 20 * 4
    whole = BalancedKMeans(20, random_state=0, max_iter=4, **bounds).fit(x)
    assert max(made) == matrix
    monkeypatch.setattr(estimators, "SPAN", matrix // 8)
    made.clear()
    model = BalancedKMeans(20, random_state=0, max_iter=4, memory_limit=matrix // 8, **bounds)
    model.fit(x)
    assert max(made) == matrix // 8
    np.testing.assert_array_equal(model.labels_, whole.labels_)
    assert model.inertia_ == whole.inertia_


def test_data_far_from_zero_are_clustered_as_well():
    """In float32, moved by 1000 without rounding, where |c|^2 is 10^7 times the distances."""
    x = (np.round(64 * blobs((300, 200, 100, 52))) / 64).astype(np.float32)
    near = BalancedKMeans(4, init=x[::163]).fit(x)
    far = BalancedKMeans(4, init=x[::163] + 1000).fit(x + 1000)
    assert far.inertia_ == pytest.approx(near.inertia_, rel=1e-4)
    assert (far.labels_ == near.labels_).mean() > 0.99
    assert (far.predict(x + 1000) == near.predict(x)).mean() > 0.99


def test_centres_to_begin_with_are_used_and_checked():
    x = blobs((60, 60, 60))
    centres = x[[0, 60, 120]]
    first = BalancedKMeans(3, init=centres, max_iter=1, n_init=7).fit(x)
    distances = ((x[:, None] - centres) ** 2).sum(-1)
    np.testing.assert_array_equal(first.labels_, np.repeat([0, 1, 2], 60))
    np.testing.assert_array_equal(first.labels_, distances.argmin(1))
    with pytest.raises(ValueError, match=r"init must be 3 x 3 finite numbers, got shape \(2, 3\)"):
        BalancedKMeans(3, init=centres[:2]).fit(x)
    with pytest.raises(ValueError, match="init must be 'k-means\\+\\+' or an array"):
        BalancedKMeans(3, init="random").fit(x)


def test_sizes_that_cannot_be_are_named():
    x = blobs((20, 20))
    with pytest.raises(ValueError, match=r"^size_min add up to 42, which is more than the 40"):
        BalancedKMeans(2, size_min=21).fit(x)
    with pytest.raises(TypeError, match=r"^size_max must be integers"):
        BalancedKMeans(2, size_max=20.5).fit(x)


def test_distances_that_overflow_are_named():
    x = np.float32(1e25) * blobs((20, 20)).astype(np.float32)
    with pytest.raises(ValueError, match="squared distances of row 0 overflow float32"):
        BalancedKMeans(2, init=x[[0, 20]]).fit(x)


def test_more_clusters_than_samples_are_refused():
    with pytest.raises(ValueError, match="n_samples=3 should be >= n_clusters=8"):
        BalancedKMeans().fit(np.zeros((3, 2)))


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "sinkhorn_ot.estimators", raising=False)
    with pytest.raises(ImportError, match=r"BalancedKMeans needs scikit-learn .* pip install"):
        _ = sinkhorn_ot.BalancedKMeans


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_distances_to_near_centres_keep_their_digits(dtype):
    """Each sample is its own centre; in float32, far from 0, squares cancelled to 5e-3."""
    x = (100 + 30 * np.random.default_rng(0).normal(size=(12, 5))).astype(dtype)
    model = BalancedKMeans(12, init=x).fit(x)
    np.testing.assert_array_equal(np.diag(model.transform(x)), np.zeros(12))


def test_a_failed_fit_leaves_the_one_before():
    x = blobs((20, 20))
    model = BalancedKMeans(2, init=x[[0, 20]]).fit(x)
    before = model.inertia_
    with pytest.raises(ValueError, match="scale X down"):
        model.set_params(init=1e200 * x[[0, 20]]).fit(1e200 * x)
    assert model.inertia_ == before


@pytest.mark.parametrize(
    ("wish", "kind", "message"),
    [
        ({"n_clusters": "a"}, ValueError, "n_clusters must be an integer >= 1, got 'a'"),
        ({"n_init": "auto"}, ValueError, "n_init must be an integer >= 1, got 'auto'"),
        ({"n_init": 2.5}, ValueError, "n_init must be an integer >= 1, got 2.5"),
        ({"max_iter": 1.5}, ValueError, "max_iter must be an integer >= 1, got 1.5"),
        ({"memory_limit": 0}, ValueError, "memory_limit must be an integer >= 1, got 0"),
        ({"tol": np.nan}, ValueError, "tol must be finite and >= 0, got nan"),
        ({"tol": None}, TypeError, "tol must be a number, got NoneType"),
    ],
)
def test_parameters_out_of_range_are_named(wish, kind, message):
    with pytest.raises(kind, match=message):
        BalancedKMeans(**{"n_clusters": 2, **wish}).fit(blobs((20, 20)))


def test_columns_of_transform_have_names():
    model = BalancedKMeans(2, random_state=0).fit(blobs((20, 20)))
    assert list(model.get_feature_names_out()) == ["balancedkmeans0", "balancedkmeans1"]
