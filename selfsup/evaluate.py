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
from selfsup.data import ImageSet, TensorImages, load_data
from selfsup.metrics import knn_accuracy, label_scores, linear_accuracy
from selfsup.models import Network
from selfsup.runs import RunError, write_whole
from selfsup.seeds import Stream, generator_of, seed_of
from selfsup.sela import Labels, extract_features, label_step
from selfsup.train import build_optimiser, gradient_step, learning_rate, new_network, new_scaler
from selfsup.trained import Trained
from selfsup.world import World

Row = dict[str, Any]
#: What the rows of a run's own labels are called.
METHODS = {
    "equipartition": "SeLa",
    "k-means": "k-means labels",
    "argmax": "argmax labels",
    "fixed": "fixed labels",
    "none": "rotation",
}
COLUMNS = ("method", "K", "heads", "nmi", "ari", "accuracy", "size_min", "size_max", "knn", "probe")
FORMATS = {"nmi": ".3f", "ari": ".3f", "accuracy": ".3f", "knn": ".4f", "probe": ".4f"}


@dataclass(frozen=True)
class Representation:
    """Features of both splits."""

    train: Tensor
    test: Tensor


@dataclass(frozen=True)
class Data:
    """Training and test images in memory, which the baselines need."""

    train: TensorImages
    test: TensorImages


def evaluation_data(config: Config) -> Data:
    """Load the images of a run; say why when they do not allow an evaluation."""
    data = load_data(config)
    if not (isinstance(data.train, TensorImages) and isinstance(data.test, TensorImages)):
        raise RunError(
            f"an evaluation needs test images, and all images in memory (--in-memory); "
            f"{config.data} has no test part, or this run reads from disk"
        )
    if not data.train.labelled:
        raise RunError(f"an evaluation needs the true classes; {config.data} has none")
    return Data(data.train, data.test)


def represent(network: Network, data: Data, config: Config) -> Representation:
    """Return what the trunk gives for the images as they are."""
    return Representation(
        extract_features(network, data.train, config).cpu(),
        extract_features(network, data.test, config).cpu(),
    )


def train_supervised(config: Config, images: ImageSet) -> Network:
    """Train the same network on the true labels, with the same augmentation."""
    config = replace(
        config,
        clusters=(len(images.classes),),
        labelling="equipartition",
        labels_file=None,
        head_groups=1,
        accumulate=1,
        rotation=False,
        lr_schedule="cosine",
        epochs=config.supervised_epochs,
    )
    network = new_network(config, images)
    optimiser = build_optimiser(config, network)
    scaler = new_scaler(config, torch.device("cpu"))
    batch = min(config.batch_size, len(images))
    steps = len(images) // batch
    network.train()
    for epoch in tqdm(range(config.epochs), "supervised baseline", leave=False, disable=None):
        order = torch.randperm(
            len(images), generator=generator_of(config.seed, Stream.ORDER, epoch)
        )
        batches = list(order[: steps * batch].view(-1, batch))
        seeds = [seed_of(config.seed, Stream.VIEWS, epoch * steps + i, 0) for i in range(steps)]
        views = images.views(batches, config.augment, config.image_size, seeds=seeds)
        for i, (index, x) in enumerate(zip(batches, views, strict=True)):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, epoch * steps + i, steps)
            torch.manual_seed(seed_of(config.seed, Stream.DROPOUT, epoch * steps + i, 0))
            gradient_step(network, optimiser, scaler, x, images.targets[index][None], config)
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


def feature_scores(features: Representation, data: Data) -> Row:
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
    trained = Trained.load(run, data_dir)
    config = trained.config
    data = evaluation_data(config)
    truth = data.train.targets.numpy()
    classes = len(data.train.classes)
    every_k = sorted({*config.clusters, classes})

    features = represent(trained.network, data, config)
    labels = trained.labels.labels.numpy()
    rows = label_rows(METHODS[config.labelling], truth, labels, config.clusters)
    rows = rows or [{"method": METHODS[config.labelling]}]  # rotation alone has no labels
    rows[0].update(feature_scores(features, data))
    rows += kmeans_rows("k-means on the features", features.train, truth, [classes], config.seed)

    untrained = new_network(config, data.train)
    features = represent(untrained, data, config)
    baseline: list[Row] = []
    if config.clusters:
        equal = replace(config, labelling="equipartition", labels_file=None, heads_per_update="all")
        start = Labels.at_random(len(data.train), config)
        first, _ = label_step(untrained, data.train, equal, start, 0, World())
        baseline = label_rows("untrained network", truth, first.labels.numpy(), config.clusters)
    baseline = baseline or [{"method": "untrained network"}]
    baseline[0].update(feature_scores(features, data))
    rows += baseline

    pixels = data.train.images.float() / 255
    rows += kmeans_rows("k-means on pixels", pixels, truth, every_k, config.seed)
    pixel_features = Representation(pixels.flatten(1), data.test.images.float().flatten(1) / 255)
    rows.append({"method": "pixels", "knn": _knn(pixel_features, data)})

    supervised = train_supervised(config, data.train)
    scores = feature_scores(represent(supervised, data, config), data)
    rows.append({"method": f"trained with labels, {config.supervised_epochs} epochs", **scores})

    write_whole(run / "evaluation.json", (json.dumps(rows, indent=2) + "\n").encode())
    return rows


def _knn(features: Representation, data: Data) -> float:
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
