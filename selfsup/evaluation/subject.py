"""A run and images, ready to be evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from selfsup.config import Config, DataConfig, DatasetName
from selfsup.data import ImageSet, Splits, load_data
from selfsup.errors import RunError
from selfsup.evaluation.features import View, state_digest
from selfsup.evaluation.frame import Evaluation, Part
from selfsup.evaluation.splits import stratified
from selfsup.training.checkpoints import fingerprint
from selfsup.training.trained import Trained

#: What the rows of a run are called, by where its labels come from.
METHODS = {
    "equipartition": "SeLa",
    "k-means": "k-means labels",
    "balanced k-means": "balanced k-means labels",
    "argmax": "argmax labels",
    "fixed": "fixed labels",
    "none": "rotation",
}


@dataclass(frozen=True)
class Images:
    """Which images to evaluate on; what is not said is as the run was started with."""

    data: str | None = None
    """Folder (or zip file) of the images: the run's, where they have moved, or others."""
    dataset: DatasetName | None = None
    """Another data set than the run's; it is where the data set is usually, without --data."""
    classes: Literal["none", "folders"] | None = None
    """folder: whether the names of folders are classes."""
    hold_out: float = 0.0
    """Share of each class that is kept for tests, where there is no test part. Networks have seen
    these images, without their classes."""
    imbalance: Literal["full", "light", "heavy"] = "full"
    """Which training images: all, as in the paper also for a run that was trained on fewer. The
    labels of that run are then predicted; with its own value they are those of its training."""
    in_memory: bool | None = None
    """Decode all images once; otherwise each time they are used."""
    workers: int | None = None
    """Processes that decode images."""


@dataclass(frozen=True)
class Subject:
    """A run and images."""

    evaluation: Evaluation
    trained: Trained
    own: ImageSet | None
    """All images that the run was trained on, if they are those."""
    found: str
    """What images there are, for a person."""


def load_subject(
    run: Path,
    images: Images | None = None,
    device: str = "auto",
    trunk: nn.Module | None = None,
    splits: Splits | None = None,
) -> Subject:
    """Load the newest checkpoint of a run, and the run's images or others.

    The labels of the images that the run was trained on are its own. Others are labelled as
    :meth:`selfsup.Trained.predict` does. `trunk` is the run's network, and `splits` are
    images, where they were passed from Python.

    Raises
    ------
    SelfsupError
        There is no run, or no images, or images that the network cannot take.
    """
    images = images or Images()
    trained = Trained.load(run, images.data, device, trunk)
    config = _config(trained.config, images)
    splits = splits or load_data(config.data)
    train, test, found = splits.train, splits.test, splits.found
    channels = trained.network.mean.shape[1]
    if train.channels != channels:
        place = config.data.data or config.data.dataset
        raise RunError(
            f"the network of {run} takes images of {channels} channels; those of {place} have "
            f"{train.channels}"
        )
    own = train if fingerprint(train.paths) == trained.images else None
    rows: dict[Part, Tensor] = {"train": torch.arange(len(train))} if own is not None else {}
    place = _place(config.data)
    if images.hold_out and test is not None:
        found += "; --hold-out is ignored, as there is a test part"
    elif images.hold_out:
        held, rest = _held_out(train, images.hold_out, config.run.seed)
        if own is not None:
            rows = {"train": rest, "test": held}
        train, test = train.select(rest), train.select(held)
        place += f", {images.hold_out:g} held out"
        found += f"\n--hold-out {images.hold_out:g}: {len(held):,} of these images are for tests"
    if own is None and config.labels.clusters:
        found += "\nthe run was trained on other images: labels of these are predicted"
    evaluation = Evaluation(
        METHODS[config.labels.labelling], run, config, trained.network, train, test, place=place,
        view=View.of(config), clusters=config.labels.clusters,
        state=state_digest(trained.network, trained.labels),
    )  # fmt: skip

    def find(part: Part) -> Tensor:
        if part in rows:
            return trained.labels.labels[:, rows[part]]
        return trained.label(evaluation.features(part))

    if evaluation.clusters:
        evaluation = evaluation.but(find_labels=find)
    return Subject(evaluation, trained, own, found)


def _config(config: Config, images: Images) -> Config:
    """Return a run's settings with other images."""
    changes = {
        name: value
        for name in ("dataset", "classes", "imbalance", "in_memory", "workers")
        if (value := getattr(images, name)) is not None
    }
    if images.dataset not in (None, config.data.dataset):
        changes["data"] = images.data
    return config.but(**changes)


def _place(data: DataConfig) -> str:
    """Return which images these are, for a person."""
    folder = f" in {data.data}" if data.data else ""
    return data.dataset + folder + (f", {data.imbalance}" if data.imbalance != "full" else "")


def _held_out(train: ImageSet, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the positions of images for tests, and of the rest."""
    if not 0 < share < 1:
        raise RunError(f"--hold-out is a share between 0 and 1, got {share:g}")
    if not train.labelled:
        raise RunError(
            f"--hold-out {share:g} is a share of each class, and no classes are known; "
            "--classes folders takes folders as classes, where the images are in two or more"
        )
    held, rest = stratified(train.targets, share, seed)
    if not len(held):
        raise RunError(f"--hold-out {share:g} of {len(train):,} images keeps none for tests: of "
                       "each class it rounds to none; take a larger share")  # fmt: skip
    return held, rest
