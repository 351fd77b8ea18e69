"""The command line: one function for each command."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from selfsup.commands import (
    Evaluate,
    Export,
    ExportClusters,
    Labels,
    Predict,
    Resume,
    Run,
    Train,
    Transfer,
)
from selfsup.config import LEVELS, Config
from selfsup.data import ImageSet, Splits, load_data, new_images
from selfsup.errors import RunError, SelfsupError
from selfsup.evaluation.baselines import BASELINES
from selfsup.evaluation.protocols import PROTOCOLS
from selfsup.evaluation.run import Result
from selfsup.evaluation.run import evaluate as run_protocols
from selfsup.evaluation.subject import load_subject
from selfsup.evaluation.table import report_text
from selfsup.evaluation.transfer import transfer_config
from selfsup.export import export_clusters, export_run
from selfsup.presets import PRESETS, as_authors
from selfsup.report import write_report
from selfsup.training.checkpoints import (
    check_images,
    create_run,
    load_config,
    read_log,
    refuse_existing,
    write_config,
)
from selfsup.training.dry_run import DryRun
from selfsup.training.fit import Trainer
from selfsup.training.label_files import read_labels, write_csv
from selfsup.training.label_pass import fit_clusters
from selfsup.training.monitor import time_shares
from selfsup.training.processes import World, joined
from selfsup.training.trained import Trained

PROG = "python -m selfsup"
USAGE = f"""usage: {PROG} COMMAND ...

  train PRESET [options]      train; presets: {", ".join(PRESETS)}
  train --resume RUN          go on with a stopped run, or with --epochs N make it longer
  report RUN                  write RUN/report.html: curves, clusters, a map
  evaluate RUN                how good features and clusters are, by the paper's protocols
  transfer RUN --arch ARCH    train a fresh network on a run's labels, and evaluate it
  labels RUN --csv FILE       write its labels, one row an image
  predict RUN --data DIR      labels for new images
  export RUN DIR              weights for torchvision or timm, and embeddings
  export-clusters RUN DIR     a folder of links for every cluster
  COMMAND --help              the options of a command; train PRESET --help with the preset's values

