"""Data sets: images in a fixed order, and views of them."""

from __future__ import annotations

from pathlib import Path

from selfsup.config import Config
from selfsup.data.folders import all_images, load_folder
from selfsup.data.images import DataError, FileImages, ImageSet, Splits, TensorImages
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

#: What each data set may look like under --data, besides class folders.
PUBLISHED = {
    "cifar10": "the folder cifar-10-batches-py of the Python version",
    "cifar100": "the folder cifar-100-python of the Python version",
    "svhn": "train_32x32.mat and test_32x32.mat",
    "imagenet": "DIR/train/WNID/* and DIR/val/WNID/*",
}


def load_data(config: Config) -> Splits:
    """Load the data set that `config` names; nothing is downloaded."""
    place = Path("data") if config.data is None else Path(config.data)
    name = config.dataset
    if name == "digits":
        return digit_images(config.image_size)
    if name == "fashion-mnist":
        return fashion_images(None if config.data is None else place, config.image_size)
    if name == "folder" and config.data is None:
        raise DataError("folder: pass the images' folder with --data DIR")
    published = None
    if name in ("cifar10", "cifar100"):
        published = cifar_images(place, int(name.removeprefix("cifar")))
    elif name == "svhn":
        published = svhn_images(place)
    if published is not None:
        return published
    try:
        return load_folder(place, config)
    except DataError as error:
        if name == "folder":
            raise
        raise DataError(f"{error}. {name} may also be {PUBLISHED[name]}, in --data DIR") from error
