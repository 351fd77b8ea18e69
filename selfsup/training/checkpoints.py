"""A run's directory: settings, log, checkpoints, labels. Every file is whole at any moment.

::

    RUN/config.json         the settings
    RUN/log.jsonl           a line for every label update and every epoch
    RUN/checkpoints/        epoch-0012-step-000340.pt: 12 epochs and 340 steps are done
    RUN/labels.npy          (heads, N) int64, those of the newest checkpoint
"""

from __future__ import annotations

import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfsup.config import Config, LabelConfig, RunConfig
from selfsup.data import ImageSet
from selfsup.errors import UNLOADABLE, RunError

VERSION = 5
NAME = re.compile(r"epoch-(\d+)-step-(\d+)\.pt")


def refuse_existing(run: Path) -> None:
    """Raise if there is anything where a new run should go."""
    if run.exists():
        raise RunError(
            f"{run} exists already. Choose another --out, or go on with it: "
            f"python -m selfsup train --resume {run}"
        )


def create_run(config: Config, run: Path) -> None:
    """Make a new run directory; an existing one is never touched."""
    refuse_existing(run)
    new = run.with_name(f".{run.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    with _writing(run):
        (new / "checkpoints").mkdir(parents=True)
        write_whole(new / "config.json", config.to_json().encode())
        os.replace(new, run)  # whole from the start


def load_config(run: Path, data: str | None = None) -> Config:
    """Return the settings of a run, with another place of the images if they have moved."""
    if not (run / "config.json").is_file():
        raise RunError(f"{run}: no run here (no config.json)")
    config = Config.load(run / "config.json")
    return config if data is None else config.but(data=str(Path(data).resolve()))


def fingerprint(paths: Sequence[str]) -> str:
    """Return what ties labels to images: how many there are, and a digest of their paths."""
    digest = hashlib.sha256("\n".join(paths).encode(errors="surrogateescape")).hexdigest()
    return f"{len(paths)} images, {digest[:16]}"


def check_images(where: Path, expected: str, paths: Sequence[str]) -> None:
    """Raise unless labels that are tied to `expected` images belong to these."""
    if fingerprint(paths) != expected:
        raise RunError(
            f"{where} belongs to other images ({expected}) than these ({fingerprint(paths)}): "
            "files were added, removed or renamed, or --data is another place. Labels go by the "
            "order of the images; restore it, or start a new run"
        )


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run: two processes must not write to it at once."""
    with (run / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{run} is being trained by another process") from error
        yield


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = ": make room, and go on with a run by --resume" if full else ""
        raise RunError(
            f"{path} could not be written ({error.strerror}). What was there before is unharmed"
            + advice
        ) from error


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that at any moment there is the old one or the new one, complete."""
    if not path.parent.is_dir():
        raise RunError(f"{path} cannot be written: there is no folder {path.parent}")
    temporary = path.with_name(path.name + ".tmp")
    try:
        with _writing(path):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            directory = os.open(path.parent, os.O_RDONLY)
            os.fsync(directory)  # the new name too is to survive a power cut
            os.close(directory)
    finally:
        temporary.unlink(missing_ok=True)


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, the oldest first."""
    found = (run / "checkpoints").glob("epoch-*.pt")
    return sorted((path for path in found if NAME.fullmatch(path.name)), key=_position)


def _position(path: Path) -> list[int]:
    """Return the epochs, and the steps after them, that a checkpoint's name tells."""
    return [int(number) for number in re.findall(r"\d+", path.name)]


def save_checkpoint(
    run: Path, config: RunConfig, state: dict[str, Any], epoch: int, step: int
) -> None:
    """Write a checkpoint and its labels, then drop those that need not be kept.

    The newest ``config.keep`` stay, and those after every ``config.keep_every``-th epoch.
    """
    content = io.BytesIO()
    torch.save(state, content)
    path = run / "checkpoints" / f"epoch-{epoch:04d}-step-{step:06d}.pt"
    write_whole(path, content.getbuffer())
    save_labels(run, state["labels"]["labels"])
    for torn in (run / "checkpoints").glob("*.tmp"):  # a process was killed while it wrote
        torn.unlink()
    for old in checkpoints(run)[: -config.keep]:
        done, steps = _position(old)
        if steps or done == 0 or done % config.keep_every:
            old.unlink()


def save_labels(run: Path, labels: Tensor) -> None:
    """Write RUN/labels.npy."""
    content = io.BytesIO()
    np.save(content, labels.numpy())
    write_whole(run / "labels.npy", content.getbuffer())


def load_checkpoint(run: Path, device: str = "cpu") -> dict[str, Any]:
    """Return the newest checkpoint of a run."""
    found = checkpoints(run)
    if not found:
        raise RunError(f"{run}: no checkpoint in {run / 'checkpoints'}")
    newest = found[-1]
    try:
        state: dict[str, Any] = torch.load(newest, map_location=device, weights_only=True)
        version = state["version"]
        if version == VERSION:
            state["labels"]["labels"] = state["labels"]["labels"].cpu()  # no run's file without
    except UNLOADABLE as error:
        raise RunError(f"{newest} cannot be read: it is damaged, or no checkpoint of a run. "
                       "Delete it to go on from the one before") from error  # fmt: skip
    if version != VERSION:
        raise RunError(f"{newest} has version {version}, this program reads {VERSION}")
    return state


def read_labels(source: Path) -> tuple[Tensor, tuple[int, ...], str | None]:
    """Return the (heads, N) int64 labels of a run, or of the .npy or .csv file that one wrote.

    With them come K of each head (of a file, one more than its largest label) and the fingerprint
    of the labelled images, which an .npy file does not have.
    """
    if not source.exists():
        raise RunError(f"{source}: no labels here; pass a run, or the .npy or .csv file of one")
    if source.is_dir():
        state = load_checkpoint(source)
        return state["labels"]["labels"], load_config(source).labels.clusters, state["images"]
    images = None
    try:
        if source.suffix == ".npy":
            table = np.load(source)
        else:
            table, images = _read_csv(source)
    except (ValueError, EOFError, OSError) as error:
        reason = "no array of numbers" if source.suffix == ".npy" else error
        raise RunError(f"{source}: not a file of labels ({reason})") from error
    whole = table.ndim == 2 and table.size and np.issubdtype(table.dtype, np.integer)
    if not whole or table.min() < 0:
        raise RunError(
            f"{source}: labels must be a (heads, N) table of integers >= 0, got "
            f"{table.shape} {table.dtype}"
        )
    clusters = tuple(max(2, int(head.max()) + 1) for head in table)
    return torch.from_numpy(table.astype(np.int64)), clusters, images


def _read_csv(source: Path) -> tuple[NDArray[np.int64], str]:
    # spreadsheets put a mark before the text, and semicolons between the columns in some languages
    text = source.read_text(encoding="utf-8-sig", errors="surrogateescape")
    mark = ";" if text.startswith("index;") else ","
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=mark))
    if not rows or rows[0][:2] != ["index", "path"]:
        raise ValueError(f"its first line is not index,path,head_0,... but {rows[:1]}")
    if [row[0] for row in rows[1:]] != [str(i) for i in range(len(rows) - 1)]:
        raise ValueError("its indices are not 0, 1, 2, ... in order")
    table = np.array([row[2:] for row in rows[1:]], np.int64).T
    return table, fingerprint([row[1] for row in rows[1:]])


