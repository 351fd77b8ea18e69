"""selfsup on the device: the digits preset to its end, and the throughput of large networks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_check.machinery import synchronise
from gpu_check.stage import Stage
from selfsup.config import Config
from selfsup.data import ImageSet, TensorImages, load_data
from selfsup.evaluation.scores import cluster_scores
from selfsup.presets import PRESETS
from selfsup.training.checkpoints import create_run, read_log
from selfsup.training.fit import Trainer
from selfsup.training.label_pass import Clock
from selfsup.training.monitor import Monitor, time_shares


def main(stage: Stage) -> None:
    """The digits first; then the throughput of large networks."""
    if stage.has_time_for(10.0, "digits"):
        stage.attempt("digits", lambda: digits(stage))
    for arch, batch in (("resnet18", 256), ("alexnet", 128)):
        if stage.has_time_for(15.0, arch):
            stage.attempt(
                "throughput",
                lambda arch=arch, batch=batch: throughput(stage, arch, batch, "bfloat16"),
                network=arch,
            )


def digits(stage: Stage) -> dict[str, Any]:
    """Train the preset; return how its labels agree with the classes it never saw."""
    config = PRESETS["digits"].but(device=stage.device)
    if stage.rehearsal:
        config = config.but(epochs=2, updates=6)
    images = load_data(config.data).train
    trainer = new_trainer(config, images)
    began = time.perf_counter()
    trainer.fit()
    seconds = time.perf_counter() - began
    classes, number = images.targets.numpy(), len(images.classes)
    heads = zip(config.labels.clusters, np.load(trainer.run / "labels.npy"), strict=True)
    scores = [cluster_scores(classes, labels, k, number) for k, labels in heads]
    return {
        "epochs": config.optimiser.epochs,
        "seconds": round(seconds, 1),
        "nmi": float(np.mean([score["nmi"] for score in scores])),
        "accuracy": float(np.mean([score["hungarian"] for score in scores])),
    }


def throughput(stage: Stage, arch: str, batch: int, precision: str) -> dict[str, Any]:
    """Train on noise of 32 x 32 shown at 224 x 224, as the paper shows CIFAR-10 to AlexNet.

    The first epoch warms up, the second one is timed. In another training every part is waited
    for, and labels are renewed: that tells what the time goes to.
    """
    if stage.rehearsal:
        n, batch, size = 16, 8, 224 if arch == "alexnet" else 32
    else:
        n, size = 10 * batch, 224
    noise = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8)
    names = tuple(f"noise/{i}" for i in range(n))
    images = TensorImages(noise, torch.full((n,), -1), (), names)
    config = PRESETS["cifar10-alexnet"].but(
        preset=arch, arch=arch, image_size=size, epochs=2, updates=1,
        batch_size=batch, precision=precision, device=stage.device, heads_per_update="all",
    )  # fmt: skip
    trainer = new_trainer(config, images)
    monitor = Monitor(None, config.labels.clusters, config.optimiser.epochs, 0)
    trainer.train_epoch(monitor)
    synchronise(stage.device)
    began = time.perf_counter()
    trainer.train_epoch(monitor)
    synchronise(stage.device)
    seconds = time.perf_counter() - began
    waited = new_trainer(config.but(preset=f"{arch}-waited", updates=3), images)
    waited.clock = Clock(waited.device)
    waited.fit()
    shares = time_shares(read_log(waited.run, "epoch")[1:])
    return {
        "arch": arch, "batch": batch, "precision": precision, "images": n, "size": size,
        "images_per_second": round(n / seconds, 1),
        "shares": {part: round(share, 3) for part, share in shares.items()},
    }  # fmt: skip


def new_trainer(config: Config, images: ImageSet) -> Trainer:
    """Return the trainer of a new run in the temporary folder."""
    run = Path.cwd() / f"run-{config.run.preset}"
    trainer = Trainer(config, images, run, device=config.run.device)
    create_run(config, run)
    return trainer
