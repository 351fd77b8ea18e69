"""Folders and zip files of images: which are for training, which for tests, of what class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from selfsup.config import DataConfig
from selfsup.data.images import FileImages, ImageSet, Splits
from selfsup.data.sources import IMAGE_SUFFIXES, Files
from selfsup.errors import DataError

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


def folder_images(config: DataConfig) -> Splits:
    """Return the images of class folders, or of any folders without classes."""
    name, place = config.dataset, Path(config.data or "data")
    test: FileImages | None = None
    try:
        train, found = all_images(place)
        if name != "folder" or config.classes == "folders":
            train, test = class_folders(train, place, config.hold_out)
        if name != "folder" and (test is None or not train.labelled):
            raise DataError(f"{place} has images, but not in class folders")
    except DataError as error:
        raise DataError(
            f"{name}: {error}.\nPass its place with --data DIR: {CLASS_FOLDERS}; {ELSE[name]}"
        ) from error
    used, bad = _placed(train, config)
    held, more = (None, []) if test is None else _placed(test, config)
    found += (
        f", {len(bad + more):,} unreadable, {len(used):,} used, {len(held or ()):,} held out; "
        + (f"{len(used.classes)} classes" if used.labelled else "no classes")
    )
    return Splits(used, held, found)


def new_images(place: Path, config: DataConfig, channels: int) -> tuple[ImageSet, list[str]]:
    """Return all images of a place as `config` shows them, and what cannot be read."""
    files = replace(all_images(place)[0], channels=channels)
    return _placed(files, replace(config, dataset="folder", skip_unreadable=True))


def _placed(files: FileImages, config: DataConfig) -> tuple[ImageSet, list[str]]:
    files = replace(files, workers=config.workers)
    if config.in_memory:
        return files.in_memory(config.image_size, config.skip_unreadable)
    if config.dataset == "folder":
        return files.decoded(8, config.skip_unreadable)[1:]
    return files, []  # of a million images: one that is bad says so when its turn comes


def all_images(place: Path) -> tuple[FileImages, str]:
    """Return every image in a folder or a zip file, however nested, and what was found."""
    if not place.exists():
        raise DataError(f"there is no folder or zip file {place}")
    source = Files(place)
    names, others = source.names()
    if not names and len(archives := list(place.glob("*.zip"))) == 1:
        source = Files(archives[0])
        names, others = source.names()
    if not names:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"no images in {place} or any folder in it, that is, no {kinds}")
    left = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(5))
    found = f"{place}: {len(names):,} images found" + (f" (other files: {left})" if left else "")
    images = FileImages(source, torch.full((len(names),), -1), (), tuple(names))
    if source.place.is_file():  # people zip a folder, not what is in it
        while (
            len(tops := {path.split("/")[0] for path in images.paths}) == 1
            and min(path.count("/") for path in images.paths) > 1
            and "train" not in tops
        ):
            images = _below(f"{tops.pop()}/", images)
    return images, found


def _below(folder: str, images: FileImages) -> FileImages:
    """Return those of unlabelled images that are in a folder, by their paths in it."""
    paths = tuple(x.removeprefix(folder) for x in images.paths if x.startswith(folder))
    source = images.source
    if isinstance(source, Files):
        source = replace(source, prefix=source.prefix + folder)
    return replace(images, source=source, paths=paths, targets=images.targets[: len(paths)])


def class_folders(
    images: FileImages, place: Path, hold_out: float = 0.0
) -> tuple[FileImages, FileImages | None]:
    """Take the folders of images as classes, and some for tests; nothing is decoded.

    ``train/`` has ``test/`` or ``val/`` beside it, or there is one part, of which `hold_out` is the
    share of every class that becomes a test part. A part has one folder per class; one folder alone
    is no class. Parts that do not go together are a `DataError`.
    """
    train, beside = _below("train/", images), "test/"
    test = _below(beside, images) or _below(beside := "val/", images)
    # A folder "train" of images, and none for tests, is a class among others.
    if not train or not (test or any("/" in path for path in train.paths)):
        train, test = images, images.select(torch.tensor([], dtype=torch.int64))
    train = _classified(train)
    if not test:
        return split(train, hold_out) if train.labelled and hold_out else (train, None)
    if train.labelled:
        test = _classified(test)
        if not test.labelled or not set(test.classes) <= set(train.classes):
            raise DataError(
                f"{place}: {beside} needs one folder per class as train/ has, and no others; to "
                f"train without a test part pass {place / 'train'}"
            )
        numbers = torch.tensor([train.classes.index(name) for name in test.classes])
        test = replace(test, classes=train.classes, targets=numbers[test.targets])
    return train, test


def _classified(images: FileImages) -> FileImages:
    """Take folders as classes if all images are in some and in no deeper ones; one is no class."""
    if any(path.count("/") != 1 for path in images.paths):
        return images
    names, targets = np.unique([x.split("/")[0] for x in images.paths], return_inverse=True)
    if len(names) < 2:
        return images
    return replace(images, classes=tuple(names.tolist()), targets=torch.from_numpy(targets))


def split(whole: FileImages, share: float) -> tuple[FileImages, FileImages]:
    """Hold out a share of each class, always the same; a class of one image stays whole."""
    rng = np.random.default_rng(0)
    targets, test = whole.targets.numpy(), np.zeros(len(whole), bool)
    for label in np.unique(targets):
        members = rng.permutation(np.flatnonzero(targets == label))
        test[members[: min(len(members) - 1, round(share * len(members)))]] = True
    if not test.any():
        raise DataError(f"hold_out {share} of {len(whole)} images keeps none for tests")
    train, held = (torch.from_numpy(np.flatnonzero(part)) for part in (~test, test))
    return whole.select(train), whole.select(held)
