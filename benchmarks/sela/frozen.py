"""Clusters of frozen features: SeLa's objective beside k-means and balanced k-means.

The features are those of a network that was trained here without classes. SeLa's heads are linear,
and are the only thing that learns.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from sela.experiments import TEN
from sela.runs import RESULTS, Work, keep, train
from sklearn.cluster import KMeans
from torch import Tensor, nn

from selfsup import SelfLabels, update_times
from selfsup.evaluation.scores import cluster_scores
from selfsup.evaluation.subject import load_subject
from sinkhorn_ot import BalancedKMeans

#: Numbers of clusters: the classes, and the paper's for CIFAR-10.
CLUSTERS = (10, 128)
#: Of SeLa's heads: how many, epochs, and the share of a feature's numbers that a view hides.
HEADS, EPOCHS, HIDDEN, EPSILON = 5, 20, 0.5, 0.05


def sela(features: Tensor, k: int, seed: int) -> Tensor:
    """Return (heads, N) labels of linear heads on (N, D) features, by SeLa's two steps."""
    torch.manual_seed(seed)
    n, dim = features.shape
    heads = nn.ModuleList(nn.Linear(dim, k) for _ in range(HEADS))
    optimiser = torch.optim.SGD(heads.parameters(), lr=0.1, momentum=0.9)
    times = update_times(EPOCHS * n, 2 * EPOCHS, power=1)
    labels, seen = SelfLabels(n, (k,) * HEADS, EPSILON, times=times, seed=seed), 0
    update = partial(labels.update, features=features, heads=list(heads))
    for _ in range(EPOCHS):
        for index in torch.randperm(n).split(256):
            if labels.due(seen):
                update()
            views = nn.functional.dropout(features[index], HIDDEN)
            loss = labels.loss([head(views) for head in heads], index)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seen += len(index)
    update()
    return labels.labels


def kmeans(features: Tensor, k: int, seed: int) -> Tensor:
    """Return (1, N) labels of k-means, the best of three starts."""
    solver = KMeans(k, n_init=3, random_state=seed)
    return torch.from_numpy(solver.fit_predict(features.numpy())).long()[None]


def balanced_kmeans(features: Tensor, k: int, seed: int) -> Tensor:
    """Return (1, N) labels of balanced k-means, whose clusters are equally large."""
    solver = BalancedKMeans(k, random_state=seed)
    return torch.as_tensor(solver.fit_predict(features.numpy())).long()[None]


METHODS = {"SeLa, linear heads": sela, "k-means": kmeans, "balanced k-means": balanced_kmeans}


def record(seed: int, work: Work) -> list[dict[str, Any]]:
    """Return a line for each method and number of clusters: means of the scores over heads."""
    evaluation = load_subject(train(TEN, seed, work)).evaluation
    features = evaluation.features("train")
    features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    truth = evaluation.train.targets.numpy()
    lines = []
    for k in CLUSTERS:
        for name, method in METHODS.items():
            heads = method(features, k, seed).numpy()
            scores = [cluster_scores(truth, labels, k, evaluation.classes) for labels in heads]
            told = {
                key: round(float(sum(one[key] for one in scores)) / len(scores), 4)
                for key, value in scores[0].items()
                if value is not None
            }
            lines.append({"method": name, "K": k, **told})
    return lines


def record_of(seed: int) -> Path:
    """Return where the outcome is kept."""
    return RESULTS / f"frozen-{seed}.json"


def work_on(seed: int, work: Work) -> None:
    """Cluster the features of a seed's network, unless there is a record of it."""
    keep(record_of(seed), work, partial(record, seed, work))
