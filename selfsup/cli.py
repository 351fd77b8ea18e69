"""The command line: a function for each command, whose arguments are its options."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import arg

from selfsup import presets
from selfsup.config import FLAT, LEVELS, Config
from selfsup.data import ImageSet, load_data, new_images
from selfsup.errors import RunError, SelfsupError
from selfsup.evaluation.baselines import BASELINES
from selfsup.evaluation.protocols import PROTOCOLS, Settings
from selfsup.evaluation.run import Result
from selfsup.evaluation.run import evaluate as run_protocols
from selfsup.evaluation.subject import Images, load_subject
from selfsup.evaluation.table import report_text
from selfsup.evaluation.transfer import transfer_config
from selfsup.export import export_clusters, export_run
from selfsup.report.page import write_report
from selfsup.training.api import trainer_of
from selfsup.training.checkpoints import (
    check_images,
    load_config,
    read_labels,
    read_log,
    refuse_existing,
    write_csv,
)
from selfsup.training.dry_run import dry_run as try_small
from selfsup.training.fit import Trainer
from selfsup.training.monitor import time_shares
from selfsup.training.trained import Trained

PROG = "python -m selfsup"
USAGE = f"""usage: {PROG} COMMAND ...

  train PRESET [options]      train; presets: {", ".join(presets.PRESETS)}
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

#: What several commands take.
Place = tyro.conf.Positional[Path]
Moved = Annotated[str | None, arg(help="Folder of the images, when it has moved.")]
Protocols = Annotated[
    tuple[str, ...], arg(help="Names of protocols; the usual ones when left out.")
]
Level = Literal["0", "1", "2", "3", "moco-v2"]
AS_TRAINED, USUAL = Images(), Settings()


def train(
    config: Annotated[Config, FLAT], out: Path | None = None, level: Level | None = None,
    label_level: Level | None = None, as_authors: bool = False, dry_run: bool = False,
) -> None:  # fmt: skip
    """Train from a preset.

    Parameters
    ----------
    config : Config
        The settings.
    out : Path, optional
        New run directory; runs/PRESET when left out.
    level : str, optional
        Augmentation level of the training views, as in the authors' code; sets all of augment.
    label_level : str, optional
        The same for the label pass; sets all of label-augment.
    as_authors : bool
        Do all that docs/differences.md lists as the authors' code does it.
    dry_run : bool
        Build everything, print the settings and what the full run needs, try a few small steps.
    """
    changes: dict[str, Any] = {}
    dataset, data, file = config.data.dataset, config.data.data, config.labels.labels_file
    if file is not None and not (dry_run and file == "RUN"):
        _, changes["clusters"], _ = read_labels(Path(file).resolve())
        changes["labels_file"] = str(Path(file).resolve())
    if data is None and dataset not in ("digits", "fashion-mnist", "folder"):
        data = "data"
    if data is not None:  # a run can then be resumed from anywhere
        changes["data"] = str(Path(data).resolve())
    if level is not None:
        changes["augment"] = LEVELS[level]
    if label_level is not None:
        changes["label_augment"] = LEVELS[label_level]
    config = config.but(**changes)
    if as_authors:
        config = presets.as_authors(config)
    if dry_run:
        try_small(config)
        return
    with trainer_of(config, out or Path("runs") / config.run.preset) as trainer:
        fit(trainer)


def go_on(
    resume: Path, data: Moved = None, epochs: int | None = None, processes_may_differ: bool = False
) -> None:
    """Go on with a stopped run; it ends in the same bits as if never stopped.

    Parameters
    ----------
    resume : Path
        The run.
    epochs : int, optional
        Train to so many epochs instead; schedules stretch, and label updates grow in proportion.
    processes_may_differ : bool
        Go on with another number of processes; the bits are others then.
    """
    config = load_config(resume, data)
    if epochs is not None:
        updates = round(config.labels.updates * epochs / config.optimiser.epochs)
        fewest = min(1, config.labels.updates)  # random labels stay, others are renewed
        config = config.but(epochs=epochs, updates=max(fewest, updates))
    with trainer_of(
        config, resume, resume=True, processes_may_differ=processes_may_differ
    ) as trainer:
        fit(trainer)


