"""What an evaluation is made of: a method on some images, and protocols that say how good it is.

A protocol is a record of :class:`Protocol`: a function that gets an :class:`Evaluation` and returns
rows of a table. What it needs are functions, each of which returns None or the reason why the
protocol cannot be run; that reason is told, and the next protocol has its turn.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from selfsup.config import Config
from selfsup.data import ImageSet
from selfsup.evaluation.features import (
    TRUNK,
    FeatureStore,
    View,
    digest,
    images_digest,
    weights_digest,
)
from selfsup.models import Network

Part = Literal["train", "test"]
#: A row of a protocol's table. Numbers and words are its columns; lists and dicts are kept in
#: evaluation.json alone.
Row = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """A method, that is a network and perhaps labels, and the images it is evaluated on."""

    method: str
    """What the rows are called: "SeLa", "untrained network", ..."""
    run: Path
    config: Config
    """The run's settings; `config.data` is where the images are now."""
    network: Network
    """On the device that computes, in evaluation mode."""
    train: ImageSet
    test: ImageSet | None
    place: str
    """Which images these are, for a person; others of the same names are in another place."""
    view: View
    """How images are shown."""
    find_labels: Callable[[Part], Tensor] | None = None
    """Cluster labels, (heads, n) int64, of a part; None where there are no clusters."""
    clusters: tuple[int, ...] = ()
    """K of each head."""
    state: str = ""
    """A digest of all that the run has learned, see :func:`state_digest`."""
    taught: bool = False
    """Whether the network learned the classes of the training images: they choose no settings."""
    fresh: bool = False
    """Whether trainings begin anew instead of going on."""

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return self.network.mean.device

    @property
    def seed(self) -> int:
        """Seed of all that is random."""
        return self.config.run.seed

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.train.classes)

    def images(self, part: Part) -> ImageSet:
        """Return the images of a part.

        Raises
        ------
        LookupError
            There is no test part; a protocol that asks for one says so in what it needs.
        """
        images = self.train if part == "train" else self.test
        if images is None:
            raise LookupError("there is no test part")
        return images

    def features(self, part: Part, layer: str = TRUNK) -> Tensor:
        """Return the (n, D) float32 features of a part, on the CPU; see :class:`FeatureStore`."""
        return self.layers(part, [layer])[0]

    def layers(self, part: Part, layers: Sequence[str]) -> list[Tensor]:
        """Return the features of several layers from one pass."""
        title = f"{self.method}: features of {part} images"
        return FeatureStore(self.run / "features").features(
            self.network, self.images(part), f"{self.place}/{part}", self.view, layers, title
        )

    def labels(self, part: Part) -> Tensor:
        """Return the (heads, n) cluster labels of a part, int64."""
        if self.find_labels is None:
            raise LookupError(f"{self.method} has no clusters")
        return self.find_labels(part)

    def scratch(self, protocol: str, settings: object) -> Path:
        """Return a folder where a long protocol keeps what it needs to go on after a stop."""
        shown = images_digest(self.train, self.place)
        key = digest(weights_digest(self.network), shown, repr(settings))
        folder = self.run / "evaluation" / f"{protocol}-{key}"
        if self.fresh:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def but(self, **changes: Any) -> Evaluation:
        """Return another method on the same images."""
        return replace(self, **changes)


Need = Callable[[Evaluation], str | None]


def classes(evaluation: Evaluation) -> str | None:
    """Two classes or more are known."""
    train = evaluation.train
    if not train.labelled and evaluation.config.data.classes == "folders":
        return "no classes are known: the images are not in two or more folders"
    if not train.labelled:
        return (
            "no classes are known; --classes folders takes folders as classes, where the images "
            "are in two or more"
        )
    found = torch.bincount(train.targets).nonzero()[:, 0].tolist()
    if len(found) < 2:
        return f"all images are of one class, {train.classes[found[0]]!r}: nothing to tell apart"
    return None


def test_part(evaluation: Evaluation) -> str | None:
    """There are images for tests."""
    if evaluation.test is None:
        return "there are no test images; --hold-out 0.2 keeps a fifth of each class for tests"
    return None


def pairs(evaluation: Evaluation) -> str | None:
    """Settings can be chosen on a part of the training images."""
    if int(torch.bincount(evaluation.train.targets).max()) < 2:
        return "no class has two training images, one to learn from and one to choose settings by"
    return None


def labels(evaluation: Evaluation) -> str | None:
    """There are clusters."""
    if evaluation.find_labels is None or not evaluation.clusters:
        return "there are no clusters"
    return None


@dataclass(frozen=True)
class Protocol:
    """How to say how good a method is.

    `run` gets the evaluation and the protocol's settings, the field of
    :class:`selfsup.evaluation.protocols.Settings` that has its name.
    """

    name: str
    help: str
    run: Callable[[Evaluation, Any], list[Row]]
    needs: tuple[Need, ...] = ()
    usual: bool = False
    """Whether it is run when none is named: it is quick."""

    def why_not(self, evaluation: Evaluation) -> str | None:
        """Return why it cannot be run, or None."""
        for need in self.needs:
            if (reason := need(evaluation)) is not None:
                return reason
        return None
