"""A look at a run before it is started: what it is, what it needs, and that it works."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from selfsup.config import Config
from selfsup.data import TensorImages
from selfsup.data.folders import all_images
from selfsup.training.fit import Trainer
from selfsup.training.label_pass import fit_clusters, label_step
from selfsup.training.processes import check_device

#: Training images of the data sets; and so many are assumed where no --data was given.
SIZES = {
    "digits": 1437, "fashion-mnist": 60_000, "cifar10": 50_000, "cifar100": 50_000, "svhn": 73_257,
    "imagenet": 1_281_167, "folder": 100_000,
}  # fmt: skip
IMAGES, BATCH, STEPS = 256, 8, 2


def dry_run(config: Config) -> None:
    """Print a run's settings; try it on noise, with small batches; print what all of it needs."""
    data, n = config.data, SIZES[config.data.dataset]
    if data.dataset == "folder" and data.data is not None:
        n = len(all_images(Path(data.data))[0])  # none is decoded
    channels = 1 if data.dataset in ("digits", "fashion-mnist") else 3
    reduced = config.but(
        batch_size=min(BATCH, config.optimiser.batch_size), accumulate=1, heads_per_update="all",
        clusters=fit_clusters(config.labels, n),
    )  # fmt: skip
    if config.labels.labelling == "fixed":
        reduced = reduced.but(labelling="equipartition", labels_file=None)
    shape = (IMAGES, channels, data.image_size, data.image_size)
    noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator())
    images = TensorImages(noise, torch.full((IMAGES,), -1), (), ("generated",) * IMAGES)
    trainer = Trainer(reduced, images, None, device=check_device(config.run.device))
    clusters, network = reduced.labels.clusters, trainer.network
    heads = [f"{clusters.count(k)} x {k:,}" for k in sorted(set(clusters))]
    heads += ["4 quarter turns"] * config.model.rotation
    print(f"{config.to_json()}\n{config.model.arch}: {_parameters(network):,} parameters, "
          f"{_parameters(network.trunk):,} of them in the trunk; {network.dim} features; "
          f"heads: {', '.join(heads)}")  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        label, step, kept = _tried(trainer, config.optimiser.batch_size)
    assumed = " assumed, as no --data was given" * (data.dataset == "folder" and not data.data)
    side = data.image_size if data.dataset == "folder" or channels == 1 else 32
    decoded = n * channels * side**2 * data.in_memory
    print(f"\nthe full run: {n:,} images of {data.dataset}{assumed}")
    print(_memory(config, n, trainer, kept, decoded))
    print(_time(config, n, step, label))
    print("This was a dry run: nothing was trained or written.")


def _tried(trainer: Trainer, full: int) -> tuple[dict[str, float], float, float]:
    """Return the seconds of a label update, and of an image in `full` batches with its bytes."""
    seconds, batch, held, label = [], trainer.batch_size, 0, {}

    def count(module: nn.Module, _: object, output: object) -> None:
        nonlocal held
        if isinstance(output, Tensor) and not list(module.children()):
            held += output.nbytes

    if trainer.labels.clusters:
        report = label_step(
            trainer.config, trainer.network, trainer.images, trainer.labels, trainer.world
        )
        label, heads = report.seconds, report.heads
        print(f"reduced: label update of {IMAGES} generated images: sizes "
              f"{min(h.size_min for h in heads)} to {max(h.size_max for h in heads)}; "
              f"violation {max(h.violation for h in heads):.1e}")  # fmt: skip
    batches = torch.arange(STEPS * batch).view(STEPS, batch).unbind()
    views = trainer.images.views(
        batches, trainer.config.optimiser.augment, trainer.config.data.image_size,
        seeds=range(STEPS), device=trainer.device,
    )  # fmt: skip
    with register_module_forward_hook(count):
        for index, x in zip(batches, views, strict=True):
            began = time.perf_counter()
            trainer.train_step(x, index)
            loss = float(trainer.loss) / trainer.step  # waits for a GPU
            seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    trainer.optimiser.step()  # costs the same for a batch of any size
    fixed = time.perf_counter() - began
    print(f"reduced: {STEPS} steps on {batch} generated images each: loss {loss:.4f} "
          f"(ln K = {trainer.config.ln_k:.4f})")  # fmt: skip
    per_image = max(min(seconds) - fixed, 1e-9) / batch + fixed / full
    return label, per_image, held / (STEPS * batch)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _memory(config: Config, n: int, trainer: Trainer, kept: float, decoded: int) -> str:
    batch = config.optimiser.batch_size // config.optimiser.accumulate
    k, features = max(trainer.labels.clusters, default=0), 4 * n * trainer.network.dim
    parts = {
        "weights, gradients, momenta": 12 * _parameters(trainer.network),
        f"activations of {batch} images": kept * batch,
        f"features of the label pass ({config.labels.features_in})": features * bool(k),
        f"logits of one head (N x {k:,})": 4 * n * k,
        "kept entries of the solver": min(4 * n * k // 8, 134_000_000),
        "labels": 16 * n * len(config.labels.clusters),
        "decoded images": decoded,
    }
    text = "; ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items() if size)
    return (
        f"memory, estimated: {sum(parts.values()) / 1e9:.1f} GB in one process ({text}); "
        "with several processes the label pass and the activations are divided among them"
    )


def _time(config: Config, n: int, step: float, label: dict[str, float]) -> str:
    labels = config.labels
    updates = labels.updates * (labels.labelling not in ("fixed", "none"))
    hours = {part: updates * n / IMAGES * spent / 3600 for part, spent in label.items()}
    trained, forward = config.optimiser.epochs * n * step / 3600, hours.get("forward", 0.0)
    solves = hours.get("logits", 0.0) + hours.get("transport", 0.0)
    solves /= len(labels.clusters) if labels.heads_per_update == "one" else 1
    return (
        f"time, scaled from these few steps on this machine: {trained + forward + solves:,.1f} "
        f"hours ({trained:,.1f} training at {1 / step:,.0f} images/s, {forward:,.1f} network in "
        f"{updates} label updates, {solves:,.1f} logits and transport; loading images is not in it)"
    )
