"""Linear classifiers on every layer of a fixed network, trained together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfsup.config import OptimiserConfig
from selfsup.evaluation.frame import Evaluation, Protocol, Row, classes, test_part
from selfsup.evaluation.stages import absorbed, map_shapes, stages
from selfsup.evaluation.training import (
    ClassLabels,
    accuracies,
    drops,
    one_crop_logits,
    ten_crop_logits,
    train,
    training_views,
)
from selfsup.models import AlexNet, Network
from selfsup.seeds import seeded

#: Kernel, stride and padding of the pooling after conv1 to conv5 of AlexNet, in the authors' code.
ALEXNET_POOLS = ((6, 6, 3), (4, 4, 0), (3, 3, 1), (3, 3, 1), (2, 2, 0))
#: Numbers that a map of any other network is pooled to at most, about as many as of AlexNet's.
MOST_NUMBERS = 9600


@dataclass(frozen=True)
class LayersSettings:
    """Zhang et al. (2017), as in the authors' code."""

    epochs: int = 36
    batch: int = 192
    lr: float = 0.01
    """It falls to a tenth after 10, 20 and 30 of 36 epochs."""
    weight_decay: float = 1e-5
    ten_crops: bool = True
    """Average over ten crops as well."""


class LayerProbes(Network):
    """A fixed network whose outputs are linear classifiers on each of its stages.

    Batch normalisation is absorbed into the convolutions; each probe pools, normalises and
    classifies.

    Parameters
    ----------
    source : Network
        Whose trunk is looked at; it is copied.
    classes : int
        Number of classes.
    size : int
        Side of the images.
    """

    def __init__(self, source: Network, classes: int, size: int) -> None:
        mean, std = source.mean.flatten(), source.std.flatten()
        parts = {name: absorbed(part) for name, part in stages(source.trunk).items()}
        shapes = map_shapes(parts, len(mean), size)
        super().__init__(nn.Sequential(*parts.values()), 0, (), mean, std)
        self.trunk.requires_grad_(False)
        pools = _pools(source.trunk, shapes)
        self.probes = nn.ModuleDict(
            {name: _probe(pools[name], shape, classes) for name, shape in shapes.items()}
        )
        self.to(mean.device)

    def forward(self, images: Tensor, rotated: bool = False) -> tuple[Tensor, ...]:
        """Return the (B, classes) logits of every layer."""
        x = ((images - self.mean) / self.std).contiguous(memory_format=self.memory_format)
        outputs = []
        for part, probe in zip(self.trunk.children(), self.probes.values(), strict=True):
            with torch.no_grad():
                x = part(x)
            outputs.append(probe(x))
        return tuple(outputs)


def _pools(trunk: nn.Module, shapes: dict[str, torch.Size]) -> dict[str, nn.Module]:
    if isinstance(trunk, AlexNet):
        pools = [nn.MaxPool2d(*pool) for pool in ALEXNET_POOLS]
        return dict(zip(shapes, pools, strict=True))
    sides = {name: int((MOST_NUMBERS / c) ** 0.5) for name, (c, _, _) in shapes.items()}
    return {
        name: nn.AdaptiveAvgPool2d(max(1, min(sides[name], height, width)))
        for name, (_, height, width) in shapes.items()
    }


def _probe(pool: nn.Module, shape: torch.Size, classes: int) -> nn.Sequential:
    numbers = pool(torch.zeros(1, *shape)).numel()
    norm = nn.BatchNorm2d(shape[0], affine=False)
    return nn.Sequential(pool, norm, nn.Flatten(), nn.Linear(numbers, classes))


def layers(evaluation: Evaluation, settings: LayersSettings) -> list[Row]:
    """Return the test accuracy of a linear classifier on every layer."""
    test = evaluation.images("test")
    with seeded(evaluation.seed):
        network = LayerProbes(evaluation.network, evaluation.classes, evaluation.view.size)
    optimiser = OptimiserConfig(
        settings.epochs, settings.batch, lr=settings.lr,
        lr_drops=drops(settings.epochs, 10 / 36, 20 / 36, 30 / 36),
        weight_decay=settings.weight_decay, augment=training_views(evaluation),
    )  # fmt: skip
    labels = ClassLabels(evaluation.train, len(network.probes))
    folder = evaluation.scratch("layers", settings)
    train(evaluation, evaluation.train, network, labels, optimiser, folder)
    rows: list[Row] = [
        {"layer": name, "features": probe[-1].in_features}  # type: ignore[index]
        for name, probe in network.probes.items()
    ]
    found = {"": one_crop_logits(evaluation, network, test)}
    if settings.ten_crops:
        found["_ten_crops"] = ten_crop_logits(evaluation, network, test)
    for suffix, outputs in found.items():
        for row, logits in zip(rows, outputs, strict=True):
            row |= accuracies(logits, test.targets, suffix)
    return rows


def known_layers(evaluation: Evaluation) -> str | None:
    """The trunk can be taken apart."""
    try:
        stages(evaluation.network.trunk)
    except ValueError as error:
        return str(error)
    return None


LAYERS = Protocol(
    "layers",
    "linear classifiers on every layer (AlexNet conv1 to conv5, stages of ResNets)",
    layers,
    needs=(classes, test_part, known_layers),
)
