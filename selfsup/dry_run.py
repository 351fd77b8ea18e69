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
from selfsup.models import Network, parameter_count
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
IMAGES, BATCH, STEPS, CALIBRATION = 512, 8, 2, 32


def dry_run(config: Config, device: str) -> None:
    """Build everything, take two small steps and one small label update; print what was seen."""
    n, source = _images_of(config)
    print(json.dumps(dataclasses.asdict(config), indent=2))
    small = dataclasses.replace(
        config,
        batch_size=min(BATCH, config.batch_size),
        accumulate=1,
        labelling="equipartition" if config.labelling == "fixed" else config.labelling,
        labels_file=None,
        heads_per_update="all",
    )
    images = generated(config)
    network = new_network(small, images, device, calibrated=False)
    few = torch.arange(CALIBRATION)
    plain = images.views([few], config.label_augment, config.image_size, seeds=[0], device=device)
    network.calibrate(plain)
    trunk, total = parameter_count(network.trunk), parameter_count(network)
    print(
        f"\n{config.arch}: {total:,} parameters, {trunk:,} of them in the trunk; "
        f"{network.dim} features; heads: {_heads(config)}"
    )
    labels = Labels.at_random(IMAGES, small)
    cost = _try_steps(small, network, images, labels, device)
    shares = _try_update(small, network, images, labels) if config.clusters else {}
    print(f"\nthe full run: {source}")
    print(_memory(config, n, total, network.dim, cost.bytes_per_image))
    print(_time(config, n, cost, shares))
    print("This was a dry run: nothing was trained or written.")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a training step costs."""

    seconds_per_image: float
    seconds_per_step: float  # besides: of the optimiser
    bytes_per_image: float  # that are kept for the backward pass


def _try_steps(
    config: Config, network: Network, images: TensorImages, labels: Labels, device: str
) -> Cost:
    optimiser, batch = build_optimiser(config, network), config.batch_size
    scaler = new_scaler(config, torch.device(device))
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
            losses.append(float(gradient_step(network, optimiser, scaler, views, y, config)))
        seconds.append(time.perf_counter() - began)
        held = sum(outputs)
    began = time.perf_counter()
    optimiser.step()  # costs the same for a batch of any size
    per_step = time.perf_counter() - began
    shown = ", ".join(f"{loss:.4f}" for loss in losses)
    print(
        f"reduced: {STEPS} steps on {batch} generated images each: losses {shown} "
        f"(ln K = {config.ln_k:.4f})"
    )
    return Cost(max(min(seconds) - per_step, 1e-9) / batch, per_step, held / batch)


def _try_update(
    config: Config, network: Network, images: TensorImages, labels: Labels
) -> dict[str, float]:
    """Return the seconds an image of each part of a label update."""
    new, report = label_step(network, images, config, labels, 0, World())
    shown = 3
    for head, k in enumerate(config.clusters[:shown]):
        sizes = torch.bincount(new.labels[head], minlength=k)
        violation = next(r.violation for r in report.heads if r.head == head)
        print(
            f"reduced: label update of {IMAGES} generated images, head {head}: {k} classes, "
            f"{int((sizes > 0).sum())} in use, sizes {int(sizes.min())} to {int(sizes.max())}; "
            f"violation {violation:.1e}"
        )
    if len(config.clusters) > shown:
        print(f"reduced: ... and {len(config.clusters) - shown} more heads")
    return {part: seconds / IMAGES for part, seconds in report.seconds.items()}


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
        "kept entries of the solver": min(4 * n * k // 8, 134_000_000),
        "labels": 16 * n * len(config.clusters),
        "decoded images": n * (1 if config.dataset in GREY else 3) * side**2 * config.in_memory,
    }
    text = "; ".join(f"{name} {size / gigabyte:.2f}" for name, size in parts.items() if size)
    return (
        f"memory, estimated: {sum(parts.values()) / gigabyte:.1f} GB in one process ({text}); "
        "with several processes the label pass and the activations are divided among them"
    )


def _time(config: Config, n: int, cost: Cost, label: dict[str, float]) -> str:
    hours = 3600
    updates = config.updates if config.labelling not in ("fixed", "none") else 0
    turn = max(len(config.clusters), 1) if config.heads_per_update == "one" else 1
    steps = config.epochs * n * (cost.seconds_per_image + cost.seconds_per_step / config.batch_size)
    # the small update saw all heads, and each group of them its views
    forward = updates * n * label.get("forward", 0.0)
    solves = updates * n * sum(label.get(part, 0.0) for part in ("logits", "transport")) / turn
    whole = steps + forward + solves
    return (
        f"time, scaled from these few steps on this machine: {whole / hours:,.1f} hours "
        f"({steps / hours:,.1f} training at {config.epochs * n / steps:,.0f} images/s, "
        f"{forward / hours:,.1f} network in {updates} label updates, "
        f"{solves / hours:,.1f} logits and transport; "
        "loading images is not in it)"
    )