On several GPUs or processes: torchrun --nproc-per-node 8 -m selfsup train ..."""


def resolve(command: Train) -> Config:
    """Return the settings that a command line means."""
    config = command.config
    changes: dict[str, Any] = {}
    dataset, data, file = config.data.dataset, config.data.data, config.labels.labels_file
    if file is not None and not (command.dry_run and file == "RUN"):
        _, changes["clusters"], _ = read_labels(Path(file).resolve())
        changes["labels_file"] = str(Path(file).resolve())
    if data is None and dataset not in ("digits", "fashion-mnist", "folder"):
        data = "data"
    if data is not None:  # a run can then be resumed from anywhere
        changes["data"] = str(Path(data).resolve())
    if command.level is not None:
        changes["augment"] = LEVELS[command.level]
    if command.label_level is not None:
        changes["label_augment"] = LEVELS[command.label_level]
    config = config.but(**changes)
    return as_authors(config) if command.as_authors else config


def train(command: Train) -> None:
    """Train a new run, or look at what it would be."""
    config = resolve(command)
    run = command.out or Path("runs") / config.run.preset
    trial = DryRun.of(config) if command.dry_run else None
    with joined(config.run.device) as (world, device):
        if trial is not None:
            config, images = trial.reduced, trial.images
        else:
            if world.first:
                refuse_existing(run)
            images = told(load_data(config.data), world, device)
            config = config.but(clusters=fit_clusters(config.labels, len(images)))
            if world.first and config.labels.clusters:
                print(f"clusters of each head: {', '.join(map(str, config.labels.clusters))}")
        trainer = Trainer(
            config, images, None if trial else run, World() if trial else world, device
        )
        if trial is not None:
            if world.first:
                trial.print(trainer)
            return
        if world.first:
            create_run(config, run)
        fit(trainer, run)


def resume(command: Resume) -> None:
    """Go on with a run."""
    run, config = command.resume, load_config(command.resume, command.data)
    longer = command.epochs is not None and command.epochs != config.optimiser.epochs
    if longer:
        epochs = int(command.epochs or 0)
        updates = max(1, round(config.labels.updates * epochs / config.optimiser.epochs))
        config = config.but(epochs=epochs, updates=updates)
    with joined(config.run.device) as (world, device):
        images = told(load_data(config.data), world, device)
        trainer = Trainer(config, images, run, world, device)
        trainer.load(processes_may_differ=command.processes_may_differ)
        if longer and world.first:
            write_config(config, run)
        fit(trainer, run)


def told(splits: Splits, world: World, device: str) -> ImageSet:
    """Say what was found and where it computes."""
    if world.first:
        print(f"{splits.found}\ndevice: {device}", flush=True)
    return splits.train


def fit(trainer: Trainer, run: Path) -> None:
    """Train to the end; say how to go on when that is not reached."""
    first, config, reported = trainer.world.first, trainer.config, [time.monotonic()]
    if first and len(trainer.labels.times) > trainer.steps + 1:
        print(f"note: {len(trainer.labels.times)} label updates are asked for in {trainer.steps} "
              "steps; there is one at most before each step, and one at the end")  # fmt: skip

    def trained() -> Trained:
        return Trained.load(run, device=str(trainer.device))

    def report() -> None:
        overdue = time.monotonic() - reported[0] > 60 * config.run.report_minutes
        if first and overdue and config.labels.clusters and trainer.step < trainer.steps:
            write_report(run, trained(), trainer.images, final=False)
            reported[0] = time.monotonic()

    try:
        trainer.fit(report)
    except KeyboardInterrupt:
        command = f"{PROG} train --resume {run}"
        print(f"\nstopped; go on from the last checkpoint with: {command}", file=sys.stderr)
        raise
    if not first:
        return
    spent = ", ".join(f"{k} {x:.1%}" for k, x in time_shares(read_log(run, "epoch")).items())
    print(f"trained {config.optimiser.epochs} epochs: {run}\ntime: {spent}")
    if config.labels.clusters:
        print(f"report: {write_report(run, trained(), trainer.images)}")
        print(f"next: {PROG} labels {run} --csv labels.csv")


def report(command: Run) -> None:
    """Write a run's page."""
    trained = Trained.load(command.run, command.data, "auto")
    print(f"report: {write_report(command.run, trained, load_data(trained.config.data).train)}")


def evaluate(command: Evaluate) -> None:
    """Run the evaluate command."""
    subject = load_subject(command.run, command.images, command.device)
    print(f"{subject.found}\ndevice: {subject.evaluation.device}", flush=True)
    results: list[Result] = []
    found = run_protocols(
        subject.evaluation, command.protocol, command.baselines, command.settings,
        fresh=command.fresh,
    )  # fmt: skip
    for result in found:
        results.append(result)
        said = "was there already" if result.kept else f"{result.seconds:.1f} s"
        print(f"{result.protocol} of {result.method}: {'not run' if result.reason else said}",
              flush=True)  # fmt: skip
    print(f"\n{report_text(results)}")
    more = [name for name in BASELINES if name not in command.baselines]
    others = [p.name for p in PROTOCOLS if p.name not in {r.protocol for r in results}]
    for option, names in (("--protocol", others), ("--baselines", more)):
        if names:
            print(f"\nalso: {option} {' '.join(names)}", end="")
    print()
    if subject.own is None:
        print("no page is written: it is about the images that the run was trained on")
    elif subject.trained.config.labels.clusters:
        print(f"report: {write_report(command.run, subject.trained, subject.own)}")


