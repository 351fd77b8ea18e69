"""The paper's CIFAR-10 experiment on one GPU, in as many epochs as fit into the given minutes.

    python benchmarks/sela/cifar10_alexnet_gpu.py --data cifar10.zip --minutes 10 --out RUN

AlexNet is shown 32 x 32 images at 224 x 224, has 10 heads of 128 clusters, lambda 10, a label
update per epoch: the preset ``cifar10-alexnet``. Images, views, network and label solves are on the
GPU. A short trial measures images per second; the schedule (epochs, drops of the learning rate at
60% and 80%, label updates) is that of the paper's 400 epochs, scaled to what fits. The paper labels
one head an epoch; in fewer epochs all heads are labelled each time, since ten heads in turn would
have few updates each. Training ends early if it is slower than the trial, so that the evaluation
has its time. The run has checkpoints and goes on with ``python -m selfsup train --resume RUN``.

What is printed and written to RUN/paper.json stands beside the paper's 77.6 (kNN, k = 50,
sigma 0.1) and 83.4 (linear), which took 400 epochs. ``--device cpu --epochs 2`` rehearses it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from pathlib import Path

import torch

from selfsup.config import Config
from selfsup.data import ImageSet, load_data
from selfsup.evaluation.run import evaluate
from selfsup.evaluation.subject import load_subject
from selfsup.presets import PRESETS
from selfsup.training.checkpoints import create_run, refuse_existing
from selfsup.training.fit import Trainer
from selfsup.training.label_pass import label_step
from selfsup.training.monitor import Monitor

PAPER = {"epochs": 400, "knn": 77.6, "linear": 83.4}
TRIAL_STEPS = 30
#: Share of the time left for the evaluation, and for what the trial does not see.
SPARE = 0.2


class TimeOver(Exception):
    """There is no time for another epoch."""


def synchronise(device: str) -> None:
    """Wait for the GPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def trial(config: Config, images: ImageSet) -> tuple[float, float]:
    """Return images per second of training, and seconds of a label update of all heads."""
    config = config.but(epochs=1, updates=1, heads_per_update="all")
    few = images.select(torch.arange(min(len(images), TRIAL_STEPS * config.optimiser.batch_size)))
    seconds = []
    for _ in range(2):  # the first one warms up
        trainer = Trainer(config, few, None, device=config.run.device)
        trainer.labels.updates = 1  # none in the epoch
        synchronise(config.run.device)
        began = time.perf_counter()
        trainer.train_epoch(Monitor(None, config.labels.clusters, 1, 0))
        synchronise(config.run.device)
        seconds.append(time.perf_counter() - began)
    trainer.labels.updates = 0
    began = time.perf_counter()
    label_step(trainer.config, trainer.network, trainer.images, trainer.labels, trainer.world)
    synchronise(config.run.device)
    label = (time.perf_counter() - began) * len(images) / len(few)
    return trainer.steps_per_epoch * trainer.batch_size / seconds[-1], label


def scaled(config: Config, epochs: int) -> Config:
    """Return the paper's schedule in so many epochs; in fewer than its own, of all heads at once.

    The pass over all images that an update needs is the same for one head and for all.
    """
    drops = tuple(round(epochs * d / PAPER["epochs"]) for d in config.optimiser.lr_drops)
    heads = "all" if epochs < PAPER["epochs"] else config.labels.heads_per_update
    return config.but(epochs=epochs, updates=max(2, epochs), lr_drops=drops, heads_per_update=heads)


def train(trainer: Trainer, deadline: float) -> None:
    """Train to the last epoch, or to the last that ends before the deadline; it is saved then."""
    began = time.perf_counter()

    def look_at_the_clock() -> None:
        now = time.perf_counter()
        if trainer.step < trainer.steps and now + (now - began) / trainer.epoch > deadline:
            raise TimeOver

    with contextlib.suppress(TimeOver):
        trainer.fit(look_at_the_clock)


def main() -> None:
    """Measure, train, evaluate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", required=True, help="CIFAR-10: a folder, or the zip file")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--epochs", type=int, default=int(PAPER["epochs"]), help="at most")
    args = parser.parse_args()
    refuse_existing(args.out)
    began = time.perf_counter()
    deadline = began + 60 * args.minutes * (1 - SPARE)
    config = PRESETS["cifar10-alexnet"].but(data=str(Path(args.data).resolve()), device=args.device)
    splits = load_data(config.data)
    images = splits.train
    rate, label = trial(config, images)
    epoch = len(images) / rate + label
    left = deadline - time.perf_counter()
    config = scaled(config, max(1, min(args.epochs, int(left / epoch))))
    print(f"trial: {rate:,.0f} images/s, a label update {label:.1f} s: {epoch:.1f} s an epoch; "
          f"{config.optimiser.epochs} of the paper's {PAPER['epochs']} epochs fit")  # fmt: skip
    trainer = Trainer(config, images, args.out, device=args.device)
    create_run(config, args.out)
    train(trainer, deadline)
    print(f"{trainer.epoch} of {config.optimiser.epochs} epochs were done")
    record = {
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu",
        "torch": torch.__version__,
        "images_per_second": round(rate, 1),
        "label_seconds": round(label, 2),
        "epochs": trainer.epoch,
        "epochs_planned": config.optimiser.epochs,
        "minutes": round((time.perf_counter() - began) / 60, 2),
        "paper": PAPER,
    }
    subject = load_subject(args.out, device=args.device, splits=splits)
    for result in evaluate(subject.evaluation, ("knn", "linear")):
        record[result.protocol] = result.rows
        (args.out / "paper.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
