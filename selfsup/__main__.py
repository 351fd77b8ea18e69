"""Command line: train, evaluate, labels."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from selfsup.config import PRESETS, Config, ConfigError
from selfsup.data import DataError, load_data
from selfsup.evaluate import evaluate_run, format_rows, load_network
from selfsup.report import write_report
from selfsup.train import RunError, Trainer, create_run, load_config, refuse_existing


@dataclass(frozen=True)
class Train:
    """Train from a preset (digits, fashion-mnist, folder), or go on with a stopped run."""

    preset: Annotated[str | None, tyro.conf.Positional] = None
    """Name of the settings to start from."""
    resume: Path | None = None
    """Run directory to go on with; it ends in the same bits as if never stopped."""
    out: Path | None = None
    """New run directory; runs/PRESET when left out."""
    data: str | None = None
    """Folder of the images."""
    epochs: int | None = None
    """Passes over the images."""
    updates: int | None = None
    """Label updates."""
    clusters: tuple[int, ...] | None = None
    """One K per head."""
    epsilon: float | None = None
    """1 / lambda."""
    batch_size: int | None = None
    lr: float | None = None
    """Highest learning rate; it follows half a cosine."""
    image_size: int | None = None
    """Side that images are resized to."""
    supervised_epochs: int | None = None
    """Epochs of the labelled baseline in the evaluation."""
    seed: int | None = None
    device: str | None = None
    """cpu or cuda; only cpu runs repeat to the bit."""


@dataclass(frozen=True)
class Evaluate:
    """Compare a run with its baselines; writes RUN/evaluation.json and RUN/report.html."""

    run: tyro.conf.Positional[Path]
    data: str | None = None
    """Folder of the images, when it has moved."""


@dataclass(frozen=True)
class Labels:
    """Write a run's labels: index, path and one column per head."""

    run: tyro.conf.Positional[Path]
    csv: Path
    data: str | None = None
    """Folder of the images, when it has moved."""


def config_of(command: Train) -> Config:
    """Return the preset with what the command line changes."""
    if command.preset not in PRESETS:
        known = ", ".join(PRESETS)
        raise RunError(f"train: name a preset ({known}) or --resume RUN, got {command.preset!r}")
    changes = {
        name: value
        for name, value in vars(command).items()
        if value is not None and name not in ("preset", "resume", "out")
    }
    if command.data is not None:  # a run can then be resumed from anywhere
        changes["data"] = str(Path(command.data).resolve())
    return replace(PRESETS[command.preset], **changes)


def train(command: Train) -> None:
    """Run the train command."""
    if command.resume is not None:
        given = [k for k, v in vars(command).items() if v is not None and k != "resume"]
        if given:
            raise RunError(f"--resume takes its settings from the run; drop {', '.join(given)}")
        run, config = command.resume, load_config(command.resume)
        data = load_data(config)
    else:
        config = config_of(command)
        run = command.out or Path("runs") / config.preset
        refuse_existing(run)
        data = load_data(config)
    trainer = Trainer(config, data.train, run)
    if command.resume is not None:
        trainer.load()
    else:
        create_run(config, run)
    try:
        trainer.fit()
    except KeyboardInterrupt:
        print(
            f"\nstopped; epoch {trainer.saved_epoch} of {config.epochs} is saved. "
            f"Go on with: python -m selfsup train --resume {run}",
            file=sys.stderr,
        )
        raise
    report = write_report(run, config, data.train, trainer.network)
    print(f"trained {config.epochs} epochs: {run}\nreport: {report}")
    print(f"next: python -m selfsup evaluate {run}")


def evaluate(command: Evaluate) -> None:
    """Run the evaluate command."""
    rows = evaluate_run(command.run, command.data)
    print(format_rows(rows))
    config = load_config(command.run)
    if command.data is not None:
        config = replace(config, data=command.data)
    data = load_data(config)
    network, _ = load_network(config, command.run, data.train)
    print(f"report: {write_report(command.run, config, data.train, network)}")


def write_labels(command: Labels) -> None:
    """Run the labels command."""
    config = load_config(command.run)
    if command.data is not None:
        config = replace(config, data=command.data)
    path = command.run / "labels.npy"
    if not path.is_file():
        raise RunError(f"{command.run}: no labels.npy yet")
    labels = np.load(path)
    paths = load_data(config).train.paths
    if not command.csv.parent.is_dir():
        raise RunError(f"--csv {command.csv}: there is no folder {command.csv.parent}")
    with command.csv.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "path", *(f"head_{h}" for h in range(len(labels)))])
        for i, (name, row) in enumerate(zip(paths, labels.T.tolist(), strict=True)):
            writer.writerow([i, name, *row])
    print(f"{len(paths)} images, {len(labels)} heads: {command.csv}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    command = tyro.cli(
        Train | Evaluate | Labels, args=arguments, prog="python -m selfsup", description=__doc__
    )
    try:
        if isinstance(command, Train):
            train(command)
        elif isinstance(command, Evaluate):
            evaluate(command)
        else:
            write_labels(command)
    except (ConfigError, DataError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
