"""Data sets: images in a fixed order, in memory or decoded when they are used.

===================  ===========================================================================
digits               in scikit-learn
fashion-mnist        the four idx files, in DIR or in DIR/FashionMNIST/raw
cifar10, cifar100    DIR/cifar-10-batches-py, DIR/cifar-100-python, or class folders
svhn                 DIR/train_32x32.mat and DIR/test_32x32.mat, or class folders
imagenet             class folders
folder               all images in DIR, however nested; with classes "folders": class folders
===================  ===========================================================================

DIR is what ``--data`` says; without it, other than for folder, it is ``data``. Class folders are
DIR/train/CLASS/* and DIR/test/CLASS/* (or val), or DIR/CLASS/*; folders may be in a zip file, which
is then DIR or the only one in it.

Images are upright and cut, not squeezed. Those in memory have a shorter side of at most the
network's input, and a longer one of at most 1.5 of it; a view shows a square of that.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from selfsup.config import DataConfig
from selfsup.data.decode import MODES, FileImages
from selfsup.data.folders import all_images, class_folders
from selfsup.data.images import ImageSet, Splits, TensorImages
from selfsup.data.imbalance import imbalanced
from selfsup.data.known import digit_images, fashion_images, torchvision_images
from selfsup.data.sources import Items
from selfsup.errors import DataError

__all__ = [
    "DataError", "FileImages", "ImageSet", "Splits", "TensorImages", "load_data", "new_images",
    "own_images",
]  # fmt: skip

CLASS_FOLDERS = "DIR/train/CLASS/* with DIR/test/CLASS/* (or val), in folders or a zip file"
#: What DIR may hold besides class folders, and how to come by it.
ELSE = {
    "cifar10": "or the folder cifar-10-batches-py, unpacked from "
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "cifar100": "or the folder cifar-100-python, unpacked from "
    "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    "svhn": "or train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers",
    "imagenet": "which is ILSVRC 2012 from https://image-net.org, unpacked",
    "folder": "or images in any folders",
}


def load_data(config: DataConfig) -> Splits:
    """Load the data set that `config` names, of its training images those that it wants.

    Nothing is downloaded.

    Raises
    ------
    DataError
        It is not there, or not as it should be.
    """
    whole = _whole(config)
    train = imbalanced(whole.train, config.imbalance, config.imbalance_seed)
    left_out = len(whole.train) - len(train)
    found = whole.found + (f"; {left_out:,} left out ({config.imbalance})" if left_out else "")
    return replace(whole, train=train, found=found)


def _whole(config: DataConfig) -> Splits:
    name, place = config.dataset, Path(config.data or "data")
    if name in ("digits", "own") and config.data is not None:
        raise DataError(f"{name} takes no --data; `train folder` takes any images: {config.data}")
    if name == "own":
        raise DataError("this run's images were passed from Python: go on with selfsup.train there")
    if name == "folder" and config.data is None:
        raise DataError("folder: pass the images' folder with --data DIR")
    splits = None
    if name == "digits":
        splits = digit_images(config.image_size)
    elif name == "fashion-mnist":
        splits = fashion_images(None if config.data is None else place)
    elif name in ("cifar10", "cifar100", "svhn"):
        splits = torchvision_images(place, name)
    if splits is None:
        return _folders(place, config)
    shrunk = [
        part.resized(config.image_size)
        if isinstance(part, TensorImages) and max(part.images.shape[2:]) > config.image_size
        else part
        for part in (splits.train, splits.test)
    ]
    return Splits(shrunk[0], shrunk[1], f"{name}: {len(splits.train):,} images, classes known")  # type: ignore[arg-type]


def _folders(place: Path, config: DataConfig) -> Splits:
    name = config.dataset
    try:
        if name == "folder" and config.classes == "none":
            files, found = all_images(place, MODES["RGB"], config.workers)
            splits = Splits(files, None, found)
        else:
            splits = class_folders(place, config.workers, config.hold_out)
        if name != "folder" and (splits.test is None or not splits.train.labelled):
            raise DataError(f"{place} has images, but not in class folders")
    except DataError as error:
        raise DataError(
            f"{name}: {error}.\nPass its place with --data DIR: {CLASS_FOLDERS}; {ELSE[name]}"
        ) from error
    parts, bad = [], 0
    for part in (splits.train, splits.test):
        assert isinstance(part, FileImages | None)
        if part is not None:
            placed, problems = _placed(part, config)
            parts.append(placed)
            bad += len(problems)
    train, test = parts[0], parts[1] if len(parts) > 1 else None
    found = f"{splits.found}, {bad:,} unreadable, {len(train):,} used"
    found += f", {0 if test is None else len(test):,} held out; "
    found += f"{len(train.classes)} classes" if train.labelled else "no classes"
    return Splits(train, test, found)


def _placed(files: FileImages, config: DataConfig) -> tuple[ImageSet, list[str]]:
    if config.in_memory:
        return files.in_memory(config.image_size, config.skip_unreadable)
    if config.dataset == "folder":
        return files.checked(config.skip_unreadable)
    return files, []  # of a million images: one that is bad says so when its turn comes


def new_images(place: Path, config: DataConfig, channels: int) -> tuple[ImageSet, list[str]]:
    """Return all images of a place as `config` shows them, and what cannot be read."""
    files, _ = all_images(place, channels, config.workers)
    return _placed(files, replace(config, dataset="folder", skip_unreadable=True))


def own_images(dataset: Any, workers: int = 0) -> FileImages:
    """Return any map-style data set as images.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        Its items are images, or tuples that begin with one: PIL's, (H, W, C) uint8 arrays, (C, H,
        W) tensors of bytes or of floats in [0, 1]. Its `targets` and `classes`, where it has both,
        are watched.
    workers : int
        Processes that get items.
    """
    source = Items(dataset)
    classes = tuple(getattr(dataset, "classes", ()))
    known = getattr(dataset, "targets", None) if classes else None
    targets = torch.full((len(dataset),), -1) if known is None else torch.as_tensor(known)
    with source.open(source.names[0]) as image:
        mode = "L" if image.mode[0] in "1LIF" and image.mode != "LAB" else "RGB"
    names = tuple(source.names)
    return FileImages(source, targets, classes if known is not None else (), names, mode, workers)
