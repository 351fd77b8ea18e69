"""Training: the loop around the method, resumable at every step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from selfsup.config import ARCHS, Config
from selfsup.data import ImageSet, TensorImages
from selfsup.errors import ConfigError, RunError
from selfsup.models import Network, build_network, load_weights
from selfsup.seeds import Stream, generator_of, seed_of, seeded
from selfsup.sela import SelfLabels
from selfsup.training.checkpoints import (
    VERSION,
    check_images,
    checkpoints,
    cut_log,
    fingerprint,
    fixed_labels,
    load_checkpoint,
    locked,
    save_checkpoint,
    save_labels,
)  # fmt: skip
from selfsup.training.label_pass import Clock, batch_of, label_step, new_labels
from selfsup.training.monitor import Monitor, knn_accuracy
from selfsup.training.processes import World
from selfsup.training.step import build_optimiser, gradient_step, learning_rate, new_scaler

CALIBRATION_IMAGES = 2000
#: Batch normalisation of fewer images a process is told about.
SMALL_BATCH = 16
#: A loss so many times that of guessing is no training any more.
LOST = 100.0
#: What of a trainer has a state of its own, in a checkpoint under these names.
PARTS = ("network", "optimiser", "scaler", "labels")


def new_network(
    config: Config, images: ImageSet, device: str | torch.device = "cpu", *,
    calibrated: bool = True, trunk: nn.Module | None = None,
) -> Network:  # fmt: skip
    """Return the network of `config`; equal settings and images give equal weights.

    Batch statistics of a network of ours, unless it is loaded, are measured on evenly spaced
    images, as the first labels come from the untrained network in evaluation mode.
    """
    with seeded(seed_of(config.run.seed, Stream.WEIGHTS)):
        network = build_network(
            config.model, config.labels.clusters, *images.statistics(),
            config.data.image_size, trunk,
        )  # fmt: skip
    if config.model.init is not None:
        source = Path(config.model.init)
        load_weights(network, checkpoints(source)[-1] if checkpoints(source) else source)
    network.to(device)
    if calibrated and config.model.init is None and config.model.arch in ARCHS:
        augment, size = config.label_augment, config.data.image_size
        some = torch.arange(0, len(images), max(1, len(images) // CALIBRATION_IMAGES))
        batches = list(torch.split(some, batch_of(size)))
        seeds = [seed_of(config.run.seed, Stream.WEIGHTS, i) for i in range(len(batches))]
        views = images.views(batches, augment, size, seeds=seeds, device=device)
        network.calibrate(views)
    return network


class Trainer:
    """One training, from a fresh network or from a checkpoint.

    Random numbers are functions of the seed and the step. So weights, momenta, loss scale, labels,
    potentials, the position, and what the epoch's log line adds up, are all there is to save: a
    resumed run ends in the same bits as one never interrupted (on a CPU, with the same numbers of
    threads and processes).

    Images in memory are kept on the device. Nothing is written without a `run`. Instead of what
    `config` names, a `trunk` of one's own can be trained, or a whole `network`, of which those
    parameters learn that require gradients; and `labels` that stay as they are, with their loss.
    """

    def __init__(
        self, config: Config, images: ImageSet, run: Path | None, world: World | None = None,
        device: str = "cpu", trunk: nn.Module | None = None,
        labels: SelfLabels | None = None, network: Network | None = None,
    ) -> None:  # fmt: skip
        self.config, self.run = config, run
        self.world, self.device = world or World(), torch.device(device)
        on_gpu = isinstance(images, TensorImages) and self.device.type == "cuda"
        self.images = images.to(self.device) if on_gpu else images  # type: ignore[union-attr]
        fresh = run is None or not checkpoints(run)  # asked before the processes meet
        self.batch_size = self._batch_size()
        self.steps_per_epoch = len(images) // self.batch_size
        self.steps = config.optimiser.epochs * self.steps_per_epoch
        self.network = network or new_network(
            config, self.images, device, calibrated=self.world.first, trunk=trunk
        )
        self.model = self._parallel()
        self.optimiser = build_optimiser(config.optimiser, self.network)
        self.scaler = new_scaler(config.optimiser, self.device)
        total = self.steps * self.batch_size
        self.labels = labels or new_labels(
            config.labels, len(images), config.run.seed, total, self.world
        )
        if labels is None and config.labels.labelling == "fixed" and fresh:
            self.labels.labels = fixed_labels(config.labels, images)
        self.step, self.saved = 0, -math.inf  # when, in seconds
        # of the epoch's steps so far, over all processes
        self.loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.clock = Clock(torch.device("cpu"))
        self.probe: Tensor | None = None

    def _batch_size(self) -> int:
        batch, parts = min(self.config.optimiser.batch_size, len(self.images)), self.world.size
        parts *= self.config.optimiser.accumulate
        if len(self.images) < self.config.optimiser.batch_size:
            batch -= batch % parts  # of few images all, but for what cannot be shared
        if batch < 2 * parts or batch % parts:
            raise ConfigError(
                f"batches of {batch} images cannot be cut into {self.config.optimiser.accumulate} "
                f"equal parts (accumulate) of 2 or more for each of {self.world.size} processes: "
                f"--batch-size must be {2 * parts} or a multiple of {parts} above it"
            )
        return batch

    def _parallel(self) -> nn.Module:
        """Wrap the network for several processes; it also takes the first one's weights."""
        network = self.network
        if self.world.group is None:
            return network
        gpu, each = self.device.type == "cuda", self.batch_size // self.world.size
        if self.config.model.sync_batch_norm:
            if not gpu:
                raise ConfigError("sync_batch_norm needs GPUs: torch has it for them alone")
            network.trunk = nn.SyncBatchNorm.convert_sync_batchnorm(network.trunk)  # type: ignore[no-untyped-call]
        elif each < SMALL_BATCH and self.world.first:
            print(f"note: batch normalisation sees {each} images in each process; larger batches "
                  "or, on GPUs, --sync-batch-norm make its statistics better")  # fmt: skip
        return DistributedDataParallel(
            network,
            device_ids=[self.device] if gpu else None,
            # Otherwise gradients are put into other buckets after the first step, and added in
            # another order: a resumed run would differ in bits.
            find_unused_parameters=not gpu,
        )

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // self.steps_per_epoch

    def fit(self, after_epoch: Callable[[], None] | None = None) -> None:
        """Train to the last epoch; call a function after each."""
        run = self.run if self.world.first else None
        with locked(run) if run is not None else nullcontext():
            if run is not None and checkpoints(run):
                save_labels(run, self.labels.labels)  # it may have been killed before that
            if self.step == self.steps:
                return
            if run is not None:
                cut_log(run, self.epoch, self.labels.updates)
            if self.saved < 0:
                self.save()
            clusters, epochs = self.config.labels.clusters, self.config.optimiser.epochs
            with closing(Monitor(run, clusters, epochs, self.step)) as monitor:
                while self.step < self.steps:
                    self.train_epoch(monitor)
                    self.end_epoch(monitor)
                    if after_epoch is not None:
                        after_epoch()

    def train_epoch(self, monitor: Monitor) -> None:
        """Train for one epoch, or for what is left of one."""
        seed, world = self.config.run.seed, self.world
        first, epoch = self.step, self.epoch
        order = torch.randperm(len(self.images), generator=generator_of(seed, Stream.ORDER, epoch))
        batches = order[: self.steps_per_epoch * self.batch_size].view(-1, self.batch_size)
        mine = list(batches[first % self.steps_per_epoch :, world.rank :: world.size])
        augment, size = self.config.optimiser.augment, self.config.data.image_size
        seeds = [seed_of(seed, Stream.VIEWS, first + i, world.rank) for i in range(len(mine))]
        views = self.images.views(mine, augment, size, seeds=seeds, device=self.device)
        hidden = None if monitor.run else True  # None: unless there is a terminal
        for index in tqdm(mine, f"epoch {epoch + 1}", leave=False, disable=hidden):
            self.relabel_if_due(monitor)
            with self.clock("loader"):
                x = next(views)
            with self.clock("network"):
                self.train_step(x, index)
            since = time.monotonic() - self.saved
            if self.step % self.steps_per_epoch and since > 60 * self.config.run.checkpoint_minutes:
                self.save()
        for _ in views:  # ends it, and leaves its workers for the next epoch
            pass
        if self.step == self.steps:
            self.relabel_if_due(monitor)

    def train_step(self, views: Tensor, index: Tensor) -> None:
        """Take a step on the views of the images at `index`."""
        optimiser = self.config.optimiser
        for group in self.optimiser.param_groups:
            rate = learning_rate(optimiser, self.step, self.steps_per_epoch)
            group["lr"] = group.get("share", 1.0) * rate  # runs of before have none
        torch.manual_seed(  # dropout draws from the global generator
            seed_of(self.config.run.seed, Stream.DROPOUT, self.step, self.world.rank)
        )
        self.model.train()
        loss = gradient_step(
            self.model, self.optimiser, self.scaler, views, index, self.labels, optimiser,
            rotation=self.config.model.rotation,
        )  # fmt: skip
        self.loss += self.world.sum(loss) / self.world.size
        self.step += 1
        self.probe = views[:2]

    def relabel_if_due(self, monitor: Monitor) -> None:
        """Take a label step when the schedule says so; at most one per iteration."""
        if not self.labels.due(self.step * self.batch_size):
            return
        self.refuse_divergence()
        self.world.broadcast_buffers(self.network)
        report = label_step(self.config, self.network, self.images, self.labels, self.world)
        for part, seconds in report.seconds.items():
            self.clock.seconds[part] = self.clock.seconds.get(part, 0.0) + seconds
        epoch = self.step / self.steps_per_epoch
        monitor.update(report, self.labels.updates, self.step, epoch)

    def end_epoch(self, monitor: Monitor) -> None:
        """Log and save."""
        self.refuse_divergence()
        line: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.step,
            "loss": float(self.loss) / self.steps_per_epoch,
            "ln_k": self.config.ln_k,
            "lr": self.optimiser.param_groups[0]["lr"],
        }
        if self.world.first:
            with self.clock("watch"):
                line |= knn_accuracy(self.config, self.network, self.images, self.epoch)
        truth = self.images.targets.numpy() if self.images.labelled else None
        images = self.steps_per_epoch * self.batch_size
        monitor.epoch(line, self.clock.seconds, images, self.labels.labels.numpy(), truth)
        self.loss.zero_()
        self.clock.seconds.clear()
        self.save()

    def state(self) -> dict[str, Any]:
        """Return all that a checkpoint holds, as tensors and plain values."""
        return {
            "version": VERSION,
            **{part: getattr(self, part).state_dict() for part in PARTS},
            "step": self.step,
            "batch_size": self.batch_size,
            "steps": self.steps,
            "loss": self.loss,
            "images": fingerprint(self.images.paths),
            "processes": self.world.size,
            "seconds": dict(self.clock.seconds),
        }

    def save(self) -> None:
        """Write a checkpoint."""
        self.saved = time.monotonic()
        if self.world.first and self.run is not None and not self.diverged:
            done = divmod(self.step, self.steps_per_epoch)
            save_checkpoint(self.run, self.config.run, self.state(), *done)

    def load(self, *, processes_may_differ: bool = False) -> None:
        """Go on from the run's newest checkpoint; from the start, if none was written yet."""
        if self.run is None or not checkpoints(self.run):
            return
        state = load_checkpoint(self.run, str(self.device))
        check_images(self.run, state["images"], self.images.paths)
        if state["processes"] != self.world.size and not processes_may_differ:
            raise RunError(
                f"{self.run} was trained by {state['processes']} processes, these are "
                f"{self.world.size}: batch statistics, and so results, would differ. Start "
                f"torchrun with --nproc-per-node for {state['processes']} processes in all, or "
                "accept that with --processes-may-differ"
            )
        if state["batch_size"] != self.batch_size:
            was = state["batch_size"]
            raise RunError(f"{self.run} has batches of {was} images, not {self.batch_size}")
        for part in PARTS:
            getattr(self, part).load_state_dict(state[part])
        self.step, self.saved = state["step"], time.monotonic()
        if state["steps"] != self.steps:  # made longer: moments that have passed are passed over
            passed = sum(time < self.step * self.batch_size - 1e-6 for time in self.labels.times)
            self.labels.updates = max(self.labels.updates, passed)
        self.loss = state["loss"].to(self.device)
        self.clock.seconds = dict(state["seconds"])

    @property
    @torch.no_grad()
    def diverged(self) -> bool:
        """Whether loss, weights or features are no numbers any more, or the loss is absurd."""
        numbers = [self.loss, *self.network.state_dict().values()]
        if self.probe is not None:
            training = self.network.training
            numbers.append(self.network.eval().features(self.probe))
            self.network.train(training)
        absurd = float(self.loss) > LOST * self.steps_per_epoch * max(1.0, self.config.ln_k)
        return absurd or not all(bool(x.isfinite().all()) for x in numbers)

    def refuse_divergence(self) -> None:
        """Stop a run that has diverged, in all processes, while its checkpoints are still good."""
        lost = torch.tensor(float(self.diverged), device=self.device)
        if self.world.sum(lost) > 0:
            raise RunError(
                "loss, weights or features are not finite, or the loss is absurd, after step "
                f"{self.step} of {self.steps}: training has diverged. The checkpoints of "
                f"{self.run} are from before; start anew with a smaller --lr"
            )
