"""Fine-tuning the whole network on few labels, or on all."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch

from selfsup.config import OptimiserConfig
from selfsup.evaluation.frame import Evaluation, Protocol, Row, classes, test_part
from selfsup.evaluation.splits import stratified
from selfsup.evaluation.training import (
    ClassLabels,
    accuracies,
    drops,
    large,
    one_crop_logits,
    train,
    training_views,
)
from selfsup.models import AlexNet, Network, PreActResNet, ResNet
from selfsup.models.alexnet import initialise
from selfsup.seeds import seeded

#: SwAV's rates of the trunk and of the new layer on ImageNet, for up to so large a share of labels.
PUBLISHED = ((0.01, (0.02, 5.0)), (1.0, (0.01, 0.2)))
#: For small data sets and other networks: rates, and images of a batch.
SMALL_RATES, SMALL_BATCH = (0.01, 0.1), 64
#: The least number of steps, about those of 1% of ImageNet: an epoch shows fewer images repeatedly.
STEPS = 1000


@dataclass(frozen=True)
class FinetuneSettings:
    """SwAV's for a ResNet on ImageNet; small sets have smaller batches."""

    shares: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Shares of each class's labels; one image at least."""
    epochs: int = 20
    """The rates fall to a fifth after 60% and 80% of them."""
    lr: float | None = None
    """Of the trunk; without it as published, or as small sets need it."""
    lr_heads: float | None = None
    """Of the new layer."""


def optimiser_for(
    evaluation: Evaluation, settings: FinetuneSettings, share: float
) -> OptimiserConfig:
    """Return how a share of the labels is trained on."""
    residual = isinstance(evaluation.network.trunk, ResNet | PreActResNet)
    (lr, lr_heads), batch = SMALL_RATES, SMALL_BATCH
    if large(evaluation) and residual:
        lr, lr_heads = next(rates for most, rates in PUBLISHED if share <= most)
        batch = 256
    return OptimiserConfig(
        settings.epochs, batch, lr=settings.lr or lr, lr_heads=settings.lr_heads or lr_heads,
        lr_drops=drops(settings.epochs, 0.6, 0.8), lr_fall=0.2, weight_decay=0.0,
        augment=training_views(evaluation),
    )  # fmt: skip


def with_new_head(source: Network, classes: int, seed: int) -> Network:
    """Return a copy of a network whose only head is new."""
    mean, std = source.mean.flatten(), source.std.flatten()
    with seeded(seed):
        trunk = copy.deepcopy(source.trunk).requires_grad_(True)
        network = Network(trunk, source.dim, (classes,), mean, std)
        if isinstance(trunk, AlexNet):
            network.heads.apply(initialise)
    return network.to(mean.device)


def finetune(evaluation: Evaluation, settings: FinetuneSettings) -> list[Row]:
    """Return the test accuracy for each share of the labels."""
    test, rows = evaluation.images("test"), []
    for share in settings.shares:
        chosen, _ = stratified(evaluation.train.targets, share, evaluation.seed, least=1)
        some = evaluation.train.select(chosen)
        network = with_new_head(evaluation.network, evaluation.classes, evaluation.seed)
        optimiser = optimiser_for(evaluation, settings, share)
        # so that a pass over few images, after which a run is saved, takes some steps
        least = STEPS * optimiser.batch_size // settings.epochs
        repeated = some.select(torch.arange(len(some)).repeat(math.ceil(least / len(some))))
        folder = evaluation.scratch("finetune", (share, optimiser))
        train(evaluation, repeated, network, ClassLabels(repeated), optimiser, folder)
        (logits,) = one_crop_logits(evaluation, network, test)
        scores = accuracies(logits, test.targets)
        rows.append({"labels": f"{100 * share:g}%", "images": len(some), **scores})
    return rows


FINETUNE = Protocol(
    "finetune",
    "the whole network trained on 1%, 10% and all of the labels",
    finetune,
    needs=(classes, test_part),
)
