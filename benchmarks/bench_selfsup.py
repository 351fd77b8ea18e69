"""A training step and a label update of a small network on random images, beside plain torch.

Torch's functions here run our network and our views, and slow down with them: so they are peers
to look at, and no yardsticks for the guard to divide by.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from selfsup.data import TensorImages
from selfsup.presets import PRESETS
from selfsup.training.fit import Trainer
from selfsup.training.label_pass import feature_pass, label_step

#: Images, and the side of each.
SIZES = ((2_000, 32),)
BATCH = 128


@functools.lru_cache(maxsize=1)
def trainer_of(n: int, side: int) -> Trainer:
    """Return a trainer of cifar10-small's network, which is on no disk."""
    pixels = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8)
    paths = tuple(map(str, range(n)))
    images = TensorImages(pixels, torch.zeros(n, dtype=torch.int64), ("none",), paths)
    config = PRESETS["cifar10-small"].but(image_size=side, device="cpu")
    return Trainer(config, images, None)


def plain_step(trainer: Trainer, views: torch.Tensor, index: torch.Tensor) -> None:
    """Take a step as torch's tutorial does, with fixed labels."""
    trainer.network.train()
    targets = trainer.labels.labels[:, index]
    outputs = trainer.network(views)
    loss = sum(F.cross_entropy(z, y) for z, y in zip(outputs, targets, strict=True)) / len(targets)
    trainer.optimiser.zero_grad()
    loss.backward()
    trainer.optimiser.step()


def plain_labels(trainer: Trainer) -> list[torch.Tensor]:
    """Label by the argmax of every head, on the views that a label pass sees."""
    features = feature_pass(trainer.config, trainer.network, trainer.images)
    with torch.no_grad():
        return [z.argmax(1) for z in trainer.network.heads(features)]


@pytest.mark.parametrize("solver", ["selfsup", "torch"])
def test_training_step(size: tuple[int, int], solver: str, measured: Any) -> None:
    """A step of SGD on views that are there already."""
    trainer = trainer_of(*size)
    index = torch.arange(min(BATCH, size[0]))
    views = torch.rand(len(index), 3, size[1], size[1])
    measured(
        functools.partial(trainer.train_step if solver == "selfsup"
                          else functools.partial(plain_step, trainer), views, index),
        views.numpy(),
        group=f"training step, {len(index)} images of {size[1]} x {size[1]}",
        solver=solver,
        role="ours" if solver == "selfsup" else "peer",
        packages=["torch"],
    )  # fmt: skip


@pytest.mark.parametrize("solver", ["selfsup", "torch"])
def test_label_update(size: tuple[int, int], solver: str, measured: Any) -> None:
    """Labels of all images by ten heads of 128 clusters; torch takes the argmax of each."""
    trainer = trainer_of(*size)
    update = functools.partial(
        label_step, trainer.config, trainer.network, trainer.images, trainer.labels, trainer.world
    )
    found = measured(
        update if solver == "selfsup" else functools.partial(plain_labels, trainer),
        trainer.images.images.numpy(),
        group=f"label update, {size[0]:,} images of {size[1]} x {size[1]}",
        solver=solver,
        role="ours" if solver == "selfsup" else "peer",
        packages=["torch"],
    )
    if solver == "selfsup":
        measured.info.update(
            reads=sum(head.passes for head in found.heads),
            violation=max(head.violation for head in found.heads),
        )
