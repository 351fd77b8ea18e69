"""Trains one network with one seed, evaluates it, and writes down what came out."""

from __future__ import annotations

import fcntl
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import processor, versions
from sela.experiments import COMMON, PRESET, Training

from selfsup.config import Config, DataConfig
from selfsup.data import ImageSet, Splits, load_data
from selfsup.evaluation.knn import PAPER, PAPER_DIM, KnnSettings
from selfsup.evaluation.linear import LinearSettings
from selfsup.evaluation.protocols import Settings
from selfsup.evaluation.run import evaluate
from selfsup.evaluation.splits import stratified
from selfsup.evaluation.subject import load_subject
from selfsup.presets import PRESETS
from selfsup.training.checkpoints import checkpoints, create_run, read_log, write_whole
from selfsup.training.fit import Trainer

RESULTS = Path(__file__).parent / "results"
#: Part of the training images of each class that settings are chosen on, and who draws it.
HELD_OUT, HELD_OUT_SEED = 0.1, 12345
#: Settings are fixed before, so none is chosen by the images that are reported.
SETTINGS = Settings(
    knn=KnnSettings(k=PAPER[:1], sigma=PAPER[1:], pca=(0, PAPER_DIM)), linear=LinearSettings((1.0,))
)
PROTOCOLS = ("knn", "linear", "clusters")
#: Numbers of the log that a page shows.
OF_EPOCH = ("epoch", "loss", "knn", "nmi")
OF_UPDATE = ("epoch", "changed", "entropy", "ln_k", "size_min", "size_max", "ce_before", "ce_after")
#: Of the evaluation what is long, and in no table.
LEFT_OUT = ("grid", "each_head", "validation")


def slug(name: str) -> str:
    """Return a name as that of a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@dataclass(frozen=True)
class Work:
    """Where images are, and where runs go."""

    data: Path
    runs: Path

    def run(self, training: Training, seed: int) -> Path:
        """Return the directory of a run."""
        return self.runs / f"{slug(training.name)}-{seed}"

    @property
    def classes(self) -> Path:
        """Where the true classes are, as labels of one head."""
        return self.runs / "classes.npy"


#: What a record says of places, which differ between machines.
PLACES = Work(Path("DIR"), Path("runs"))


def record_of(training: Training, seed: int) -> Path:
    """Return where the outcome of a training is kept."""
    return RESULTS / f"{slug(training.name)}-{seed}.json"


def config_of(training: Training, seed: int, work: Work) -> Config:
    """Return the settings of a training."""
    config = PRESETS[PRESET].but(**COMMON, seed=seed, data=str(work.data))
    labels = None
    if training.after is not None:
        labels = work.run(training.after, seed)
    elif training.classes:
        labels = work.classes
    source = {} if labels is None else {"labels_file": str(labels)}
    return config.but(**training.settings, **source)


@cache
def images_of(data: DataConfig, held_out: bool) -> Splits:
    """Load CIFAR-10; `held_out` takes a part of the training images for tests instead."""
    splits = load_data(data)
    if not held_out:
        return splits
    held, rest = stratified(splits.train.targets, HELD_OUT, HELD_OUT_SEED)
    return Splits(splits.train.select(rest), splits.train.select(held), splits.found)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process is in a block of the same file, and keep others out."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_classes(images: ImageSet, path: Path) -> None:
    """Write the true classes as labels of one head, unless they are there."""
    with alone(path.with_suffix(".lock")):
        if not path.exists():
            content = io.BytesIO()
            np.save(content, images.targets.numpy()[None])
            write_whole(path, content.getvalue())


def train(training: Training, seed: int, work: Work) -> Path:
    """Train a network, or go on with a run that was stopped; return the run."""
    run = work.run(training, seed)
    if training.after is not None:
        train(training.after, seed, work)
    config = config_of(training, seed, work)
    images = images_of(config.data, training.held_out).train
    if training.classes:
        write_classes(images, work.classes)
    with alone(run.with_suffix(".training")):
        trainer = Trainer(config, images, run)
        if checkpoints(run):
            trainer.load()
        elif not run.exists():
            create_run(config, run)
        trainer.fit()
    return run


def record(training: Training, seed: int, work: Work) -> dict[str, Any]:
    """Return what there is to say of a training, training and evaluating it first."""
    run, config = train(training, seed, work), config_of(training, seed, work)
    judged = images_of(config.but(imbalance="full").data, training.held_out)
    subject = load_subject(run, splits=judged)
    results = list(evaluate(subject.evaluation, PROTOCOLS, training.baselines, SETTINGS))
    epochs, updates = read_log(run, "epoch"), read_log(run, "update")
    return {
        "training": training.name,
        "seed": seed,
        "held_out": training.held_out,
        "config": json.loads(config_of(training, seed, PLACES).to_json()),
        "minutes": round(sum(sum(line["seconds"].values()) for line in epochs) / 60, 2),
        "images_per_second": round(float(np.median([e["images_per_second"] for e in epochs])), 1),
        "epochs": [_short(line, OF_EPOCH) for line in epochs],
        "updates": [_short(line, OF_UPDATE) for line in updates],
        "results": [
            {"protocol": r.protocol, "method": r.method, "reason": r.reason,
             "rows": [{n: v for n, v in row.items() if n not in LEFT_OUT} for row in r.rows]}
            for r in results
        ],
        "machine": {
            "processor": processor(),
            "threads": torch.get_num_threads(),
            **versions("torch", "numpy", "sinkhorn-ot"),
        },
    }  # fmt: skip


def _short(line: dict[str, Any], names: tuple[str, ...]) -> dict[str, float]:
    """Return means over heads of some numbers of a line of the log."""
    return {name: round(float(np.mean(line[name])), 4) for name in names if name in line}


def keep(path: Path, work: Work, make: Callable[[], object]) -> None:
    """Write a record, unless it is there or another process is at it."""
    if path.exists():
        return
    work.runs.mkdir(parents=True, exist_ok=True)
    with open(work.runs / f"{path.stem}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        print(path.stem, flush=True)
        found = make()
        path.parent.mkdir(exist_ok=True)
        write_whole(path, (json.dumps(found, indent=1) + "\n").encode())


def work_on(training: Training, seed: int, work: Work) -> None:
    """Train and evaluate a network, unless there is a record of it."""
    keep(record_of(training, seed), work, partial(record, training, seed, work))
