"""Command line: train, evaluate, labels, predict."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from selfsup.config import LEVELS, Config, ConfigError
from selfsup.data import DataError, TensorImages, all_images, load_data
from selfsup.dry_run import dry_run
from selfsup.evaluate import evaluate_run, format_rows
from selfsup.labels import read_labels, write_csv
from selfsup.monitor import time_shares
from selfsup.presets import PRESETS
from selfsup.report import write_report
from selfsup.runs import (
    RunError,
    check_images,
    create_run,
    load_checkpoint,
    load_config,
    read_log,
    refuse_existing,
)
from selfsup.train import Trainer
from selfsup.trained import Trained
from selfsup.world import check_device, joined

PROG = "python -m selfsup"
USAGE = f"""usage: {PROG} COMMAND ...

  train PRESET [options]   train; presets: {", ".join(PRESETS)}
  train --resume RUN       go on with a stopped run
  evaluate RUN             compare a run with its baselines
  labels RUN --csv FILE    write its labels, one row an image
  predict RUN --data DIR   labels for new images
  COMMAND --help           the options of a command; train PRESET --help with the preset's values

On several GPUs or processes: torchrun --nproc-per-node 8 -m selfsup train ..."""


@dataclass(frozen=True)
class Train:
    """Train from a preset."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """New run directory; runs/PRESET when left out."""
    level: Literal["0", "1", "2", "3", "moco-v2"] | None = None
    """Augmentation level of the training views, as in the authors' code; sets all of augment."""
    label_level: Literal["0", "1", "2", "3", "moco-v2"] | None = None
    """The same for the label pass; sets all of label-augment."""
    dry_run: bool = False
    """Build everything, print the settings and what the full run needs, try a few small steps."""


@dataclass(frozen=True)
class Resume:
    """Go on with a stopped run; it ends in the same bits as if never stopped."""

    resume: Path
    data: str | None = None
    """Folder of the images, when it has moved."""


@dataclass(frozen=True)
class Evaluate:
    """Compare a run with its baselines; writes RUN/evaluation.json and RUN/report.html."""

    run: tyro.conf.Positional[Path]
    data: str | None = None
    """Folder of the images, when it has moved."""


@dataclass(frozen=True)
class WriteLabels:
    """Write a run's labels: index, path and one column per head."""

    run: tyro.conf.Positional[Path]
    csv: Path
    data: str | None = None
    """Folder of the images, when it has moved."""


@dataclass(frozen=True)
class Predict:
    """Label new images with a trained run: index, path and one column per head."""

    run: tyro.conf.Positional[Path]
    data: str
    """Folder of images, however nested; or a zip file of one."""
    csv: Path | None = None
    """File to write; RUN/predictions.csv when left out."""
    device: str = "cpu"
    workers: int = 0
    """Processes that decode images."""


def resolve(command: Train) -> Config:
    """Return the settings that a command line means."""
    config = command.config
    if command.level is not None:
        config = replace(config, augment=LEVELS[command.level])
    if command.label_level is not None:
        config = replace(config, label_augment=LEVELS[command.label_level])
    data = config.data
    if data is None and config.dataset not in ("digits", "fashion-mnist", "folder"):
        data = "data"
    if data is not None:  # a run can then be resumed from anywhere
        config = replace(config, data=str(Path(data).resolve()))
    if config.labels_file is not None and not (command.dry_run and config.labels_file == "RUN"):
        labels_file = Path(config.labels_file).resolve()
        _, clusters, _ = read_labels(labels_file)
        config = replace(config, labels_file=str(labels_file), clusters=clusters)
    return config


def train(command: Train) -> None:
    """Train a new run."""
    config = resolve(command)
    with joined(config.device) as (world, device):
        if command.dry_run:
            if world.first:
                dry_run(config, device)
            return
        run = command.out or Path("runs") / config.preset
        if world.first:
            refuse_existing(run)
        trainer = Trainer(config, load_data(config).train, run, world, device)
        if world.first:
            create_run(config, run)
        fit(trainer)


