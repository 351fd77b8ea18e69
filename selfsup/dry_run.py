"""A look at a run before it is started: what it is, what it needs, and that it works."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from selfsup.config import Config
from selfsup.data import TensorImages, load_data
from selfsup.label_report import Clock
from selfsup.models import parameter_count
from selfsup.seeds import Stream, generator_of
from selfsup.sela import Labels, label_step
from selfsup.train import build_optimiser, gradient_step, new_network, new_scaler
from selfsup.world import World

#: Training images of the data sets.
SIZES = {
    "digits": 1437,
    "fashion-mnist": 60_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "svhn": 73_257,
    "imagenet": 1_281_167,
}
ASSUMED = 100_000
GREY = ("digits", "fashion-mnist")
IMAGES, BATCH, STEPS = 512, 8, 2


def dry_run(config: Config, device: str) -> None:
    """Build everything, take two small steps and one small label update; print what was seen."""
    n, source = _images_of(config)
    print(json.dumps(dataclasses.asdict(config), indent=2))
    batch = min(BATCH, config.batch_size)
    small = dataclasses.replace(
        config,
        batch_size=batch,
        accumulate=1,
        labelling="equipartition" if config.labelling == "fixed" else config.labelling,
        labels_file=None,
        heads_per_update="all",
    )
    images = generated(config)
    network = new_network(small, images, device)
    trunk, total = parameter_count(network.trunk), parameter_count(network)
    print(
        f"\n{config.arch}: {total:,} parameters, {trunk:,} of them in the trunk; "
        f"{network.dim} features; heads: {_heads(config)}"
    )

    labels = Labels.at_random(IMAGES, small)
    optimiser = build_optimiser(small, network)
    scaler = new_scaler(small, torch.device(device))
    losses, seconds, held = [], [], 0
    network.train()
    for step in range(STEPS):
        index = torch.arange(step * batch, (step + 1) * batch)
        (views,) = images.views(
            [index], config.augment, config.image_size, seeds=[step], device=device
        )
        y = labels.labels[:, index].to(device)
        began = time.perf_counter()
        with _counting(network) as outputs:
            loss = gradient_step(network, optimiser, scaler, views, y, small)
        losses.append(float(loss))
        seconds.append(time.perf_counter() - began)
        held = sum(outputs)
    began = time.perf_counter()
    optimiser.step()  # costs the same for a batch of any size
    per_step = time.perf_counter() - began
    per_image = max(min(seconds) - per_step, 1e-9) / batch
    print(f"reduced: {STEPS} steps on {batch} generated images each: losses "
          + ", ".join(f"{loss:.4f}" for loss in losses)
          + f" (ln K = {config.ln_k:.4f})")  # fmt: skip

    shares = {"forward": 0.0, "logits": 0.0, "transport": 0.0}
    if config.clusters:
        clock = Clock(torch.device(device))
        with clock("relabel"):
            new, report = label_step(network, images, small, labels, 0, World())
        shares = report.seconds
        for head, k in enumerate(config.clusters[:3]):
            sizes = torch.bincount(new.labels[head], minlength=k)
            print(f"reduced: label update of {IMAGES} generated images, head {head}: {k} classes, "
                  f"{int((sizes > 0).sum())} in use, sizes {int(sizes.min())} to "
                  f"{int(sizes.max())}; violation {report.heads[head].violation:.1e}")  # fmt: skip
        if len(config.clusters) > 3:
            print(f"reduced: ... and {len(config.clusters) - 3} more heads")

    print(f"\nthe full run: {source}")
    print(_memory(config, n, total, network.dim, held / batch))
    print(_time(config, n, per_image, per_step, {k: s / IMAGES for k, s in shares.items()}))
    print("This was a dry run: nothing was trained or written.")


def generated(config: Config) -> TensorImages:
    """Return noise in the shape of the data set's images at the size of the network's input."""
    channels = 1 if config.dataset in GREY else 3
    shape = (IMAGES, channels, config.image_size, config.image_size)
    noise = torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=generator_of(config.seed, Stream.VIEWS)
    )
    names = tuple(f"generated/{i:03d}" for i in range(IMAGES))
    return TensorImages(noise, torch.full((IMAGES,), -1), (), names)


def _images_of(config: Config) -> tuple[int, str]:
    if config.dataset in SIZES:
        n = SIZES[config.dataset]
        return n, f"{n:,} images of {config.dataset}"
    if config.data is not None:
        n = len(load_data(dataclasses.replace(config, in_memory=False)).train)
        return n, f"{n:,} images in {config.data}"
    return ASSUMED, f"{ASSUMED:,} images assumed, as no --data was given"


def _heads(config: Config) -> str:
    counts = [f"{config.clusters.count(k)} x {k:,}" for k in sorted(set(config.clusters))]
    return ", ".join(counts + ["4 quarter turns"] * config.rotation)


@contextmanager
def _counting(network: nn.Module) -> Iterator[list[int]]:
    """Count the bytes that the layers of a forward pass leave for the backward pass."""
    held: list[int] = []

    def count(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            held.append(output.numel() * output.element_size())

    leaves = [m for m in network.modules() if not list(m.children())]
    hooks = [m.register_forward_hook(count) for m in leaves]
    yield held
    for hook in hooks:
        hook.remove()


def _memory(config: Config, n: int, parameters: int, dim: int, per_image: float) -> str:
    gigabyte = 1e9
    batch = config.batch_size / config.accumulate
    side = config.image_size if config.dataset in (*GREY, "folder") else 32
    k = max(config.clusters, default=0)
    parts = {
        "weights, gradients, momenta": 12 * parameters,
        f"activations of {batch:.0f} images": per_image * batch,
        "features of the label pass": 4 * n * dim * bool(k),
        f"logits of one head (N x {k:,})": 4 * n * k,
        "sketch of the solver": min(4 * n * k // 4, 134_000_000),
        "labels": 16 * n * len(config.clusters),
        "decoded images": n * (1 if config.dataset in GREY else 3) * side**2 * config.in_memory,
    }
    text = "; ".join(f"{name} {size / gigabyte:.2f}" for name, size in parts.items() if size)
    return (
        f"memory, estimated: {sum(parts.values()) / gigabyte:.1f} GB in one process ({text}); "
        "with several processes the label pass and the activations are divided among them"
    )


def _time(
    config: Config, n: int, per_image: float, per_step: float, label: dict[str, float]
) -> str:
    hours = 3600
    updates = config.updates if config.labelling not in ("fixed", "none") else 0
    turn = len(config.clusters) if config.heads_per_update == "one" else 1
    steps = config.epochs * n * (per_image + per_step / config.batch_size)
    forward = updates * n * label["forward"] * config.label_views * config.head_groups
    solves = updates * n * (label["logits"] + label["transport"]) / max(turn, 1)
    whole = steps + forward + solves
    return (
        f"time, scaled from these few steps on this machine: {whole / hours:,.1f} hours "
        f"({steps / hours:,.1f} training at {config.epochs * n / steps:,.0f} images/s, "
        f"{forward / hours:,.1f} network in {updates} label updates, "
        f"{solves / hours:,.1f} logits and transport; "
        "loading images is not in it)"
    )
