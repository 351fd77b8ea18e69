"""Training and testing for protocols that learn: the trainer's loop, on known classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from selfsup.config import LEVELS, AugmentConfig, OptimiserConfig
from selfsup.data import ImageSet
from selfsup.evaluation.frame import Evaluation, Row
from selfsup.models import Network
from selfsup.seeds import Stream, seed_of
from selfsup.sela import SelfLabels
from selfsup.training.checkpoints import create_run
from selfsup.training.fit import Trainer
from selfsup.training.step import autocast

#: Where ten crops lie, each with its mirror image: four corners and the centre.
PLACES = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))
#: Part of the shorter side that one of ten crops shows: 224 of 256.
TEN_CROP_PART = 0.875
#: So many images are trained on as is published for ImageNet.
LARGE = 100_000


def large(evaluation: Evaluation) -> bool:
    """Whether the images are so many that settings published for ImageNet fit."""
    return evaluation.config.data.dataset == "imagenet" or len(evaluation.train) >= LARGE


def training_views(evaluation: Evaluation) -> AugmentConfig:
    """Return random crops and flips: ImageNet's usual ones, or those of the run."""
    if large(evaluation):
        return LEVELS["2"]
    own, plain = evaluation.config.optimiser.augment, evaluation.view.augment
    return replace(
        plain, crop=own.crop, crop_ratio=own.crop_ratio, crop_grid=own.crop_grid, flip=own.flip
    )


def drops(epochs: int, *shares: float) -> tuple[int, ...]:
    """Return the epochs before which a rate falls, as shares of all, but the first."""
    return tuple(max(1, round(share * epochs)) for share in shares)


class ClassLabels(SelfLabels):
    """The classes of images as labels of several heads, of which none depends on the others."""

    def __init__(self, images: ImageSet, heads: int = 1) -> None:
        super().__init__(len(images), (len(images.classes),) * heads, times=())
        self.labels = images.targets.expand(heads, -1).clone()

    def loss(self, outputs: Sequence[Tensor], index: Tensor) -> Tensor:
        """Return the sum of the heads' losses."""
        return len(outputs) * super().loss(outputs, index)


def train(
    evaluation: Evaluation,
    images: ImageSet,
    network: Network,
    labels: SelfLabels,
    optimiser: OptimiserConfig,
    folder: Path,
) -> None:
    """Train what requires gradients in a network, or go on with it after a stop.

    Parameters
    ----------
    evaluation : Evaluation
        Whose seed, device and precision are used.
    images : ImageSet
        What to train on.
    network : Network
        What to train; it is in evaluation mode afterwards.
    labels : SelfLabels
        The loss of its outputs.
    optimiser : OptimiserConfig
        How long and how fast; it gets the run's precision.
    folder : Path
        Of the protocol; training is the run ``training`` in it.
    """
    config = evaluation.config.but(
        preset=folder.name,
        device=str(evaluation.device),
        clusters=tuple(max(2, int(head.max()) + 1) for head in labels.labels),
        labelling="fixed",
        labels_file="classes",
        head_groups=1,
        heads_per_update="all",
        rotation=False,
        keep=1,
        keep_every=optimiser.epochs + 1,
    )
    optimiser = replace(
        optimiser, precision=config.optimiser.precision, lr_schedule="step", nesterov=False
    )
    config = replace(config, optimiser=optimiser)
    run = folder / "training"
    unwatched = replace(images, classes=())
    trainer = Trainer(
        config, unwatched, run, device=str(evaluation.device), labels=labels, network=network
    )
    if run.exists():
        trainer.load()
    else:
        create_run(config, run)
    trainer.fit()
    network.eval()


def one_crop_logits(evaluation: Evaluation, network: Network, images: ImageSet) -> list[Tensor]:
    """Return the (n, K) logits of each output for the images as the evaluation shows them."""
    return mean_logits(evaluation, network, images, [evaluation.view.augment])


def ten_crop_logits(evaluation: Evaluation, network: Network, images: ImageSet) -> list[Tensor]:
    """Return the mean (n, K) logits of four corners and the centre, upright and mirrored."""
    part = min(evaluation.view.centre, TEN_CROP_PART)
    crops = [AugmentConfig(centre=part, place=place) for place in PLACES]
    return mean_logits(evaluation, network, images, crops, mirror=True)


@torch.no_grad()
def mean_logits(
    evaluation: Evaluation,
    network: Network,
    images: ImageSet,
    crops: Sequence[AugmentConfig],
    *,
    mirror: bool = False,
) -> list[Tensor]:
    """Return the (n, K) float32 logits of each output, on the CPU, as a mean over views.

    Parameters
    ----------
    evaluation : Evaluation
        Whose size of views, precision and seed are used.
    network : Network
        Set to evaluation mode.
    images : ImageSet
        In memory or on disk.
    crops : sequence of AugmentConfig
        The views; where they are random, all differ.
    mirror : bool
        Show each view mirrored as well.
    """
    network.eval()
    view, total = evaluation.view, None
    batches = list(torch.split(torch.arange(len(images)), view.batch))
    bar = tqdm(total=len(images) * len(crops), desc="test", leave=False, disable=None)
    for number, crop in enumerate(crops):
        seeds = [seed_of(evaluation.seed, Stream.VIEWS, number, i) for i in range(len(batches))]
        shown = images.views(batches, crop, view.size, seeds=seeds, device=evaluation.device)
        for index, x in zip(batches, shown, strict=True):
            for sides in (x, x.flip(3)) if mirror else (x,):
                with autocast(evaluation.device, evaluation.config.optimiser.precision):
                    outputs = [z.float().cpu() for z in network(sides)]
                total = total or [torch.zeros(len(images), z.shape[1]) for z in outputs]
                for sums, z in zip(total, outputs, strict=True):
                    sums[index] += z / (len(crops) * (2 if mirror else 1))
            bar.update(len(index))
    bar.close()
    return total or []


def accuracies(logits: Tensor, targets: Tensor, suffix: str = "") -> Row:
    """Return the shares of (n, K) logits whose largest, or five largest, name the class."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
    row: Row = {f"top1{suffix}": best[:, 0].float().mean().item()}
    if logits.shape[1] > 5:
        row[f"top5{suffix}"] = best.any(1).float().mean().item()
    return row