def resume(command: Resume) -> None:
    """Go on with a run."""
    config = load_config(command.resume, command.data)
    with joined(config.device) as (world, device):
        trainer = Trainer(config, load_data(config).train, command.resume, world, device)
        trainer.load()
        fit(trainer)


def fit(trainer: Trainer) -> None:
    """Train to the end; say how to go on when that is not reached."""
    config, run = trainer.config, trainer.run
    if trainer.world.first and len(trainer.times) > trainer.steps + 1:
        print(f"note: {len(trainer.times)} label updates are asked for in {trainer.steps} steps; "
              "there is one at most before each step, and one at the end")  # fmt: skip
    try:
        trainer.fit()
    except KeyboardInterrupt:
        print(
            f"\nstopped; go on from the last checkpoint with: {PROG} train --resume {run}",
            file=sys.stderr,
        )
        raise
    if not trainer.world.first:
        return
    shares = time_shares(read_log(run, "epoch"))
    spent = ", ".join(f"{part} {share:.1%}" for part, share in shares.items())
    print(f"trained {config.epochs} epochs: {run}\ntime: {spent}")
    images = trainer.images
    if isinstance(images, TensorImages) and config.clusters:
        print(f"report: {write_report(run, config, images, trainer.network)}")
        if images.labelled:
            print(f"next: {PROG} evaluate {run}")


def evaluate(command: Evaluate) -> None:
    """Run the evaluate command."""
    rows = evaluate_run(command.run, command.data)
    print(format_rows(rows))
    trained = Trained.load(command.run, command.data)
    images = load_data(trained.config).train
    if isinstance(images, TensorImages):
        print(f"report: {write_report(command.run, trained.config, images, trained.network)}")


def write_labels(command: WriteLabels) -> None:
    """Run the labels command."""
    config = replace(load_config(command.run, command.data), in_memory=False)
    state = load_checkpoint(command.run)
    labels, images = state["labels"], load_data(config).train
    check_images(command.run, state["images"], images.paths)
    write_csv(command.csv, images, labels)
    print(f"{len(images)} images, {len(labels)} heads: {command.csv}")


def predict(command: Predict) -> None:
    """Run the predict command."""
    check_device(command.device)
    trained = Trained.load(command.run, command.data, command.device)
    channels = trained.network.mean.shape[1]
    files = all_images(Path(command.data), channels, command.workers)
    size = trained.config.image_size
    images = files.in_memory(size) if trained.config.in_memory else files  # shaped as in training
    path = command.csv or command.run / "predictions.csv"
    write_csv(path, images, trained.predict(images))
    print(f"{len(images)} images, {len(trained.config.clusters)} heads: {path}")


def parse(arguments: Sequence[str]) -> tuple[Callable[..., None], object]:
    """Return the function to call and its command."""
    name, rest = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    prog = f"{PROG} {name}"
    if name == "train" and "--resume" in rest:
        if rest and not rest[0].startswith("-"):
            raise RunError(f"--resume takes its settings from the run; drop {rest[0]}")
        return resume, tyro.cli(Resume, args=rest, prog=prog)
    if name == "train":
        preset = rest[0] if rest else ""
        if preset not in PRESETS:
            known = ", ".join(PRESETS)
            raise RunError(f"train: name a preset ({known}) or --resume RUN, got {preset!r}")
        default = Train(PRESETS[preset])
        return train, tyro.cli(Train, default=default, args=rest[1:], prog=f"{prog} {preset}")
    if name == "evaluate":
        return evaluate, tyro.cli(Evaluate, args=rest, prog=prog)
    if name == "labels":
        return write_labels, tyro.cli(WriteLabels, args=rest, prog=prog)
    if name == "predict":
        return predict, tyro.cli(Predict, args=rest, prog=prog)
    raise RunError(f"no command {name!r}\n{USAGE}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    try:
        run, command = parse(arguments)
        run(command)
    except (ConfigError, DataError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # such as a full disk under TensorBoard
        print(f"error: {error.filename or ''} {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