def transfer(command: Transfer) -> None:
    """Run the transfer command."""
    config = transfer_config(
        command.run, command.arch, rotation=command.rotation, image_size=command.image_size,
        epochs=command.epochs, data=command.data, device=command.device,
    )  # fmt: skip
    kind = command.arch.replace(":", "-")
    out = command.out or command.run.with_name(f"{command.run.name}-to-{kind}")
    with joined(config.run.device) as (world, device):
        begun = out.exists()
        if begun and load_config(out) != config:
            refuse_existing(out)
        images = told(load_data(config.data), world, device)
        trainer = Trainer(config, images, out, world, device)
        if begun:
            trainer.load()
        elif world.first:
            create_run(config, out)
        fit(trainer, out)
    if world.first:
        evaluate(Evaluate(out, command.protocol, device=command.device))


def own_images(trained: Trained, run: Path) -> ImageSet:
    """Load the images that a run was trained on."""
    images = load_data(trained.config.data).train
    check_images(run, trained.images, images.paths)
    return images


def write_labels(command: Labels) -> None:
    """Run the labels command."""
    trained = Trained.load(command.run, command.data)
    images, labels = own_images(trained, command.run), trained.labels.labels
    write_csv(command.csv, images, labels)
    print(f"{len(images)} images, {len(labels)} heads: {command.csv}")


def predict(command: Predict) -> None:
    """Run the predict command."""
    trained = Trained.load(command.run, device=command.device)
    data = trained.config.but(workers=command.workers).data
    images, problems = new_images(Path(command.data), data, trained.network.mean.shape[1])
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    path = command.csv or command.run / "predictions.csv"
    write_csv(path, images, trained.predict(images))
    print(f"{len(images)} images, {len(trained.labels.states)} heads: {path}")


def export(command: Export) -> None:
    """Run the export command."""
    trained = Trained.load(command.run, device=command.device)
    if command.data is None:
        images = own_images(trained, command.run)
    else:
        channels = trained.network.mean.shape[1]
        images, _ = new_images(Path(command.data), trained.config.data, channels)
    export_run(trained, images, command.out)
    print(f"{command.out}: weights.pt, preprocessing.json, embeddings.npy of {len(images)} images")


def clusters(command: ExportClusters) -> None:
    """Run the export-clusters command."""
    trained = Trained.load(command.run, command.data)
    images = own_images(trained, command.run)
    made = export_clusters(trained, images, command.out, command.head, command.copy)
    print(f"{command.out}: {len(images)} images in {made} folders")


COMMANDS: dict[str, tuple[Callable[..., None], type]] = {
    "report": (report, Run),
    "evaluate": (evaluate, Evaluate),
    "transfer": (transfer, Transfer),
    "labels": (write_labels, Labels),
    "predict": (predict, Predict),
    "export": (export, Export),
    "export-clusters": (clusters, ExportClusters),
}


def parse(arguments: Sequence[str]) -> tuple[Callable[..., None], object]:
    """Return the function to call and its command."""
    name, rest = arguments[0], list(arguments[1:])
    prog = f"{PROG} {name}"
    if name == "train" and "--resume" in rest:
        if not rest[0].startswith("-"):
            raise RunError(f"--resume takes its settings from the run; drop {rest[0]}")
        return resume, tyro.cli(Resume, args=rest, prog=prog)
    if name == "train":
        preset = rest[0] if rest else ""
        if preset in ("-h", "--help"):
            print(USAGE)
            raise SystemExit(0)
        if preset not in PRESETS:
            known = ", ".join(PRESETS)
            raise RunError(f"train: name a preset ({known}) or --resume RUN, got {preset!r}")
        command = tyro.cli(Train, default=Train(PRESETS[preset]), args=rest[1:],
                           prog=f"{prog} {preset}")  # fmt: skip
        return train, command
    if name in COMMANDS:
        function, kind = COMMANDS[name]
        return function, tyro.cli(kind, args=rest, prog=prog)
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
    except SelfsupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # such as a full disk under TensorBoard
        print(f"error: {error.filename or ''} {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
