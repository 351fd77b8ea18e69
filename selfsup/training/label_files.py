"""Labels as files: read, checked against the images, written."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfsup.config import LabelConfig
from selfsup.data import ImageSet
from selfsup.errors import RunError
from selfsup.training.checkpoints import (
    check_images,
    fingerprint,
    load_checkpoint,
    load_config,
    write_whole,
)


def read_labels(source: Path) -> tuple[Tensor, tuple[int, ...], str | None]:
    """Read labels from a run, or from the .npy or .csv file that one wrote.

    Returns
    -------
    labels : Tensor
        (heads, N) int64.
    clusters : tuple of int
        K of each head: of a file, one more than its largest label.
    images : str, optional
        The fingerprint of the labelled images; an .npy file has none.
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