def fit(trainer: Trainer) -> None:
    """Train to the end; say how to go on when that is not reached."""
    first, config, run = trainer.world.first, trainer.config, Path(str(trainer.run))
    labelled, reported = config.labels.clusters, time.monotonic()
    if first and labelled:
        print(f"clusters of each head: {', '.join(map(str, labelled))}")
    if first and len(trainer.labels.times) > trainer.steps + 1:
        print(f"note: {len(trainer.labels.times)} label updates are asked for in {trainer.steps} "
              "steps; there is one at most before each step, and one at the end")  # fmt: skip

    def report(final: bool = False) -> None:
        nonlocal reported
        overdue = time.monotonic() - reported > 60 * config.run.report_minutes
        if first and labelled and (final or (overdue and trainer.step < trainer.steps)):
            trained = Trained.load(run, device=str(trainer.device))
            page = write_report(run, trained, trainer.images, files=final)
            reported = time.monotonic()
            if final:
                print(f"report: {page}\nnext: {PROG} labels {run} --csv labels.csv")

    try:
        trainer.fit(report)
    except KeyboardInterrupt:
        command = f"{PROG} train --resume {run}"
        print(f"\nstopped; go on from the last checkpoint with: {command}", file=sys.stderr)
        raise
    if first:
        shares = time_shares(read_log(run, "epoch")).items()
        print(f"trained {config.optimiser.epochs} epochs: {run}")
        print(f"time: {', '.join(f'{part} {share:.1%}' for part, share in shares)}")
    report(final=True)


def report(run: Place, data: Moved = None) -> None:
    """Write a run's page."""
    trained = Trained.load(run, data, "auto")
    print(f"report: {write_report(run, trained, load_data(trained.config.data).train)}")


def evaluate(
    run: Place, protocol: Protocols = (), baselines: tuple[str, ...] = (),
    images: Annotated[Images, FLAT] = AS_TRAINED, device: str = "auto", fresh: bool = False,
    settings: Annotated[Settings, FLAT] = USUAL,
) -> None:  # fmt: skip
    """Say how good a run is; writes RUN/evaluation.json.

    RUN/report.html is written anew where the images are those that the run was trained on.

    Parameters
    ----------
    baselines : tuple of str
        What to compare with: untrained, pixels, kmeans, supervised.
    fresh : bool
        Compute anew what RUN/evaluation.json has already; trainings of protocols begin anew.
    """
    subject = load_subject(run, images, device)
    print(f"{subject.found}\ndevice: {subject.evaluation.device}", flush=True)
    results: list[Result] = []
    for result in run_protocols(subject.evaluation, protocol, baselines, settings, fresh=fresh):
        results.append(result)
        said = "was there already" if result.kept else f"{result.seconds:.1f} s"
        print(f"{result.protocol} of {result.method}: {'not run' if result.reason else said}",
              flush=True)  # fmt: skip
    print(f"\n{report_text(results)}")
    more = [name for name in BASELINES if name not in baselines]
    others = [p.name for p in PROTOCOLS if p.name not in {r.protocol for r in results}]
    for option, names in (("--protocol", others), ("--baselines", more)):
        if names:
            print(f"\nalso: {option} {' '.join(names)}", end="")
    print()
    if subject.own is None:
        print("no page is written: it is about the images that the run was trained on")
    elif subject.trained.config.labels.clusters:
        print(f"report: {write_report(run, subject.trained, subject.own)}")


def transfer(
    run: Place, arch: str, rotation: bool = False, image_size: int | None = None,
    epochs: int | None = None, out: Path | None = None, data: Moved = None, device: str = "auto",
    protocol: Protocols = (),
) -> None:  # fmt: skip
    """Train a fresh network on a run's labels, and evaluate it; called again, it goes on.

    Parameters
    ----------
    arch : str
        As of train.
    rotation : bool
        Predict quarter turns as well.
    image_size : int, optional
        Side of the network's input; that of the run, for AlexNet 224.
    epochs : int, optional
        As published (90) of ImageNet, those of the run for other images.
    out : Path, optional
        New run directory; RUN-to-ARCH when left out.
    """
    config = transfer_config(
        run, arch, rotation=rotation, image_size=image_size, epochs=epochs, data=data,
        device=device,
    )  # fmt: skip
    out = out or run.with_name(f"{run.name}-to-{arch.replace(':', '-')}")
    begun = out.exists()
    if begun and load_config(out) != config:
        refuse_existing(out)
    with trainer_of(config, out, resume=begun) as trainer:
        fit(trainer)
    if trainer.world.first:
        evaluate(out, protocol, device=device)


