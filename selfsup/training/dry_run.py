"""A look at a run before it is started: what it is, what it needs, and that it works."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from selfsup.config import Config
from selfsup.data import TensorImages, load_data
from selfsup.models import Network, parameter_count
from selfsup.seeds import Stream, generator_of
from selfsup.sela import SelfLabels
from selfsup.training.fit import new_network
from selfsup.training.label_pass import FeaturePass, label_step, new_labels
from selfsup.training.processes import World
from selfsup.training.step import build_optimiser, gradient_step, new_scaler

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
    print(config.to_json(), end="")
    clusters = tuple(k or min(128, n // 20) for k in config.labels.clusters)
    labelling = config.labels.labelling
    small = config.but(
        batch_size=min(BATCH, config.optimiser.batch_size),
        accumulate=1,
        clusters=clusters,
        labelling="equipartition" if labelling == "fixed" else labelling,
        labels_file=None,
        heads_per_update="all",
    )
    images = generated(config)
    network = new_network(small, images, device, calibrated=False)
    show = FeaturePass.of(small)
    few = [torch.arange(CALIBRATION)]
    network.calibrate(images.views(few, show.augment, show.size, seeds=[0], device=device))
    trunk, total = parameter_count(network.trunk), parameter_count(network)
    print(
        f"\n{config.model.arch}: {total:,} parameters, {trunk:,} of them in the trunk; "
        f"{network.dim} features; heads: {_heads(small)}"
    )
    labels = new_labels(small.labels, IMAGES, config.run.seed, 1, World())
    cost = _try_steps(small, network, images, labels, device)
    shares = _try_update(network, images, labels, show) if clusters else {}
    print(f"\nthe full run: {source}")
    whole = small.but(
        batch_size=config.optimiser.batch_size, accumulate=config.optimiser.accumulate
    )
    print(_memory(whole, n, total, network.dim, cost))
    print(_time(config, n, cost, shares))
    print("This was a dry run: nothing was trained or written.")


@dataclass(frozen=True)
class Cost:
    """What a training step costs."""

    seconds_per_image: float
    seconds_per_step: float  # besides: of the optimiser
    bytes_per_image: float  # that are kept for the backward pass


def _try_steps(
    config: Config, network: Network, images: TensorImages, labels: SelfLabels, device: str
) -> Cost:
    optimiser, batch = build_optimiser(config.optimiser, network), config.optimiser.batch_size
    scaler = new_scaler(config.optimiser, torch.device(device))
    losses, seconds, held = [], [], [0]
    network.train()

    def count(_: object, __: object, output: object) -> None:
        held[0] += output.numel() * output.element_size() if isinstance(output, Tensor) else 0

    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(count) for module in leaves]
    for step in range(STEPS):
        index = torch.arange(step * batch, (step + 1) * batch)
        (views,) = images.views(
            [index], config.optimiser.augment, config.data.image_size, seeds=[step], device=device
        )
        began = time.perf_counter()
        loss = gradient_step(
            network, optimiser, scaler, views, index, labels, config.optimiser,
            rotation=config.model.rotation,
        )  # fmt: skip
        losses.append(float(loss))
        seconds.append(time.perf_counter() - began)
    for hook in hooks:
        hook.remove()
    began = time.perf_counter()
    optimiser.step()  # costs the same for a batch of any size
    per_step = time.perf_counter() - began
    print(
        f"reduced: {STEPS} steps on {batch} generated images each: losses "
        f"{', '.join(f'{loss:.4f}' for loss in losses)} (ln K = {config.ln_k:.4f})"
    )
    per_image = max(min(seconds) - per_step, 1e-9) / batch
    return Cost(per_image, per_step, held[0] / (STEPS * batch))


def _try_update(
    network: Network, images: TensorImages, labels: SelfLabels, show: FeaturePass
) -> dict[str, float]:
    """Return the seconds an image of each part of a label update."""
    report = label_step(network, images, labels, show, World())
    for head in report.heads[:3]:
        print(
            f"reduced: label update of {IMAGES} generated images, head {head.head}: "
            f"{network.heads.clusters[head.head]} classes, sizes {head.size_min} to "
            f"{head.size_max}; violation {head.violation:.1e}"
        )
    if len(report.heads) > 3:
        print(f"reduced: ... and {len(report.heads) - 3} more heads")
    return {part: seconds / IMAGES for part, seconds in report.seconds.items()}


def generated(config: Config) -> TensorImages:
    """Return noise in the shape of the data set's images at the size of the network's input."""
    channels = 1 if config.data.dataset in GREY else 3
    shape = (IMAGES, channels, config.data.image_size, config.data.image_size)
    noise = torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=generator_of(config.run.seed, Stream.VIEWS)
    )
    names = tuple(f"generated/{i:03d}" for i in range(IMAGES))
    return TensorImages(noise, torch.full((IMAGES,), -1), (), names)


def _images_of(config: Config) -> tuple[int, str]:
    if config.data.dataset in SIZES:
        n = SIZES[config.data.dataset]
        return n, f"{n:,} images of {config.data.dataset}"
    if config.data.data is not None:
        splits = load_data(config.data)
        return len(splits.train), splits.found
    return ASSUMED, f"{ASSUMED:,} images assumed, as no --data was given"


def _heads(config: Config) -> str:
    clusters = config.labels.clusters
    counts = [f"{clusters.count(k)} x {k:,}" for k in sorted(set(clusters))]
    return ", ".join(counts + ["4 quarter turns"] * config.model.rotation)


def _memory(config: Config, n: int, parameters: int, dim: int, cost: Cost) -> str:
    batch = config.optimiser.batch_size / config.optimiser.accumulate
    grey = config.data.dataset in GREY
    side = config.data.image_size if grey or config.data.dataset == "folder" else 32
    clusters = config.labels.clusters
    k = max(clusters, default=0)
    parts = {
        "weights, gradients, momenta": 12 * parameters,
        f"activations of {batch:.0f} images": cost.bytes_per_image * batch,
        f"features of the label pass ({config.labels.features_in})": 4 * n * dim * bool(k),
        f"logits of one head (N x {k:,})": 4 * n * k,
        "kept entries of the solver": min(4 * n * k // 8, 134_000_000),
        "labels": 16 * n * len(clusters),
        "decoded images": n * (1 if grey else 3) * side**2 * config.data.in_memory,
    }
    text = "; ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items() if size)
    return (
        f"memory, estimated: {sum(parts.values()) / 1e9:.1f} GB in one process ({text}); "
        "with several processes the label pass and the activations are divided among them"
    )


def _time(config: Config, n: int, cost: Cost, label: dict[str, float]) -> str:
    labels, hour = config.labels, 3600
    updates = labels.updates if labels.labelling not in ("fixed", "none") else 0
    turn = max(len(labels.clusters), 1) if labels.heads_per_update == "one" else 1
    seen = config.optimiser.epochs * n
    steps = seen * (cost.seconds_per_image + cost.seconds_per_step / config.optimiser.batch_size)
    # the small update saw all heads, and each group of them its views
    forward = updates * n * label.get("forward", 0.0)
    solves = updates * n * sum(label.get(part, 0.0) for part in ("logits", "transport")) / turn
    trained, labelled = steps / hour, f"{forward / hour:,.1f} network in {updates} label updates"
    return (
        f"time, scaled from these few steps on this machine: "
        f"{(steps + forward + solves) / hour:,.1f} hours ({trained:,.1f} training at "
        f"{seen / steps:,.0f} images/s, {labelled}, {solves / hour:,.1f} logits and transport; "
        "loading images is not in it)"
    )
