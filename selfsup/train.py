"""Training: a run directory, its log and its checkpoints."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from selfsup.augment import random_views
from selfsup.config import Config
from selfsup.data import ImageSet
from selfsup.metrics import nmi
from selfsup.models import Network
from selfsup.sela import (
    Assignment,
    assign_labels,
    extract_features,
    multi_head_loss,
    update_times,
)

CALIBRATION_IMAGES = 2000


class RunError(Exception):
    """A run directory is missing, exists already or does not fit."""


def build_network(config: Config, train: ImageSet, clusters: tuple[int, ...]) -> Network:
    """Return the network of `config`; equal settings give equal weights."""
    try:
        torch.empty(0, device=config.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"device {config.device!r} cannot be used here: {reason}") from error
    mean, std = train.statistics()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = Network(mean, std, clusters, config.width, config.blocks, config.stem_stride)
    network.to(memory_format=torch.channels_last)
    network.to(config.device)
    # Evenly spaced images, as a folder lists them class by class.
    network.calibrate(train.images[:: max(1, len(train) // CALIBRATION_IMAGES)])
    return network


def build_optimiser(config: Config, network: Network) -> torch.optim.SGD:
    """Return SGD as `config` says."""
    return torch.optim.SGD(
        network.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=True,
    )


def cosine_lr(base: float, step: int, steps: int) -> float:
    """Return the learning rate of a step: a short linear rise, then half a cosine."""
    warmup = max(1, steps // 50)
    return base * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))


def train_step(
    network: Network,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    config: Config,
    generator: torch.Generator,
) -> float:
    """Take one gradient step on a uint8 batch with (heads, B) labels; return the loss."""
    x = images.to(config.device).float() / 255
    logits = network(random_views(x, config.augment, generator))
    loss = multi_head_loss(logits, labels.to(config.device))
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(loss.detach())


class Trainer:
    """One SeLa training, from a fresh network or from a checkpoint.

    Everything random draws from one generator. Its state, with weights, momenta, labels,
    potentials and position, is saved at the end of every epoch; a resumed run therefore ends in
    the same bits as one never interrupted (on a CPU, with the same number of threads).
    """

    def __init__(self, config: Config, train: ImageSet, run: Path) -> None:
        self.config = config
        self.train = train
        self.run = run
        self.batch_size = min(config.batch_size, len(train))
        self.steps_per_epoch = len(train) // self.batch_size
        self.total_steps = config.epochs * self.steps_per_epoch
        self.times = update_times(
            self.total_steps * self.batch_size, config.updates, config.schedule_power
        )
        self.network = build_network(config, train, config.clusters)
        self.optimiser = build_optimiser(config, self.network)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.epoch = 0
        self.saved_epoch = 0
        self.step = 0
        self.updates_done = 0
        self.assignment: Assignment | None = None
        self.last: dict[str, Any] = {}

    @property
    def labels(self) -> Tensor:
        """The current labels, (heads, N)."""
        if self.assignment is None:
            raise RunError(f"{self.run}: no labels yet")
        return self.assignment.labels

    def update_labels_if_due(self) -> None:
        """Solve for new labels when the schedule says so; at most once per iteration."""
        if self.updates_done == len(self.times):
            return
        if self.step * self.batch_size < self.times[self.updates_done] - 1e-6:
            return
        before = self.assignment
        features = extract_features(
            self.network,
            self.train.images,
            self.config.augment,
            self.config.label_views,
            self.generator,
        )
        after = assign_labels(
            self.network,
            features,
            self.config,
            None if before is None else before.potentials,
        )
        self.assignment = after
        self.updates_done += 1
        changed = None
        if before is not None:
            changed = float((before.labels != after.labels).float().mean())
        self.last["label_change"] = changed
        self.last["marginal_violation"] = after.marginal_violation
        self.last["unconverged"] = after.unconverged
        self.last["solver_passes"] = self.last.get("solver_passes", 0) + after.passes
        self.last["solver_seconds"] = self.last.get("solver_seconds", 0.0) + after.seconds
        self.last["updates"] = self.last.get("updates", 0) + 1

    def train_epoch(self) -> dict[str, Any]:
        """Train for one epoch and return its log line."""
        start = time.perf_counter()
        self.last = {}
        order = torch.randperm(len(self.train), generator=self.generator)
        batches = order[: self.steps_per_epoch * self.batch_size].view(-1, self.batch_size)
        loss = 0.0
        step_seconds = 0.0
        for index in tqdm(batches, desc=f"epoch {self.epoch + 1}", leave=False, disable=None):
            self.update_labels_if_due()
            began = time.perf_counter()
            lr = cosine_lr(self.config.lr, self.step, self.total_steps)
            for group in self.optimiser.param_groups:
                group["lr"] = lr
            loss += train_step(
                self.network,
                self.optimiser,
                self.train.images[index],
                self.labels[:, index],
                self.config,
                self.generator,
            )
            self.step += 1
            step_seconds += time.perf_counter() - began
        self.epoch += 1
        if self.epoch == self.config.epochs:
            self.update_labels_if_due()
        return {
            "epoch": self.epoch,
            "loss": loss / len(batches),
            "ln_k": float(np.mean([math.log(k) for k in self.config.clusters])),
            "lr": lr,
            **self._label_summary(),
            **self.last,
            "images_per_second": batches.numel() / step_seconds,
            "seconds": time.perf_counter() - start,
        }

    def _label_summary(self) -> dict[str, Any]:
        heads = self.labels.numpy()
        entropies, smallest, largest = [], [], []
        for labels, k in zip(heads, self.config.clusters, strict=True):
            sizes = np.bincount(labels, minlength=k)
            shares = sizes[sizes > 0] / sizes.sum()
            entropies.append(float(-(shares * np.log(shares)).sum()))
            smallest.append(int(sizes.min()))
            largest.append(int(sizes.max()))
        truth = self.train.targets.numpy()
        return {
            "label_entropy": float(np.mean(entropies)),
            "size_min": smallest,
            "size_max": largest,
            "nmi": [nmi(truth, labels) for labels in heads],
        }

    def state(self) -> dict[str, Any]:
        """Return all that a checkpoint holds, as tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "labels": None if self.assignment is None else self.assignment.labels,
            "potentials": None if self.assignment is None else list(self.assignment.potentials),
            "epoch": self.epoch,
            "step": self.step,
            "updates_done": self.updates_done,
        }

    def save(self) -> None:
        """Write labels and checkpoint; each file is whole at any moment."""
        if self.assignment is not None:
            labels = self.run / "labels.npy.tmp"
            with labels.open("wb") as file:
                np.save(file, self.labels.numpy())
            os.replace(labels, self.run / "labels.npy")
        temporary = self.run / "checkpoint.pt.tmp"
        torch.save(self.state(), temporary)
        os.replace(temporary, self.run / "checkpoint.pt")
        self.saved_epoch = self.epoch

    def load(self) -> None:
        """Continue from the run's checkpoint, and drop log lines of epochs after it."""
        state = load_checkpoint(self.run, self.config.device)
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"].cpu())
        self.epoch, self.step = state["epoch"], state["step"]
        self.saved_epoch = self.epoch
        self.updates_done = state["updates_done"]
        if state["labels"] is not None:
            potentials = tuple(g.cpu() for g in state["potentials"])
            self.assignment = Assignment(state["labels"].cpu(), potentials, 0.0, 0, 0.0, 0.0)
        log = self.run / "log.jsonl"
        if log.exists():
            kept = [line for line in read_log(self.run) if line["epoch"] <= self.epoch]
            log.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def fit(self) -> None:
        """Train to the last epoch."""
        if self.epoch == 0:
            self.save()
        epochs = tqdm(
            range(self.epoch, self.config.epochs),
            initial=self.epoch,
            total=self.config.epochs,
            desc=self.config.preset,
            disable=None,
        )
        for _ in epochs:
            line = self.train_epoch()
            with (self.run / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            self.save()
            epochs.set_postfix(loss=f"{line['loss']:.3f}", nmi=f"{np.mean(line['nmi']):.3f}")


def refuse_existing(run: Path) -> None:
    """Raise if there is anything where a new run should go."""
    if run.exists():
        raise RunError(
            f"{run} exists already. Choose another --out, or go on with it: "
            f"python -m selfsup train --resume {run}"
        )


def create_run(config: Config, run: Path) -> None:
    """Make a new run directory; an existing one is never touched."""
    refuse_existing(run)
    run.mkdir(parents=True)
    config.save(run / "config.json")


def load_config(run: Path) -> Config:
    """Return the settings of a run."""
    if not (run / "config.json").is_file():
        raise RunError(f"{run}: no run here (no config.json)")
    return Config.load(run / "config.json")


def load_checkpoint(run: Path, device: str) -> dict[str, Any]:
    """Return the checkpoint of a run."""
    path = run / "checkpoint.pt"
    if not path.is_file():
        raise RunError(f"{run}: no checkpoint.pt")
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log; a last line cut short by a crash is left out."""
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
