"""What a run is compared with, where that is asked for; it is kept in the run's directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from tqdm import tqdm

from selfsup.errors import RunError
from selfsup.evaluation.features import View, digest, images_digest
from selfsup.evaluation.frame import Evaluation, Part, classes
from selfsup.evaluation.training import ClassLabels
from selfsup.labellers import equipartition, nearest
from selfsup.models import Network
from selfsup.seeds import Stream, seed_of
from selfsup.sela import SelfLabels
from selfsup.training.checkpoints import checkpoints, create_run, fingerprint
from selfsup.training.fit import Trainer, new_network
from selfsup.training.label_pass import in_blocks
from selfsup.training.trained import Trained

#: Images on whose features k-means is fitted at most, and starts of which the best is taken.
FITTED, STARTS = 50_000, 3
#: Side at which pixels are compared.
PIXELS = 32


@dataclass(frozen=True)
class Baseline:
    """Something to compare with."""

    make: Callable[[Evaluation], Iterator[Evaluation]]
    """Gives one method or more, from the run's evaluation; a SelfsupError says why it cannot."""
    only: tuple[str, ...] = ()
    """Protocols that say something of it; all that are run, without."""


def untrained(run: Evaluation) -> Iterator[Evaluation]:
    """The run's network before training, and the labels that it begins with."""
    _buildable(run)
    network = new_network(run.config.but(init=None), run.train, run.device).eval()
    evaluation = run.but(method="untrained network", network=network, find_labels=None)
    labels = run.config.labels

    @cache
    def learned() -> Trained:
        first = SelfLabels(
            len(run.train), run.clusters, seed=seed_of(run.seed, Stream.LABELS),
            labeller=partial(
                equipartition, epsilon=labels.epsilon, tol=labels.tol, max_iter=labels.max_iter
            ),
        )  # fmt: skip
        heads = [partial(in_blocks, network, head) for head in range(len(run.clusters))]
        first.update(features=evaluation.features("train"), heads=heads)
        return Trained(run.config, network, first, fingerprint(run.train.paths))

    def find(part: Part) -> Tensor:
        if part == "train":
            return learned().labels.labels
        return learned().label(evaluation.features(part))

    yield evaluation.but(find_labels=find) if run.clusters else evaluation


def pixels(run: Evaluation) -> Iterator[Evaluation]:
    """The pixels themselves, of images made small."""
    yield _pixels(run)


def _pixels(run: Evaluation) -> Evaluation:
    channels, view = run.train.channels, View(min(PIXELS, run.view.size), run.view.centre)
    network = Network(
        nn.Flatten(), channels * view.size**2, (), torch.zeros(channels), torch.ones(channels),
    ).to(run.device)  # fmt: skip
    return run.but(method="pixels", network=network, view=view, find_labels=None, clusters=())


def kmeans(run: Evaluation) -> Iterator[Evaluation]:
    """K-means on the run's features and on pixels: each K of the run, and the number of classes."""
    clusters = sorted({*run.clusters, *([run.classes] if run.train.labelled else [])})
    if max(clusters, default=0) > (n := min(len(run.train), FITTED)):
        raise RunError(f"k-means finds at most {n} clusters in {n} images, and a head has "
                       f"{max(clusters)}")  # fmt: skip
    for name, space in (("features", run), ("pixels", _pixels(run))):
        if clusters:
            find = _kmeans_labels(space, tuple(clusters))
            yield run.but(method=f"k-means on {name}", find_labels=find, clusters=tuple(clusters))


def _kmeans_labels(space: Evaluation, clusters: tuple[int, ...]) -> Callable[[Part], Tensor]:
    def find(part: Part) -> Tensor:
        features = space.features(part)
        labels = []
        for k in tqdm(clusters, f"k-means on {space.method}", leave=False, disable=None):
            centroids = _centroids(space, k)
            labels.append(nearest(features, centroids.to(space.device)))
        return torch.stack(labels)

    return find


def _centroids(space: Evaluation, k: int) -> Tensor:
    """Return (K, D) centroids, from their file if there is one."""
    file = space.scratch("kmeans", (k, space.view)) / "centroids.npy"
    if not file.exists():
        features = space.features("train")
        some = torch.linspace(0, len(features) - 1, min(len(features), FITTED)).long()
        solver = KMeans(k, n_init=STARTS, random_state=space.seed)
        with threadpool_limits(1):  # sums of several threads come in any order
            solver.fit(features[some].numpy())
        np.save(file, solver.cluster_centers_.astype(np.float32))
    return torch.from_numpy(np.load(file))


def supervised(run: Evaluation) -> Iterator[Evaluation]:
    """The run's network trained on the true classes, by the same loop with the same views."""
    if (reason := classes(run)) is not None:
        raise RunError(reason)
    _buildable(run)
    config = run.config.but(
        clusters=(run.classes,), labelling="fixed", labels_file="classes", head_groups=1,
        heads_per_update="all", accumulate=1, rotation=False, lr_schedule="cosine", init=None,
        epochs=run.config.run.supervised_epochs, device=str(run.device), knn_every=0,
    )  # fmt: skip
    key = digest(config.to_json(), images_digest(run.train, run.place))
    folder = run.run / "baselines" / f"supervised-{key}"
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        create_run(config, folder)
    trainer = Trainer(
        config, run.train, folder, device=str(run.device), labels=ClassLabels(run.train)
    )
    if checkpoints(folder):
        trainer.load()
    trainer.fit()
    trainer.network.eval()
    epochs = config.optimiser.epochs
    yield run.but(
        method=f"trained with classes, {epochs} epochs", network=trainer.network,
        find_labels=None, clusters=(), taught=True,
    )  # fmt: skip


def _buildable(run: Evaluation) -> None:
    """Refuse a network that was passed from Python: only its trained weights are known."""
    if run.config.model.arch == "own":
        raise RunError("the network was passed from Python: it cannot be built anew, untrained")


BASELINES: dict[str, Baseline] = {
    "untrained": Baseline(untrained),
    "pixels": Baseline(pixels, ("knn",)),
    "kmeans": Baseline(kmeans, ("clusters", "unlabelled")),
    "supervised": Baseline(supervised),
}
