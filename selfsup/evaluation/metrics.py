"""How well labels and features agree with the true classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

Labels = NDArray[np.int64]


def nmi(truth: Labels, labels: Labels) -> float:
    """Return the normalised mutual information (arithmetic mean)."""
    return float(normalized_mutual_info_score(truth, labels))


def entropy(sizes: Labels) -> float:
    """Return the entropy of classes of these sizes, in nats."""
    shares = sizes[sizes > 0] / sizes.sum()
    return float(-(shares * np.log(shares)).sum())


def hungarian_accuracy(truth: Labels, labels: Labels) -> float:
    """Return the accuracy under the best one-to-one matching of clusters and classes.

    With more clusters than classes, the images of unmatched clusters count as wrong.
    """
    table: Any = contingency_matrix(truth, labels)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / len(truth))


def label_scores(truth: Labels, heads: NDArray[np.int64], clusters: int) -> dict[str, float]:
    """Return NMI, ARI and accuracy as means over heads, and the extreme class sizes.

    No head is preferred: the truth must not choose among them.
    """
    sizes = np.stack([np.bincount(labels, minlength=clusters) for labels in heads])
    return {
        "nmi": float(np.mean([nmi(truth, labels) for labels in heads])),
        "ari": float(np.mean([adjusted_rand_score(truth, labels) for labels in heads])),
        "accuracy": float(np.mean([hungarian_accuracy(truth, labels) for labels in heads])),
        "size_min": int(sizes.min()),
        "size_max": int(sizes.max()),
    }


def knn_accuracy(
    train: Tensor,
    train_targets: Tensor,
    test: Tensor,
    test_targets: Tensor,
    k: int = 50,
    sigma: float = 0.1,
) -> float:
    """Return the accuracy of the weighted nearest-neighbour vote of Wu et al. (2018).

    The k most similar training images (cosine) vote with weight exp(similarity / sigma).
    """
    train = torch.nn.functional.normalize(train)
    test = torch.nn.functional.normalize(test)
    classes = int(train_targets.max()) + 1
    correct = 0
    for features, targets in zip(
        torch.split(test, 500), torch.split(test_targets, 500), strict=True
    ):
        similarity, index = (features @ train.T).topk(min(k, len(train)), dim=1)
        votes = torch.zeros(len(features), classes)
        votes.scatter_add_(1, train_targets[index], torch.exp((similarity - 1) / sigma))
        correct += int((votes.argmax(1) == targets).sum())
    return correct / len(test)


def linear_accuracy(
    train: Tensor, train_targets: Tensor, test: Tensor, test_targets: Tensor
) -> float:
    """Return the test accuracy of logistic regression on standardised features."""
    probe: Any = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000))
    probe.fit(train.numpy(), train_targets.numpy())
    return float(probe.score(test.numpy(), test_targets.numpy()))
