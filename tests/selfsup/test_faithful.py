"""Our trainer against the authors' training loop, written anew here from its maths."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from solvers import sela_original
from tiny_run import TINY
from torch import Tensor, nn

from selfsup.data import TensorImages, load_data
from selfsup.presets import as_authors
from selfsup.training import fit
from selfsup.training.label_pass import batch_of
from selfsup.training.monitor import Monitor

STEPS, UPDATES = 50, 3


@dataclass
class Seen:
    """What a training of ours was shown, in its order, and the losses that it had."""

    shown: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)


@pytest.fixture
def seen(monkeypatch):
    """Note each batch as it is drawn, each loss, and the labels after each update.

    All is float64: in float32 batch normalisation of a few images makes of a rounding error ten
    in one step, and both loops, though the same, part after some thirty.
    """
    torch.set_default_dtype(torch.float64)
    seen = Seen()
    views, step = TensorImages.views, fit.gradient_step
    label = fit.label_step

    def noted_views(self, batches, *args, **kwargs):
        drawn = views(self, batches, *args, **kwargs)
        for index in batches:
            torch.set_default_dtype(torch.float32)  # views are made in float32 alone
            x = next(drawn).double()
            torch.set_default_dtype(torch.float64)
            seen.shown.append((index, x))
            yield x

    def noted_step(*args, **kwargs):
        loss = step(*args, **kwargs)
        seen.losses.append(loss.item())
        return loss

    def noted_labels(config, network, images, labels, world):
        report = label(config, network, images, labels, world)
        seen.labels.append(labels.labels.clone())
        return report

    monkeypatch.setattr(TensorImages, "views", noted_views)
    monkeypatch.setattr(fit, "gradient_step", noted_step)
    monkeypatch.setattr(fit, "label_step", noted_labels)
    yield seen
    torch.set_default_dtype(torch.float32)


def their_labels(features: Tensor, head: nn.Linear, lam: float) -> Tensor:
    """Softmax, then P**lam and the two scalings in NumPy, then the argmax."""
    with torch.no_grad():
        logits = head(features).log_softmax(1).numpy()
    return torch.from_numpy(sela_original(logits, 1e-8, epsilon=1 / lam).labels)


@pytest.mark.parametrize("one_head", [False, True], ids=["all heads (ImageNet)", "one (CIFAR)"])
def test_losses_and_labels_are_those_of_the_authors_loop(one_head, seen):
    """Fifty steps and two updates after the first, from the same weights, on the same views."""
    config = as_authors(TINY).but(
        batch_size=71, epochs=3, updates=UPDATES, schedule_power=1.0, tol=1e-8, max_iter=9999,
        width=8, lr=0.1, weight_decay=5e-4, heads_per_update="one" if one_head else "all",
    )  # fmt: skip
    images = load_data(config.data).train
    trainer = fit.Trainer(config, images, None)
    network, labels = copy.deepcopy(trainer.network), trainer.labels.labels.clone()
    seen.shown.clear()  # what measured the statistics of the new network
    monitor = Monitor(None, config.labels.clusters, 3, 0)
    while trainer.step < STEPS:
        trainer.train_epoch(monitor)
    monitor.close()

    clusters, lam = config.labels.clusters, round(1 / config.labels.epsilon)
    label_batch = batch_of(config.data.image_size)
    heads = [nn.Linear(network.dim, k) for k in clusters]  # ours are rows of one matrix
    for h, head in enumerate(heads):
        weight, bias = network.heads.parameters_of(h)
        head.weight.data, head.bias.data = weight.data.clone(), bias.data.clone()
    parameters = [*network.trunk.parameters(), *(p for head in heads for p in head.parameters())]
    sgd = torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=5e-4)
    cross_entropy = nn.CrossEntropyLoss()
    network.train()
    losses, updates, shown = [], 0, iter(seen.shown)
    for index, x in shown:
        if len(index) == label_batch:  # a label pass over all images begins
            features = torch.empty(len(images), network.dim)
            while True:
                with torch.no_grad():
                    features[index] = network.features(x).float().double()
                if len(index) < label_batch:
                    break
                index, x = next(shown)
            for h in [updates % len(heads)] if one_head else range(len(heads)):
                labels[h] = their_labels(features, heads[h], lam)
            assert torch.equal(labels, seen.labels[updates]), f"update {updates}"
            updates += 1
            continue
        for group in sgd.param_groups:
            step, total = len(losses), trainer.steps
            group["lr"] = fit.learning_rate(config.optimiser, step, total // 3)
        out = network.features(x)
        loss = sum(
            cross_entropy(head(out), y[index]) for head, y in zip(heads, labels, strict=True)
        ) / len(heads)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    assert updates == UPDATES
    assert len(losses) >= STEPS
    np.testing.assert_allclose(seen.losses, losses, rtol=1e-9)
