"""Data sets: images in a fixed order, in memory or decoded when they are used.

===================  ===========================================================================
digits               in scikit-learn
fashion-mnist        the four idx files, in DIR or in DIR/FashionMNIST/raw
cifar10, cifar100    DIR/cifar-10-batches-py, DIR/cifar-100-python, or class folders
svhn                 DIR/train_32x32.mat and DIR/test_32x32.mat, or class folders
imagenet             class folders
folder               class folders; or DIR/CLASS/*, of which a fifth is set aside for testing; or
                     images without classes: directly in DIR, or in folders of folders
===================  ===========================================================================

DIR is what ``--data`` says; without it, other than for folder, it is ``data``. Class folders are
DIR/train/CLASS/* and DIR/test/CLASS/* (or val); folders may be in a zip file, which is then DIR or
the only one in it.

Images in memory keep their size if all are square, of one size and no larger than the network's
input; others become a square of that size. Images that are decoded when they are used are not
squeezed: a square is cut out of them.
"""

from __future__ import annotations

from pathlib import Path

from selfsup.config import Config
from selfsup.data.files import FileImages
from selfsup.data.folders import all_images, class_folders
from selfsup.data.images import DataError, ImageSet, Splits, TensorImages
from selfsup.data.known import cifar_images, digit_images, fashion_images, svhn_images

__all__ = [
    "DataError",
    "FileImages",
    "ImageSet",
    "Splits",
    "TensorImages",
    "all_images",
    "load_data",
]

CLASS_FOLDERS = "DIR/train/CLASS/* with DIR/test/CLASS/* (or val), in folders or a zip file"
#: What DIR may hold besides class folders, and how to come by it.
ELSE = {
    "cifar10": "or the folder cifar-10-batches-py, unpacked from "
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "cifar100": "or the folder cifar-100-python, unpacked from "
    "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    "svhn": "or train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers",
    "imagenet": "which is ILSVRC 2012 from https://image-net.org, unpacked",
    "folder": "or DIR/CLASS/*, or images without classes",
}


def load_data(config: Config) -> Splits:
    """Load the data set that `config` names; nothing is downloaded.

    Raises
    ------
    DataError
        It is not there, or not as it should be.
    """
    name, place = config.dataset, Path(config.data or "data")
    if name == "folder" and config.data is None:
        raise DataError(
            f"folder: pass the images' folder with --data DIR: {CLASS_FOLDERS}; {ELSE[name]}"
        )
    splits = None
    if name == "digits":
        splits = digit_images(config.image_size)
    elif name == "fashion-mnist":
        splits = fashion_images(None if config.data is None else place)
    elif name in ("cifar10", "cifar100"):
        splits = cifar_images(place, name)
    elif name == "svhn":
        splits = svhn_images(place)
    if splits is None:
        splits = _folders(place, config)
    test = None if splits.test is None else _placed(splits.test, config)
    return Splits(_placed(splits.train, config), test)


def _folders(place: Path, config: Config) -> Splits:
    name = config.dataset
    try:
        splits = class_folders(place, config.workers)
        if name != "folder" and (splits.test is None or not splits.train.labelled):
            raise DataError(f"{place} has images, but not in class folders")
    except DataError as error:
        raise DataError(
            f"{name}: {error}.\nPass its place with --data DIR: {CLASS_FOLDERS}; {ELSE[name]}"
        ) from error
    return splits


def _placed(images: ImageSet, config: Config) -> ImageSet:
    if isinstance(images, FileImages):
        return images.in_memory(config.image_size) if config.in_memory else images
    assert isinstance(images, TensorImages)
    return images.no_larger_than(config.image_size)
