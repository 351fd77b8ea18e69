"""Training: the loop around the method, resumable at every step."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from selfsup.config import Config, ConfigError
from selfsup.data import ImageSet
from selfsup.label_report import Clock
from selfsup.labels import fixed_labels
from selfsup.models import Network, build_network
from selfsup.monitor import Monitor
from selfsup.runs import (
    VERSION,
    RunError,
    check_images,
    checkpoints,
    cut_log,
    fingerprint,
    load_checkpoint,
    locked,
    save_checkpoint,
    save_labels,
)
from selfsup.seeds import Stream, generator_of, seed_of
from selfsup.sela import (
    Labels,
    autocast,
    label_batch,
    label_step,
    objective,
    quarter_turns,
    update_times,
)
from selfsup.world import World

CALIBRATION_IMAGES = 2000


def new_network(
    config: Config, images: ImageSet, device: str = "cpu", *, calibrated: bool = True
) -> Network:
    """Return the network of `config`; equal settings and images give equal weights.

    Its batch statistics are measured on evenly spaced images, as the first labels come from the
    untrained network in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, Stream.WEIGHTS))
        network = build_network(config, *images.statistics())
    network.to(device)
    if calibrated:
        some = torch.arange(0, len(images), max(1, len(images) // CALIBRATION_IMAGES))
        batches = list(torch.split(some, label_batch(config)))
        network.calibrate(
            images.views(
                batches,
                config.label_augment,
                config.image_size,
                seeds=[seed_of(config.seed, Stream.WEIGHTS, i) for i in range(len(batches))],
                device=device,
            )
        )
    return network


def build_optimiser(config: Config, network: nn.Module) -> torch.optim.SGD:
    """Return SGD as `config` says."""
    return torch.optim.SGD(
        network.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )


def new_scaler(config: Config, device: torch.device) -> torch.amp.GradScaler:
    """Return what keeps gradients in float16 from underflowing; idle otherwise."""
    return torch.amp.GradScaler(device.type, enabled=config.precision == "float16")


def learning_rate(config: Config, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step.

    A step schedule falls to a tenth before each of ``config.lr_drops``. A cosine is half a wave
    down to zero, after a short linear rise.
    """
    if config.lr_schedule == "step":
        epoch = step // steps_per_epoch
        return float(config.lr * 0.1 ** sum(epoch >= drop for drop in config.lr_drops))
    steps = config.epochs * steps_per_epoch
    warmup = max(1, steps // 50)
    wave = 0.5 * (1 + math.cos(math.pi * step / steps))
    return config.lr * min(1.0, (step + 1) / warmup) * wave


def gradient_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    views: Tensor,
    labels: Tensor,
    config: Config,
) -> Tensor:
    """Take one SGD step on (B, C, S, S) views with (heads, B) labels; return the loss."""
    total = torch.zeros((), dtype=torch.float64, device=views.device)
    optimiser.zero_grad(set_to_none=True)
    parts = zip(
        torch.chunk(views, config.accumulate),
        torch.chunk(labels, config.accumulate, 1),
        strict=True,
    )
    for i, (x, y) in enumerate(parts):
        last = i == config.accumulate - 1
        silent = isinstance(model, DistributedDataParallel) and not last
        with model.no_sync() if silent else nullcontext():  # type: ignore[operator]
            with autocast(config, views.device):
                outputs = model(quarter_turns(x), rotated=True) if config.rotation else model(x)
                loss = objective(outputs, y, rotated=config.rotation) / config.accumulate
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    scaler.step(optimiser)
    scaler.update()
    return total


@dataclass
class Position:
    """Where a run is: with the settings' seed it fixes every random number to come."""

    step: int = 0
    updates: int = 0


class Trainer:
    """One training, from a fresh network or from a checkpoint.

    Random numbers are functions of the seed and the step. So weights, momenta, loss scale, labels,
    potentials, the position, and what the epoch's log line adds up, are all there is to save: a
    resumed run ends in the same bits as one never interrupted (on a CPU, with the same numbers of
    threads and processes).
    """

    def __init__(
        self,
        config: Config,
        images: ImageSet,
        run: Path,
        world: World | None = None,
        device: str | None = None,
    ) -> None:
        self.config, self.images, self.run = config, images, run
        self.world = World() if world is None else world
        self.device = torch.device(config.device if device is None else device)
        fresh = not checkpoints(run)  # asked before the processes meet: then the first one writes
        self.batch_size = min(config.batch_size, len(images))
        if self.batch_size % (self.world.size * config.accumulate):
            raise ConfigError(
                f"batches of {self.batch_size} images cannot be cut into {config.accumulate} equal "
                f"parts (accumulate) for each of {self.world.size} processes"
            )
        self.steps_per_epoch = len(images) // self.batch_size
        self.steps = config.epochs * self.steps_per_epoch
        self.times = []
        if config.labelling not in ("fixed", "none"):
            self.times = update_times(
                self.steps * self.batch_size, config.updates, config.schedule_power
            )
        self.network = new_network(config, images, str(self.device), calibrated=self.world.first)
        self.model: nn.Module = self.network
        if self.world.group is not None:  # also takes the first process's weights and statistics
            gpu = self.device.type == "cuda"
            self.model = DistributedDataParallel(
                self.network,
                device_ids=[self.device] if gpu else None,
                # Otherwise gradients are put into other buckets after the first step, and added in
                # another order: a resumed run would differ in bits.
                find_unused_parameters=not gpu,
            )
        self.optimiser = build_optimiser(config, self.network)
        self.scaler = new_scaler(config, self.device)
        self.labels = Labels.at_random(len(images), config)
        if config.labelling == "k-means" and max(config.clusters) > len(images):
            raise ConfigError(f"k-means finds no {max(config.clusters)} clusters in {len(images)} "
                              "images")  # fmt: skip
        if config.labelling == "fixed" and fresh:
            self.labels = fixed_labels(config, images)
        self.at = Position()
        # of the epoch's steps so far, over all processes
        self.loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.clock = Clock(torch.device("cpu"))
        self.saved: float | None = None

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.at.step // self.steps_per_epoch

    def fit(self) -> None:
        """Train to the last epoch."""
        with locked(self.run) if self.world.first else nullcontext():
            if self.world.first and checkpoints(self.run):
                save_labels(self.run, self.labels.labels)  # it may have been killed before that
            if self.at.step < self.steps:
                self._fit()

    def _fit(self) -> None:
        if self.world.first:
            cut_log(self.run, self.epoch, self.at.updates)
        with Monitor(self) as monitor:
            if self.saved is None:
                self.save()
            while self.at.step < self.steps:
                self.train_epoch(monitor)
                if self.at.step == self.steps:
                    self.relabel_if_due(monitor)
                monitor.epoch()
                self.loss.zero_()
                self.clock.seconds.clear()
                self.save()

    def train_epoch(self, monitor: Monitor) -> None:
        """Train for one epoch, or for what is left of one."""
        config, world = self.config, self.world
        first, epoch = self.at.step, self.epoch
        order = torch.randperm(
            len(self.images), generator=generator_of(config.seed, Stream.ORDER, epoch)
        )
        batches = order[: self.steps_per_epoch * self.batch_size].view(-1, self.batch_size)
        mine = list(batches[first - epoch * self.steps_per_epoch :, world.rank :: world.size])
        views = self.images.views(
            mine,
            config.augment,
            config.image_size,
            seeds=[
                seed_of(config.seed, Stream.VIEWS, first + i, world.rank) for i in range(len(mine))
            ],
            device=self.device,
        )
        for index in monitor.steps(mine):
            self.relabel_if_due(monitor)
            with self.clock("loader"):
                x = next(views)
            with self.clock("network"):
                self.train_step(x, index)
            if self.at.step % self.steps_per_epoch and self._overdue() and not self.diverged:
                self.save()
        self.refuse_divergence()

    def train_step(self, views: Tensor, index: Tensor) -> None:
        """Take a step on the views of the images at `index`."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config, self.at.step, self.steps_per_epoch)
        torch.manual_seed(  # dropout draws from the global generator
            seed_of(self.config.seed, Stream.DROPOUT, self.at.step, self.world.rank)
        )
        labels = self.labels.labels[:, index].to(self.device, non_blocking=True)
        self.model.train()
        loss = gradient_step(self.model, self.optimiser, self.scaler, views, labels, self.config)
        self.loss += self.world.sum(loss) / self.world.size
        self.at.step += 1

    def relabel_if_due(self, monitor: Monitor) -> None:
        """Take a label step when the schedule says so; at most one per iteration."""
        if self.at.updates == len(self.times):
            return
        if self.at.step * self.batch_size < self.times[self.at.updates] - 1e-6:
            return
        self.refuse_divergence()
        with self.clock("relabel"):
            self.world.agree(self.network)
            self.labels, report = label_step(
                self.network, self.images, self.config, self.labels, self.at.updates, self.world
            )
        for part, seconds in report.seconds.items():
            self.clock.seconds[part] = self.clock.seconds.get(part, 0.0) + seconds
        self.at.updates += 1
        monitor.update(report)

    def state(self) -> dict[str, Any]:
        """Return all that a checkpoint holds, as tensors and plain values."""
        return {
            "version": VERSION,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "labels": self.labels.labels,
            "potentials": list(self.labels.potentials),
            "centroids": list(self.labels.centroids),
            "step": self.at.step,
            "updates": self.at.updates,
            "loss": self.loss,
            "images": fingerprint(self.images.paths),
            "processes": self.world.size,
            "seconds": dict(self.clock.seconds),
        }

    def save(self) -> None:
        """Write a checkpoint."""
        self.saved = time.monotonic()
        if self.world.first:
            steps = self.at.step - self.epoch * self.steps_per_epoch
            save_checkpoint(self.run, self.config, self.state(), self.epoch, steps)

    def load(self) -> None:
        """Go on from the run's newest checkpoint; from the start, if none was written yet."""
        if not checkpoints(self.run):
            return
        state = load_checkpoint(self.run, str(self.device))
        check_images(self.run, state["images"], self.images.paths)
        if state["processes"] != self.world.size:
            raise RunError(
                f"{self.run} was trained by {state['processes']} processes, these are "
                f"{self.world.size}: batch statistics, and so results, would differ. Start "
                f"torchrun with --nproc-per-node for {state['processes']} processes in all"
            )
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.labels = Labels(
            state["labels"].cpu(),
            tuple(None if g is None else g.cpu() for g in state["potentials"]),
            tuple(None if c is None else c.cpu() for c in state["centroids"]),
        )
        self.at = Position(state["step"], state["updates"])
        self.loss = state["loss"].to(self.device)
        self.clock.seconds = dict(state["seconds"])
        self.saved = time.monotonic()

    @property
    def diverged(self) -> bool:
        """Whether loss or weights are no numbers any more; the same in all processes."""
        numbers = (self.loss, *self.network.parameters())
        return not all(bool(x.isfinite().all()) for x in numbers)

    def refuse_divergence(self) -> None:
        """Stop a run that has diverged, in all processes, while its checkpoints are still good."""
        if self.diverged:
            raise RunError(
                f"loss or weights are not finite after step {self.at.step} of {self.steps}: "
                f"training has diverged. The checkpoints of {self.run} are from before; start anew "
                "with a smaller --lr"
            )

    def _overdue(self) -> bool:
        since = time.monotonic() - (self.saved or 0.0)
        return self.world.first and since > 60 * self.config.checkpoint_minutes