def own_images(trained: Trained, run: Path) -> ImageSet:
    """Load the images that a run was trained on."""
    images = load_data(trained.config.data).train
    check_images(run, trained.images, images.paths)
    return images


def write_labels(run: Place, data: Moved = None, csv: Path = Path("labels.csv")) -> None:
    """Write a run's labels: index, path and one column per head."""
    trained = Trained.load(run, data)
    images, labels = own_images(trained, run), trained.labels.labels
    write_csv(csv, images, labels)
    print(f"{len(images)} images, {len(labels)} heads: {csv}")


def predict(
    run: Place, data: str, csv: Path | None = None, device: str = "auto", workers: int = 0
) -> None:
    """Label new images with a trained run: index, path and one column per head.

    Parameters
    ----------
    data : str
        Folder of images, however nested; or a zip file of one.
    csv : Path, optional
        File to write; RUN/predictions.csv when left out.
    workers : int
        Processes that decode images.
    """
    trained = Trained.load(run, device=device)
    settings = trained.config.but(workers=workers).data
    images, problems = new_images(Path(data), settings, trained.network.mean.shape[1])
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    path = csv or run / "predictions.csv"
    write_csv(path, images, trained.predict(images))
    print(f"{len(images)} images, {len(trained.labels.states)} heads: {path}")


def export(run: Place, out: Place, data: str | None = None, device: str = "auto") -> None:
    """Write weights, how to standardise images for them, and the embeddings of the run's images.

    Parameters
    ----------
    data : str, optional
        Folder of other images to embed; those of the run when left out.
    """
    trained = Trained.load(run, device=device)
    if data is None:
        images = own_images(trained, run)
    else:
        channels = trained.network.mean.shape[1]
        images, _ = new_images(Path(data), trained.config.data, channels)
    export_run(trained, images, out)
    print(f"{out}: weights.pt, preprocessing.json, embeddings.npy of {len(images)} images")


def clusters(run: Place, out: Place, head: int = 0, copy: bool = False, data: Moved = None) -> None:
    """Make a folder for every cluster of a head, with links to its images.

    Parameters
    ----------
    copy : bool
        Copy the images instead.
    """
    trained = Trained.load(run, data)
    images = own_images(trained, run)
    made = export_clusters(trained, images, out, head, copy)
    print(f"{out}: {len(images)} images in {made} folders")


COMMANDS: dict[str, Callable[..., None]] = {
    "report": report,
    "evaluate": evaluate,
    "transfer": transfer,
    "labels": write_labels,
    "predict": predict,
    "export": export,
    "export-clusters": clusters,
}


def command_of(name: str, *rest: str) -> tuple[Callable[..., None], Sequence[str], str]:
    """Return the function of a command, the arguments that are left, and what it is called."""
    if name in COMMANDS:
        return COMMANDS[name], rest, name
    if name != "train":
        raise RunError(f"no command {name!r}\n{USAGE}")
    if "--resume" in rest:
        if not rest[0].startswith("-"):
            raise RunError(f"--resume takes its settings from the run; drop {rest[0]}")
        return go_on, rest, name
    preset = rest[0] if rest else ""
    if preset not in presets.PRESETS:
        known = ", ".join(presets.PRESETS)
        raise RunError(f"train: name a preset ({known}) or --resume RUN, got {preset!r}")
    return functools.partial(train, config=presets.PRESETS[preset]), rest[1:], f"train {preset}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    asked = arguments[1:2] if arguments[:1] == ["train"] else arguments[:1]
    if not arguments or asked in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    try:
        command, rest, name = command_of(*arguments)
        tyro.cli(command, args=rest, prog=f"{PROG} {name}")
    except SelfsupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # such as a full disk under TensorBoard
        print(f"error: {error.filename or ''} {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
