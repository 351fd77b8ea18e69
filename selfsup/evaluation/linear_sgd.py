"""A linear classifier on the final features by SGD, as published for a ResNet-50."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from selfsup.config import OptimiserConfig
from selfsup.evaluation.frame import Evaluation, Protocol, Row, classes, test_part
from selfsup.evaluation.stages import Fixed
from selfsup.evaluation.training import (
    ClassLabels,
    accuracies,
    drops,
    one_crop_logits,
    ten_crop_logits,
    train,
    training_views,
)
from selfsup.models import Network
from selfsup.seeds import seeded


@dataclass(frozen=True)
class LinearSgdSettings:
    """The authors' of a ResNet-50 on ImageNet; smaller images are shown as in training."""

    epochs: int = 146
    batch: int = 1024
    lr: float = 0.1
    """It falls to a tenth after 85 and 128 of 146 epochs."""
    weight_decay: float = 0.0
    ten_crops: bool = True
    """Average over ten crops as well."""


def linear_sgd(evaluation: Evaluation, settings: LinearSgdSettings) -> list[Row]:
    """Return the test accuracy of the classifier after the last epoch."""
    source = evaluation.network
    trunk = Fixed(copy.deepcopy(source.trunk)).requires_grad_(False)
    with seeded(evaluation.seed):
        network = Network(
            trunk, source.dim, (evaluation.classes,), source.mean.flatten(), source.std.flatten(),
        ).to(evaluation.device)  # fmt: skip
    optimiser = OptimiserConfig(
        settings.epochs, settings.batch, lr=settings.lr,
        lr_drops=drops(settings.epochs, 85 / 146, 128 / 146),
        weight_decay=settings.weight_decay, augment=training_views(evaluation),
    )  # fmt: skip
    folder = evaluation.scratch("linear-sgd", settings)
    train(evaluation, evaluation.train, network, ClassLabels(evaluation.train), optimiser, folder)
    test = evaluation.images("test")
    (logits,) = one_crop_logits(evaluation, network, test)
    row: Row = {"solver": "SGD", "epochs": settings.epochs, **accuracies(logits, test.targets)}
    if settings.ten_crops:
        (logits,) = ten_crop_logits(evaluation, network, test)
        row |= accuracies(logits, test.targets, "_ten_crops")
    return [row]


LINEAR_SGD = Protocol(
    "linear-sgd",
    "linear classifier by SGD on random views, one crop and ten; the last epoch counts",
    linear_sgd,
    needs=(classes, test_part),
)
