"""Metrics against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from selfsup.evaluation.metrics import (
    hungarian_accuracy,
    knn_accuracy,
    label_scores,
    linear_accuracy,
    nmi,
)


def test_permuted_labels_are_perfect():
    truth = np.random.default_rng(0).integers(0, 10, 500)
    labels = np.random.default_rng(1).permutation(10)[truth]
    assert hungarian_accuracy(truth, labels) == 1
    assert nmi(truth, labels) == pytest.approx(1)


def test_hungarian_accuracy_by_hand():
    truth = np.array([0, 0, 0, 1, 1, 1])
    # The best matching is 5 -> class 0 (two images) and 2 -> class 1 (three images).
    assert hungarian_accuracy(truth, np.array([5, 5, 2, 2, 2, 2])) == pytest.approx(5 / 6)
    # A third cluster stays unmatched, and its images count as wrong.
    assert hungarian_accuracy(truth, np.array([0, 0, 2, 1, 1, 2])) == pytest.approx(4 / 6)


def test_nmi_of_independent_labels_is_zero():
    assert nmi(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(0, abs=1e-12)


def test_scores_are_means_over_heads():
    truth = np.array([0, 0, 1, 1])
    scores = label_scores(truth, np.array([[1, 1, 0, 0], [0, 1, 0, 1]]), 3)
    assert scores["nmi"] == pytest.approx(0.5)
    assert scores["accuracy"] == pytest.approx(0.75)
    assert (scores["size_min"], scores["size_max"]) == (0, 2)


def test_knn_by_hand():
    train = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])
    targets = torch.tensor([0, 1, 1])
    query = torch.tensor([[3.0, 0.0]])

    # Similarities 1, .8, .8. At sigma .1 class 0 has weight 1 against 2 exp(-2) = .27; at
    # sigma 1 it is 1 against 2 exp(-.2) = 1.64; with one neighbour only class 0 votes.
    def accuracy(**settings):
        return knn_accuracy(train, targets, query, torch.tensor([0]), **settings)

    assert accuracy(k=3, sigma=0.1) == 1
    assert accuracy(k=3, sigma=1.0) == 0
    assert accuracy(k=1, sigma=1.0) == 1


def test_linear_probe_separates_what_is_separable():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    assert linear_accuracy(x[:150], y[:150], x[150:], y[150:]) > 0.9
