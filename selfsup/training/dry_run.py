"""A look at a run before it is started: what it is, what it needs, and that it works."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from selfsup.config import Config
from selfsup.data import ImageSet, TensorImages
from selfsup.data.folders import all_images
from selfsup.training.fit import Trainer
from selfsup.training.label_pass import label_step

#: Training images of the data sets; and so many are assumed where no --data was given.
SIZES = {
    "digits": 1437, "fashion-mnist": 60_000, "cifar10": 50_000, "cifar100": 50_000, "svhn": 73_257,
    "imagenet": 1_281_167, "folder": 100_000,
}  # fmt: skip
IMAGES, BATCH, STEPS = 256, 8, 2


@dataclass(frozen=True)
class DryRun:
    """A run that is tried in small: on generated images, with small batches."""

    full: Config
    n: int
    channels: int

    @classmethod
    def of(cls, config: Config) -> DryRun:
        """Look how many images there are; none is decoded."""
        data, n = config.data, SIZES[config.data.dataset]
        if data.dataset == "folder" and data.data is not None:
            n = len(all_images(Path(data.data))[0])
        return cls(config, n, 1 if data.dataset in ("digits", "fashion-mnist") else 3)

    @property
    def reduced(self) -> Config:
        """Return settings that two cores can try; labels do not come from files."""
        labelling = self.full.labels.labelling
        return self.full.but(
            batch_size=min(BATCH, self.full.optimiser.batch_size), accumulate=1,
            clusters=tuple(k or min(128, self.n // 20) for k in self.full.labels.clusters),
            labelling="equipartition" if labelling == "fixed" else labelling, labels_file=None,
            heads_per_update="all",
        )  # fmt: skip

    @property
    def images(self) -> ImageSet:
        """Return noise in the shape of the images at the size of the network's input."""
        side = self.full.data.image_size
        shape = (IMAGES, self.channels, side, side)
        noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator())
        return TensorImages(noise, torch.full((IMAGES,), -1), (), ("generated",) * IMAGES)

    def print(self, trainer: Trainer) -> None:
        """Try a label update and two steps; print what they and the full run need."""
        clusters = trainer.config.labels.clusters
        total, trunk = (sum(p.numel() for p in part.parameters())
                        for part in (trainer.network, trainer.network.trunk))  # fmt: skip
        heads = [f"{clusters.count(k)} x {k:,}" for k in sorted(set(clusters))]
        heads += ["4 quarter turns"] * trainer.config.model.rotation
        dim = trainer.network.dim
        print(f"{self.full.to_json()}\n{self.full.model.arch}: {total:,} parameters, {trunk:,} of "
              f"them in the trunk; {dim} features; heads: {', '.join(heads)}")  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            label = _try_update(trainer) if clusters else {}
            seconds, kept = _try_steps(trainer)
        data = self.full.data
        assumed = " assumed, as no --data was given" * (data.dataset == "folder" and not data.data)
        print(f"\nthe full run: {self.n:,} images of {data.dataset}{assumed}")
        print(self._memory(total, dim, max(clusters, default=0), kept))
        print(self._time(seconds, label))
        print("This was a dry run: nothing was trained or written.")

    def _memory(self, parameters: int, dim: int, k: int, kept: float) -> str:
        config, n = self.full, self.n
        batch = config.optimiser.batch_size / config.optimiser.accumulate
        shown = config.data.dataset == "folder" or self.channels == 1
        side = config.data.image_size if shown else 32
        parts = {
            "weights, gradients, momenta": 12 * parameters,
            f"activations of {batch:.0f} images": kept * batch,
            f"features of the label pass ({config.labels.features_in})": 4 * n * dim * bool(k),
            f"logits of one head (N x {k:,})": 4 * n * k,
            "kept entries of the solver": min(4 * n * k // 8, 134_000_000),
            "labels": 16 * n * len(config.labels.clusters),
            "decoded images": n * self.channels * side**2 * config.data.in_memory,
        }
        text = "; ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items() if size)
        return (
            f"memory, estimated: {sum(parts.values()) / 1e9:.1f} GB in one process ({text}); "
            "with several processes the label pass and the activations are divided among them"
        )

    def _time(self, step: float, label: dict[str, float]) -> str:
        labels, images = self.full.labels, self.full.optimiser.epochs * self.n
        updates = labels.updates if labels.labelling not in ("fixed", "none") else 0
        heads = max(len(labels.clusters), 1) if labels.heads_per_update == "one" else 1
        scale = updates * self.n / IMAGES / 3600
        forward = scale * label.get("forward", 0.0)
        solves = scale * sum(label.get(part, 0.0) for part in ("logits", "transport")) / heads
        trained = images * step / 3600
        return (
            "time, scaled from these few steps on this machine: "
            f"{trained + forward + solves:,.1f} hours ({trained:,.1f} training at "
            f"{1 / step:,.0f} images/s, {forward:,.1f} network in {updates} label updates, "
            f"{solves:,.1f} logits and transport; loading images is not in it)"
        )


def _try_update(trainer: Trainer) -> dict[str, float]:
    """Return the seconds of each part of a label update."""
    labels, world = trainer.labels, trainer.world
    report = label_step(trainer.network, trainer.images, labels, trainer.show, world)
    for head in report.heads[:3]:
        print(f"reduced: label update of {IMAGES} generated images, head {head.head}: sizes "
              f"{head.size_min} to {head.size_max}; violation {head.violation:.1e}")  # fmt: skip
    if len(report.heads) > 3:
        print(f"reduced: ... and {len(report.heads) - 3} more heads")
    return report.seconds


def _try_steps(trainer: Trainer) -> tuple[float, float]:
    """Return the seconds of training an image, and the bytes kept for the backward pass."""
    held, seconds, batch = [0], [], trainer.batch_size

    def count(_: object, __: object, output: object) -> None:
        held[0] += output.numel() * output.element_size() if isinstance(output, Tensor) else 0

    leaves = [module for module in trainer.network.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(count) for module in leaves]
    for step in range(STEPS):
        index = torch.arange(step * batch, (step + 1) * batch)
        augment, size = trainer.config.optimiser.augment, trainer.show.size
        (x,) = trainer.images.views([index], augment, size, seeds=[step], device=trainer.device)
        began = time.perf_counter()
        trainer.train_step(x, index)
        loss = float(trainer.loss) / (step + 1)  # waits for a GPU
        seconds.append(time.perf_counter() - began)
    for hook in hooks:
        hook.remove()
    began = time.perf_counter()
    trainer.optimiser.step()  # costs the same for a batch of any size
    fixed = time.perf_counter() - began
    per_image = max(min(seconds) - fixed, 1e-9) / batch
    print(f"reduced: {STEPS} steps on {batch} generated images each: loss {loss:.4f} "
          f"(ln K = {trainer.config.ln_k:.4f})")  # fmt: skip
    return per_image + fixed / batch, held[0] / (STEPS * batch)
