"""Fine-tuning the whole network on few labels, or on all."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from selfsup.evaluation.frame import Evaluation, Protocol, Row, classes, test_part
from selfsup.evaluation.splits import stratified
from selfsup.evaluation.training import (
    Schedule,
    accuracies,
    class_labels,
    crop_logits,
    large,
    silent,
    steps_at_least,
    train,
)
from selfsup.models import AlexNet, Network, PreActResNet, ResNet
from selfsup.models.alexnet import initialise

#: SwAV's rates of the trunk and of the new layer on ImageNet, for up to so large a share of labels.
PUBLISHED = ((0.01, 0.02, 5.0), (1.0, 0.01, 0.2))
#: For small data sets and other networks: rates, images of a batch, and the least number of steps.
SMALL_RATES, SMALL_BATCH, SMALL_STEPS = (0.01, 0.1), 64, 1000


@dataclass(frozen=True)
class FinetuneSettings:
    """SwAV's for a ResNet on ImageNet; small sets have smaller batches and more epochs."""

    shares: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Shares of each class's labels; one image at least."""
    epochs: int = 20
    """The rates fall to a fifth after 60% and 80% of them."""
    lr: float | None = None
    """Of the trunk; without it as published, or as small sets need it."""
    lr_heads: float | None = None
    """Of the new layer."""


def schedule_for(evaluation: Evaluation, settings: FinetuneSettings, share: float) -> Schedule:
    """Return how a share of the labels is trained on."""
    residual = isinstance(evaluation.network.trunk, ResNet | PreActResNet)
    if large(evaluation) and residual:
        lr, lr_heads = next(rates for most, *rates in PUBLISHED if share <= most)
        batch, epochs = 256, settings.epochs
    else:
        (lr, lr_heads), batch = SMALL_RATES, SMALL_BATCH
        n = max(evaluation.classes, round(share * len(evaluation.train)))
        epochs = steps_at_least(SMALL_STEPS, n, batch, settings.epochs)
    return Schedule(
        epochs, batch, settings.lr or lr, (0.6, 0.8), fall=0.2,
        lr_heads=settings.lr_heads or lr_heads,
    )  # fmt: skip


def with_new_head(source: Network, classes: int, seed: int) -> Network:
    """Return a copy of a network whose only head is new."""
    mean, std = source.mean.flatten(), source.std.flatten()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        last = source.memory_format == torch.channels_last
        trunk = copy.deepcopy(source.trunk).requires_grad_(True)
        network = Network(trunk, source.dim, (classes,), mean, std, channels_last=last)
        if isinstance(trunk, AlexNet):
            network.heads.apply(initialise)
    return network.to(mean.device)


def finetune(evaluation: Evaluation, settings: FinetuneSettings) -> list[Row]:
    """Return the test accuracy for each share of the labels."""
    test, rows = evaluation.images("test"), []
    precision = evaluation.config.optimiser.precision
    for share in settings.shares:
        chosen, _ = stratified(evaluation.train.targets, share, evaluation.seed, least=1)
        some = evaluation.train.select(chosen)
        network = with_new_head(evaluation.network, evaluation.classes, evaluation.seed)
        schedule = schedule_for(evaluation, settings, share)
        folder = evaluation.scratch("finetune", (share, schedule))
        train(evaluation, silent(some), network, class_labels(some), schedule, folder)
        (logits,) = crop_logits(network, test, evaluation.view, precision)
        scores = accuracies(logits, test.targets)
        rows.append({"labels": f"{share:.0%}", "images": len(some), **scores})
    return rows


FINETUNE = Protocol(
    "finetune",
    "the whole network trained on 1%, 10% and all of the labels",
    finetune,
    needs=(classes, test_part),
)
