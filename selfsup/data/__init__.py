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
from typing import Any

import torch

from selfsup.config import DataConfig
from selfsup.data.decode import FileImages
from selfsup.data.folders import folder_images, new_images
from selfsup.data.images import ImageSet, Splits, TensorImages
from selfsup.data.imbalance import imbalanced
from selfsup.data.known import known_images
from selfsup.data.sources import Items
from selfsup.errors import DataError

__all__ = [
    "DataError", "FileImages", "ImageSet", "Splits", "TensorImages", "load_data", "new_images",
    "own_images",
]  # fmt: skip


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
    name, place = config.dataset, config.data
    if name in ("digits", "own") and place is not None:
        raise DataError(f"{name} takes no --data; `train folder` takes any images: {place}")
    if name == "own":
        raise DataError("this run's images were passed from Python: go on with selfsup.train there")
    if name == "folder" and place is None:
        raise DataError("folder: pass the images' folder with --data DIR")
    return known_images(name, place, config.image_size) or folder_images(config)


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
