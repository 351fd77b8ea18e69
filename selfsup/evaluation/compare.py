"""Evaluation of a finished run, beside three baselines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor
from tqdm import tqdm

from selfsup.config import Config
from selfsup.data import ImageSet, TensorImages, load_data
from selfsup.errors import RunError
from selfsup.evaluation.metrics import knn_accuracy, label_scores, linear_accuracy
from selfsup.models import Network
from selfsup.training.checkpoints import write_whole
from selfsup.training.fit import Trainer, new_network
from selfsup.training.label_pass import FeaturePass, label_step, new_labels
from selfsup.training.processes import World
from selfsup.training.trained import Trained

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
    data = load_data(config.data)
    place = config.data.data or config.data.dataset
    if not data.train.labelled:
        raise RunError(f"an evaluation needs true classes, and {place} has none: --classes folders "
                       "takes two or more folders as classes when a run is started")  # fmt: skip
    if not (isinstance(data.train, TensorImages) and isinstance(data.test, TensorImages)):
        raise RunError(
            f"an evaluation needs test images, and all images in memory (--in-memory); {place} has "
            "no test part (--hold-out 0.2 makes one when a run is started), or is read from disk"
        )
    return Data(data.train, data.test)


def represent(network: Network, data: Data, config: Config) -> Representation:
    """Return what the trunk gives for the images as they are."""
    show = FeaturePass.of(config)
    return Representation(show(network, data.train).cpu(), show(network, data.test).cpu())


def train_supervised(config: Config, images: ImageSet) -> Network:
    """Train the same network on the true labels, with the same augmentation, by the same loop."""
    config = config.but(
        clusters=(len(images.classes),),
        labelling="fixed",
        labels_file="classes",
        head_groups=1,
        heads_per_update="all",
        accumulate=1,
        rotation=False,
        lr_schedule="cosine",
        epochs=config.run.supervised_epochs,
    )
    trainer = Trainer(config, images, None, labels=images.targets[None])
    trainer.fit()
    return trainer.network


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
    every_k = sorted({*config.labels.clusters, classes})

    features = represent(trained.network, data, config)
    labels, clusters = trained.labels.labels.numpy(), config.labels.clusters
    rows = label_rows(METHODS[config.labels.labelling], truth, labels, clusters)
    rows = rows or [{"method": METHODS[config.labels.labelling]}]  # rotation alone has no labels
    rows[0].update(feature_scores(features, data))
    seed = config.run.seed
    rows += kmeans_rows("k-means on the features", features.train, truth, [classes], seed)

    untrained = new_network(config, data.train)
    features = represent(untrained, data, config)
    baseline: list[Row] = []
    if clusters:
        equal = config.but(labelling="equipartition", labels_file=None, heads_per_update="all")
        first = new_labels(equal.labels, len(data.train), seed, 1, World())
        label_step(untrained, data.train, first, FeaturePass.of(equal), World())
        baseline = label_rows("untrained network", truth, first.labels.numpy(), clusters)
    baseline = baseline or [{"method": "untrained network"}]
    baseline[0].update(feature_scores(features, data))
    rows += baseline

    pixels = data.train.images.float() / 255
    rows += kmeans_rows("k-means on pixels", pixels, truth, every_k, seed)
    pixel_features = Representation(pixels.flatten(1), data.test.images.float().flatten(1) / 255)
    rows.append({"method": "pixels", "knn": _knn(pixel_features, data)})

    supervised = train_supervised(config, data.train)
    scores = feature_scores(represent(supervised, data, config), data)
    rows.append({"method": f"trained with labels, {config.run.supervised_epochs} epochs", **scores})

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
