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
from typing import Any, Literal

import numpy as np
import torch

from selfsup.config import DataConfig
from selfsup.data.folders import folder_images, new_images
from selfsup.data.images import FileImages, ImageSet, Splits, TensorImages
from selfsup.data.known import known_images
from selfsup.data.sources import Items
from selfsup.errors import DataError

__all__ = [
    "DataError", "FileImages", "ImageSet", "Splits", "TensorImages", "imbalanced", "load_data",
    "new_images", "own_images",
]  # fmt: skip


def load_data(config: DataConfig) -> Splits:
    """Load the data set that `config` names, of its training images those that it wants.

    Nothing is downloaded.

    Raises
    ------
    DataError
        It is not there, or not as it should be.
    """
    name, place = config.dataset, config.data
    if name in ("digits", "own") and place is not None:
        raise DataError(f"{name} takes no --data; `train folder` takes any images: {place}")
    if name == "own":
        raise DataError("this run's images were passed from Python: go on with selfsup.train there")
    if name == "folder" and place is None:
        raise DataError("folder: pass the images' folder with --data DIR")
    whole = known_images(name, place, config.image_size) or folder_images(config)
    if config.imbalance == "full":
        return whole
    train = imbalanced(whole.train, config.imbalance, config.imbalance_seed)
    left_out = f"; {len(whole.train) - len(train):,} left out ({config.imbalance})"
    return replace(whole, train=train, found=whole.found + left_out)


def imbalanced(images: ImageSet, kind: Literal["light", "heavy"], seed: int) -> ImageSet:
    """Leave images of some classes out, which the seed decides; the rest keeps its order.

    Of C classes "light" drops half of the last one (truck of CIFAR-10), "heavy" the share i / C of
    the i-th: in CIFAR-10 10% of the first, 20% of the second, and so on to all of the tenth.
    """
    if not images.labelled:
        raise DataError(f"imbalance {kind} leaves out shares of classes, and these images have "
                        "none: for a folder, --classes folders names them")  # fmt: skip
    n = len(images.classes)
    shares = [(i + 1) / n if kind == "heavy" else 0.5 * (i == n - 1) for i in range(n)]
    targets, kept = images.targets.numpy(), np.ones(len(images), bool)
    for label, share in enumerate(shares):
        members = np.flatnonzero(targets == label)
        rng = np.random.default_rng((seed, label))
        kept[rng.permutation(members)[: round(share * len(members))]] = False
    return images.select(torch.from_numpy(np.flatnonzero(kept)))


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
    source, targets = Items(dataset), getattr(dataset, "targets", None)
    classes = tuple(getattr(dataset, "classes", ()))
    if targets is None or not classes:
        classes, targets = (), torch.full((len(dataset),), -1)
    names = tuple(source.index)
    with source.open(names[0]) as image:
        channels = 1 if image.mode[0] in "1LIF" and image.mode != "LAB" else 3
    return FileImages(source, torch.as_tensor(targets), classes, names, channels, workers)
