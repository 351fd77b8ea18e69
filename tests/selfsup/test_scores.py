"""Scores against cases worked out by hand, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from selfsup.evaluation.linear import Standardised, accuracy, fit
from selfsup.evaluation.neighbours import (
    grid_accuracy,
    leave_one_out,
    most_similar,
    principal_components,
    projected,
    votes,
)
from selfsup.evaluation.scores import ami, ari, cluster_scores, contingency, nmi
from selfsup.evaluation.splits import stratified, validation_split

# clusters against classes


def test_cluster_scores_by_hand():
    classes = np.array([0, 0, 0, 1, 1, 1])
    labels = np.array([5, 5, 2, 2, 2, 2])
    scores = cluster_scores(classes, labels, 6, 2)
    # Cluster 2 holds one image of class 0 and three of class 1, cluster 5 two of class 0.
    assert scores["many_to_one"] == pytest.approx(5 / 6)
    assert scores["purity"] == pytest.approx((1 + 3 / 4) / 2)
    assert scores["entropy"] == pytest.approx((np.log(4) - 3 / 4 * np.log(3)) / 2)
    assert scores["hungarian"] is None  # six clusters cannot be matched to two classes
    assert (scores["size_min"], scores["size_max"]) == (0, 4)


def test_hungarian_and_many_to_one_accuracy_differ_by_hand():
    classes = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    labels = np.array([0, 0, 1, 0, 0, 0, 2, 2, 1])
    scores = cluster_scores(classes, labels, 3, 3)
    # Cluster 0 has two of class 0 and three of class 1: matched, it can be only one of them. Best:
    # 0 -> 1 (three), 1 -> 0 (one), 2 -> 2 (two). Many to one: 0 -> 1, 1 -> either, 2 -> 2.
    assert scores["hungarian"] == pytest.approx(6 / 9)
    assert scores["many_to_one"] == pytest.approx(6 / 9)
    swapped = cluster_scores(classes, np.array([0, 0, 0, 0, 0, 0, 1, 1, 2]), 3, 3)
    # Cluster 0 has three of class 0 and three of 1; 1 and 2 have class 2 alone, of which one can be
    # matched to it. Many to one counts both.
    assert swapped["hungarian"] == pytest.approx(5 / 9)
    assert swapped["many_to_one"] == pytest.approx(6 / 9)


def test_permuted_labels_are_perfect_and_independent_ones_worthless():
    classes = np.random.default_rng(0).integers(0, 10, 500)
    labels = np.random.default_rng(1).permutation(10)[classes]
    scores = cluster_scores(classes, labels, 10, 10)
    for name in ("nmi", "ami", "ari", "purity", "many_to_one", "hungarian"):
        assert scores[name] == pytest.approx(1), name
    assert scores["entropy"] == pytest.approx(0, abs=1e-12)
    assert nmi(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("n", "k", "classes"), [(500, 10, 10), (2000, 128, 10), (50, 30, 5),
                                                 (40, 1, 3), (30, 3, 1), (9, 1, 1)])  # fmt: skip
def test_information_and_pairs_are_those_of_scikit_learn(n, k, classes):
    rng = np.random.default_rng(n)
    truth = rng.integers(0, classes, n)
    labels = np.where(rng.random(n) < 0.5, rng.integers(0, k, n), truth * k // classes)
    table = contingency(truth, labels)
    assert nmi(truth, labels) == pytest.approx(
        metrics.normalized_mutual_info_score(truth, labels), abs=1e-10
    )
    assert ami(table) == pytest.approx(metrics.adjusted_mutual_info_score(truth, labels), abs=1e-10)
    assert ari(table) == pytest.approx(metrics.adjusted_rand_score(truth, labels), abs=1e-12)


def test_pairs_of_a_million_images_do_not_overflow():
    truth = np.arange(3_000_000) % 2  # the squares of sums of squares are beyond 64 bits
    assert ari(contingency(truth, 1 - truth)) == 1


# nearest neighbours


def test_knn_by_hand():
    bank = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])
    targets = torch.tensor([0, 1, 1])
    similarity, index = most_similar(torch.tensor([[3.0, 0.0]]), bank, 3)
    torch.testing.assert_close(similarity, torch.tensor([[1.0, 0.8, 0.8]]))

    # At sigma .1 class 0 has weight 1 against 2 exp(-2) = .27; at sigma 1 it is 1 against
    # 2 exp(-.2) = 1.64; with one neighbour only class 0 votes.
    def winner(k, sigma):
        return votes(similarity, targets[index], 2, k, sigma).item()

    assert (winner(3, 0.1), winner(3, 1.0), winner(1, 1.0)) == (0, 1, 0)
    scores = grid_accuracy(similarity, targets[index], torch.tensor([0]), 2, [(3, 0.1), (3, 1.0)])
    assert scores == {(3, 0.1): 1.0, (3, 1.0): 0.0}


def test_neighbours_in_blocks_are_those_of_scikit_learn(monkeypatch):
    monkeypatch.setattr("selfsup.evaluation.neighbours.BANK", 64)
    monkeypatch.setattr("selfsup.evaluation.neighbours.QUERIES", 50)
    random = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(500, 12, generator=random), torch.randn(130, 12, generator=random)
    rows = torch.arange(0, 500, 2)  # the last block has fewer rows than are asked for
    similarity, index = most_similar(queries, bank, 70, rows=rows)
    known = NearestNeighbors(n_neighbors=70, metric="cosine").fit(bank[rows].numpy())
    distance, found = known.kneighbors(queries.numpy())
    np.testing.assert_allclose(similarity.numpy(), 1 - distance, atol=1e-5)
    assert (index.numpy() == rows.numpy()[found]).mean() > 0.999
    _, index = most_similar(bank, bank, 5, own=torch.arange(500))
    assert not (index == torch.arange(500)[:, None]).any()


def test_leave_one_out_by_hand():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [1.0, 0.05]])
    targets = torch.tensor([0, 0, 1, 1, 1])  # the last one lies among the zeros
    # The last one is also nearest to both zeros.
    assert leave_one_out(features, targets, 2, 1, 0.1) == pytest.approx(2 / 5)
    assert leave_one_out(features, targets, 2, 2, 10.0) == pytest.approx(2 / 5)


@pytest.mark.parametrize(("n", "width", "exact"), [(400, 9, 4096), (30, 200, 4096), (400, 300, 8)])
def test_principal_components_are_those_of_scikit_learn(n, width, exact, monkeypatch):
    """Of rows of length 1: by products of columns, by products of rows, and by iteration."""
    monkeypatch.setattr("selfsup.evaluation.neighbours.EXACT", exact)
    monkeypatch.setattr("selfsup.evaluation.neighbours.NUMBERS", 64 * width)
    scales = torch.logspace(1, -3, width)
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(0)) * scales + 1
    ours = projected(x, principal_components(x, 4, "cpu")).numpy()
    theirs = PCA(4, svd_solver="full").fit_transform(torch.nn.functional.normalize(x).numpy())
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-3)


# linear classifiers


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_the_quick_probe_is_scikit_learns(c, monkeypatch):
    monkeypatch.setattr("selfsup.evaluation.linear.BLOCK", 300)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 2000)
    x = (rng.normal(size=(5, 20))[truth] + 1.5 * rng.normal(size=(2000, 20))).astype(np.float32)
    x = x * np.linspace(0.1, 30, 20, dtype=np.float32) + 100  # standardised, it makes no difference
    features, targets = torch.from_numpy(x), torch.from_numpy(truth)
    rows = torch.arange(1500)
    data = Standardised(features, rows, torch.device("cpu"))
    ours = fit(data, targets, 5, c, 1000)
    scaler = StandardScaler().fit(x[:1500])
    theirs = LogisticRegression(C=c, max_iter=2000, tol=1e-6).fit(
        scaler.transform(x[:1500]), truth[:1500]
    )
    expected = theirs.score(scaler.transform(x[1500:]), truth[1500:])
    assert 0.5 < expected < 0.95
    assert abs(accuracy(ours.predict(features[1500:]), targets[1500:]) - expected) <= 0.005
    centred = (ours.weight - ours.weight.mean(1, keepdim=True)).numpy().T
    np.testing.assert_allclose(centred, theirs.coef_, atol=0.02)
    monkeypatch.setattr("selfsup.evaluation.linear.HELD", 0)  # read again in each iteration
    again = fit(Standardised(features, rows, torch.device("cpu")), targets, 5, c, 1000)
    torch.testing.assert_close(again.weight, ours.weight)


def test_a_constant_feature_does_no_harm():
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 7.0
    y = (x[:, 0] > 0).long()
    data = Standardised(x, torch.arange(200), torch.device("cpu"))
    assert accuracy(fit(data, y, 2, 1.0, 200).predict(x[200:]), y[200:]) > 0.95


# parts


def test_a_tenth_of_each_class_is_for_choosing():
    targets = torch.arange(5).repeat_interleave(40)
    fit_rows, held = validation_split(targets, seed=0)
    assert torch.bincount(targets[held]).tolist() == [4] * 5
    assert sorted(torch.cat([fit_rows, held]).tolist()) == list(range(200))
    assert not torch.equal(held, validation_split(targets, seed=1)[1])
    _, held = validation_split(torch.tensor([0, 0, 1, 1, 2]), seed=0)  # a tenth would be none
    assert len(held) == 2


def test_few_labels_are_stratified():
    targets = torch.cat([torch.zeros(1000), torch.ones(300), torch.full((20,), 2)]).long()
    chosen, rest = stratified(targets, 0.01, seed=3, least=1)
    assert torch.bincount(targets[chosen]).tolist() == [10, 3, 1]
    assert len(chosen) + len(rest) == 1320
    assert torch.equal(chosen, stratified(targets, 0.01, seed=3, least=1)[0])
    everything, nothing = stratified(targets, 1.0, seed=3)
    assert (len(everything), len(nothing)) == (1320, 0)