def write_csv(path: Path, images: ImageSet, labels: Tensor) -> None:
    """Write one row an image: index, path and one column per head."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["index", "path", *(f"head_{h}" for h in range(len(labels)))])
    for i, (name, row) in enumerate(zip(images.paths, labels.T.tolist(), strict=True)):
        writer.writerow([i, name, *row])
    write_whole(path, text.getvalue().encode(errors="surrogateescape"))


def fixed_labels(config: LabelConfig, images: ImageSet) -> Tensor:
    """Return the (heads, N) labels that `config` names, for training on them as they are."""
    source = Path(str(config.labels_file))
    labels, _, labelled = read_labels(source)
    if labelled is not None:
        check_images(source, labelled, images.paths)
    if labels.shape != (len(config.clusters), len(images)):
        raise RunError(
            f"{source} holds labels of {labels.shape[1]} images by {labels.shape[0]} heads; there "
            f"are {len(images)} images and {len(config.clusters)} heads"
        )
    for head, (largest, k) in enumerate(zip(labels.amax(1), config.clusters, strict=True)):
        if largest >= k:
            raise RunError(f"{source}: head {head} has label {largest}, K is {k}")
    return labels


def append_log(run: Path, line: dict[str, Any]) -> None:
    """Add a line to the log."""
    path = run / "log.jsonl"
    with _writing(path), path.open("a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())  # no later than the checkpoint


def read_log(run: Path, event: str | None = None) -> list[dict[str, Any]]:
    """Return the log's lines ("update" or "epoch" ones); those that are none are left out."""
    path, lines = run / "log.jsonl", []
    for line in path.read_text(errors="replace").splitlines(True) if path.exists() else ():
        with suppress(ValueError):  # of a line that a crash has cut short
            lines.append(json.loads(line if line.endswith("\n") else ""))
    wanted = ("update", "epoch") if event is None else (event,)
    return [line for line in lines if isinstance(line, dict) and line.get("event") in wanted]


def cut_log(run: Path, epochs: int, updates: int) -> None:
    """Drop the lines of what happened after a checkpoint, which will happen again."""
    done = {"epoch": epochs, "update": updates}
    kept = [line for line in read_log(run) if line[line["event"]] <= done[line["event"]]]
    write_whole(run / "log.jsonl", "".join(json.dumps(line) + "\n" for line in kept).encode())
