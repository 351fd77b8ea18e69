"""Evaluation of a finished run, beside three baselines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor
from tqdm import tqdm

from selfsup.config import Config
from selfsup.data import ImageSet, Splits, load_data
from selfsup.metrics import knn_accuracy, label_scores, linear_accuracy
from selfsup.models import Network
from selfsup.sela import assign_labels, extract_features
from selfsup.train import (
    build_network,
    build_optimiser,
    cosine_lr,
    load_checkpoint,
    load_config,
    train_step,
)

Row = dict[str, Any]
COLUMNS = ("method", "K", "heads", "nmi", "ari", "accuracy", "size_min", "size_max", "knn", "probe")
FORMATS = {"nmi": ".3f", "ari": ".3f", "accuracy": ".3f", "knn": ".4f", "probe": ".4f"}


@dataclass(frozen=True)
class Representation:
    """Features of both splits."""

    train: Tensor
    test: Tensor


def represent(network: Network, data: Splits) -> Representation:
    """Return what the trunk gives for the images as they are."""
    return Representation(
        extract_features(network, data.train.images).cpu(),
        extract_features(network, data.test.images).cpu(),
    )


def load_network(config: Config, run: Path, train: ImageSet) -> tuple[Network, NDArray[np.int64]]:
    """Return the network of a run's checkpoint, and its labels."""
    network = build_network(config, train, config.clusters)
    state = load_checkpoint(run, config.device)
    network.load_state_dict(state["network"])
    labels: NDArray[np.int64] = state["labels"].cpu().numpy()
    return network, labels


def train_supervised(config: Config, train: ImageSet, epochs: int) -> Network:
    """Train the same network on the true labels, with the same augmentation."""
    network = build_network(config, train, (len(train.classes),))
    optimiser = build_optimiser(config, network)
    generator = torch.Generator().manual_seed(config.seed)
    batch = min(config.batch_size, len(train))
    steps = len(train) // batch
    for epoch in tqdm(range(epochs), desc="supervised baseline", leave=False, disable=None):
        order = torch.randperm(len(train), generator=generator)[: steps * batch].view(-1, batch)
        for i, index in enumerate(order):
            for group in optimiser.param_groups:
                group["lr"] = cosine_lr(config.lr, epoch * steps + i, epochs * steps)
            targets = train.targets[index][None]
            train_step(network, optimiser, train.images[index], targets, config, generator)
    return network


def label_rows(
    method: str, truth: NDArray[np.int64], labels: NDArray[np.int64], clusters: Sequence[int]
) -> list[Row]:
    """Return one row for every distinct K, each a mean over all heads with that K."""
    rows = []
    for k in sorted(set(clusters)):
        heads = labels[[i for i, c in enumerate(clusters) if c == k]]
        rows.append(
            {"method": method, "K": k, "heads": len(heads), **label_scores(truth, heads, k)}
        )
    return rows


def feature_scores(features: Representation, data: Splits) -> Row:
    """Return kNN and linear-probe accuracy on the test images."""
    arguments = (features.train, data.train.targets, features.test, data.test.targets)
    return {"knn": knn_accuracy(*arguments), "probe": linear_accuracy(*arguments)}


def kmeans_rows(
    method: str, values: Tensor, truth: NDArray[np.int64], clusters: Sequence[int], seed: int
) -> list[Row]:
    """Return k-means at every distinct K, the best of ten starts by inertia."""
    rows = []
    x = values.flatten(1).float().numpy()
    for k in tqdm(sorted(set(clusters)), desc=f"{method} K", leave=False, disable=None):
        labels = KMeans(k, n_init=10, random_state=seed).fit_predict(x).astype(np.int64)
        rows.append({"method": method, "K": k, "heads": 1, **label_scores(truth, labels[None], k)})
    return rows


def evaluate_run(run: Path, data_dir: str | None = None) -> list[Row]:
    """Compare a run with its baselines and save the rows as evaluation.json.

    Every row of labels is a mean over heads. As clusterings at different K cannot be compared,
    k-means has a row at each K in use, and at K = number of classes in any case.
    """
    config = load_config(run)
    if data_dir is not None:
        config = replace(config, data=data_dir)
    data = load_data(config)
    truth = data.train.targets.numpy()
    classes = len(data.train.classes)
    every_k = sorted({*config.clusters, classes})

    network, labels = load_network(config, run, data.train)
    features = represent(network, data)
    rows = label_rows("SeLa", truth, labels, config.clusters)
    rows[0].update(feature_scores(features, data))
    rows += kmeans_rows("k-means on SeLa features", features.train, truth, [classes], config.seed)

    untrained = build_network(config, data.train, config.clusters)
    features = represent(untrained, data)
    assignment = assign_labels(untrained, features.train, config)
    baseline = label_rows("untrained network", truth, assignment.labels.numpy(), config.clusters)
    baseline[0].update(feature_scores(features, data))
    rows += baseline

    pixels = data.train.images.float() / 255
    rows += kmeans_rows("k-means on pixels", pixels, truth, every_k, config.seed)
    pixel_features = Representation(pixels.flatten(1), data.test.images.float().flatten(1) / 255)
    rows.append({"method": "pixels", "knn": _knn(pixel_features, data)})

    epochs = config.supervised_epochs
    supervised = train_supervised(config, data.train, epochs)
    scores = feature_scores(represent(supervised, data), data)
    rows.append({"method": f"trained with labels, {epochs} epochs", **scores})

    (run / "evaluation.json").write_text(json.dumps(rows, indent=2) + "\n")
    return rows


def _knn(features: Representation, data: Splits) -> float:
    return knn_accuracy(features.train, data.train.targets, features.test, data.test.targets)


def format_rows(rows: Sequence[Row]) -> str:
    """Return the rows as an aligned text table."""
    cells = [COLUMNS] + [
        tuple(format(row[c], FORMATS.get(c, "")) if c in row else "" for c in COLUMNS)
        for row in rows
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    text = []
    for line in cells:
        first = line[0].ljust(widths[0])
        rest = [c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)]
        text.append("  ".join([first, *rest]))
    return "\n".join(line.rstrip() for line in text)
