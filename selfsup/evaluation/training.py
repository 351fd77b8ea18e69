"""Training and testing for protocols that learn: the trainer's loop, on known classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from selfsup.config import LEVELS, AugmentConfig
from selfsup.data import ImageSet
from selfsup.evaluation.features import View
from selfsup.evaluation.frame import Evaluation, Row
from selfsup.models import Network
from selfsup.sela import SelfLabels
from selfsup.training.checkpoints import create_run
from selfsup.training.fit import Trainer
from selfsup.training.step import autocast

#: Where ten crops lie, each with its mirror image: four corners and the centre.
PLACES = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))
#: Part of the shorter side that one of ten crops shows: 224 of 256.
TEN_CROP_PART = 0.875
#: Images of batches that make random views of large data sets: as published for ImageNet.
LARGE = 100_000


@dataclass(frozen=True)
class Schedule:
    """How long and how fast something is trained, by SGD with momentum 0.9."""

    epochs: int
    batch: int
    lr: float
    drops: tuple[float, ...]
    """Shares of the epochs after which the rate falls."""
    fall: float = 0.1
    weight_decay: float = 0.0
    lr_heads: float | None = None


def large(evaluation: Evaluation) -> bool:
    """Whether the images are so many that settings published for ImageNet fit."""
    return evaluation.config.data.dataset == "imagenet" or len(evaluation.train) >= LARGE


def training_views(evaluation: Evaluation) -> AugmentConfig:
    """Return random crops and flips: ImageNet's usual ones, or those of the run alone."""
    if large(evaluation):
        return LEVELS["2"]
    own = evaluation.config.optimiser.augment
    return AugmentConfig(
        crop=own.crop, crop_ratio=own.crop_ratio, crop_grid=own.crop_grid,
        centre=evaluation.view.centre, flip=own.flip,
    )  # fmt: skip


def train(
    evaluation: Evaluation,
    images: ImageSet,
    network: Network,
    labels: SelfLabels,
    schedule: Schedule,
    folder: Path,
    augment: AugmentConfig | None = None,
) -> Network:
    """Train what requires gradients in a network, or go on with it after a stop.

    Parameters
    ----------
    evaluation : Evaluation
        Whose seed and precision are used.
    images : ImageSet
        What to train on.
    network : Network
        What to train.
    labels : SelfLabels
        The loss of its outputs.
    schedule : Schedule
        How long and how fast.
    folder : Path
        Of the protocol; training is the run ``training`` in it.
    augment : AugmentConfig, optional
        Of the views; those of :func:`training_views` without.

    Returns
    -------
    Network
        The same network, trained, in evaluation mode.
    """
    k = tuple(int(head.max()) + 1 for head in labels.labels)
    config = evaluation.config.but(
        preset=folder.name,
        device=str(evaluation.device),
        clusters=tuple(max(2, some) for some in k),
        labelling="fixed",
        labels_file="classes",
        head_groups=1,
        heads_per_update="all",
        rotation=False,
        accumulate=1,
        epochs=schedule.epochs,
        batch_size=schedule.batch,
        lr=schedule.lr,
        lr_heads=schedule.lr_heads,
        lr_schedule="step",
        lr_drops=tuple(round(drop * schedule.epochs) for drop in schedule.drops),
        lr_fall=schedule.fall,
        momentum=0.9,
        nesterov=False,
        weight_decay=schedule.weight_decay,
        augment=augment or training_views(evaluation),
        keep=1,
    )
    run = folder / "training"
    trainer = Trainer(
        config, images, run, device=str(evaluation.device), labels=labels, network=network
    )
    if run.exists():
        trainer.load()
    else:
        create_run(config, run)
    trainer.fit()
    return network.eval()


def steps_at_least(steps: int, n: int, batch: int, epochs: int) -> int:
    """Return so many epochs, or more of few images: they are to make `steps` steps."""
    return max(epochs, math.ceil(steps / max(1, n // batch)))


@torch.no_grad()
def crop_logits(
    network: Network, images: ImageSet, view: View, precision: str, *, ten: bool = False
) -> list[Tensor]:
    """Return the (n, K) float32 logits of each output, on the CPU.

    Parameters
    ----------
    network : Network
        Set to evaluation mode.
    images : ImageSet
        In memory or on disk.
    view : View
        The crop, where it is one.
    precision : str
        As of training.
    ten : bool
        Show four corners and the centre, upright and mirrored, and return the mean logits. Each
        crop shows 0.875 of the shorter side, as 224 of 256 pixels.
    """
    network.eval()
    device, total = network.mean.device, None
    batches = list(torch.split(torch.arange(len(images)), view.batch))
    crops: Sequence[AugmentConfig] = [view.augment]
    if ten:
        part = min(view.centre, TEN_CROP_PART)
        crops = [AugmentConfig(centre=part, place=place) for place in PLACES]
    title, weight = "ten crops" if ten else "one crop", 1 / len(crops) / (2 if ten else 1)
    with tqdm(total=len(images) * len(crops), desc=title, leave=False, disable=None) as bar:
        for crop in crops:
            seeds = [0] * len(batches)
            shown = images.views(batches, crop, view.size, seeds=seeds, device=device)
            for index, x in zip(batches, shown, strict=True):
                with autocast(device, precision):
                    outputs = [network(x), network(x.flip(3))] if ten else [network(x)]
                if total is None:
                    total = [torch.zeros(len(images), z.shape[1]) for z in outputs[0]]
                for heads in outputs:
                    for sums, z in zip(total, heads, strict=True):
                        sums[index] += weight * z.float().cpu()
                bar.update(len(index))
    return total or []


def accuracies(logits: Tensor, targets: Tensor, suffix: str = "") -> Row:
    """Return the shares of (n, K) logits whose largest, or five largest, name the class."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
    row: Row = {f"top1{suffix}": best[:, 0].float().mean().item()}
    if logits.shape[1] > 5:
        row[f"top5{suffix}"] = best.any(1).float().mean().item()
    return row


def class_labels(images: ImageSet, heads: int = 1) -> SelfLabels:
    """Return the classes of images as labels of as many heads, each with a loss of its own.

    The loss is the sum of the heads' losses: what one head learns does not depend on the others.
    """
    return _ClassLabels(images.targets, len(images.classes), heads)


class _ClassLabels(SelfLabels):
    def __init__(self, targets: Tensor, classes: int, heads: int) -> None:
        super().__init__(len(targets), (classes,) * heads, times=())
        self.labels = targets.expand(heads, -1).clone()

    def loss(self, outputs: Sequence[Tensor], index: Tensor) -> Tensor:
        return len(outputs) * super().loss(outputs, index)


def silent(images: ImageSet) -> ImageSet:
    """Return images whose classes the trainer does not watch: they are the labels here."""
    return replace(images, classes=())  # type: ignore[type-var]
