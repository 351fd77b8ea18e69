"""Folders and zip files of images: which are for training, which for tests, of what class."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from selfsup.config import DataConfig
from selfsup.data.decode import MODES, FileImages
from selfsup.data.images import ImageSet, Splits
from selfsup.data.sources import IMAGE_SUFFIXES, Files
from selfsup.errors import DataError

SPLIT_SEED = 0
TEST_FOLDERS = ("test", "val")
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
    parts: list[ImageSet] = []
    bad = 0
    for part in (splits.train, splits.test):
        if isinstance(part, FileImages):
            placed, problems = _placed(part, config)
            parts.append(placed)
            bad += len(problems)
    train, test = parts[0], parts[1] if len(parts) > 1 else None
    found = (
        f"{splits.found}, {bad:,} unreadable, {len(train):,} used, {len(test or ()):,} held out; "
        + (f"{len(train.classes)} classes" if train.labelled else "no classes")
    )
    return Splits(train, test, found)


def new_images(place: Path, config: DataConfig, channels: int) -> tuple[ImageSet, list[str]]:
    """Return all images of a place as `config` shows them, and what cannot be read."""
    files, _ = all_images(place, channels, config.workers)
    return _placed(files, replace(config, dataset="folder", skip_unreadable=True))


def _placed(files: FileImages, config: DataConfig) -> tuple[ImageSet, list[str]]:
    if config.in_memory:
        return files.in_memory(config.image_size, config.skip_unreadable)
    if config.dataset == "folder":
        return files.checked(config.skip_unreadable)
    return files, []  # of a million images: one that is bad says so when its turn comes


def all_images(place: Path, channels: int, workers: int = 0) -> tuple[FileImages, str]:
    """Return every image in a folder or a zip file, however nested, and what else was found."""
    source, names, others = _find(place)
    mode = {count: name for name, count in MODES.items()}[channels]
    return replace(_part(source, names, workers, ()), mode=mode), _found(place, names, others)


def class_folders(place: Path, workers: int = 0, hold_out: float = 0.0) -> Splits:
    """Find the images of class folders in a folder or a zip file; nothing is decoded.

    ``train/`` has ``test/`` or ``val/`` beside it, or there is one part, of which `hold_out` is the
    share of every class that becomes a test part. A part has one folder per class; one folder alone
    is no class. Parts that do not go together are a `DataError`.
    """
    source, names, others = _find(place)
    found = _found(place, names, others)
    train, test, beside = _within("train/", names), [], ""
    for beside in (f"{folder}/" for folder in TEST_FOLDERS):
        if test := _within(beside, names):
            break
    # A folder "train" of images, and none for tests, is a class among others.
    if not train or not (test or any("/" in name for name in train)):
        train, test = names, []
    else:
        source, below = source.below("train/"), source.below(beside)
    classes = _classes(train)
    trained = _part(source, train, workers, classes)
    if not test:
        splits = split(trained, hold_out) if classes and hold_out else Splits(trained, None)
        return replace(splits, found=found)
    if classes and not (_classes(test) and set(_classes(test)) <= set(classes)):
        raise DataError(
            f"{place}: {beside} needs one folder per class as train/ has, and no others; to train "
            f"without a test part pass {place / 'train'}"
        )
    return Splits(trained, _part(below, test, workers, classes), found)


def _found(place: Path, names: list[str], others: Counter[str]) -> str:
    left = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(5))
    return f"{place}: {len(names):,} images found" + (f" (other files: {left})" if left else "")


def _find(place: Path) -> tuple[Files, list[str], Counter[str]]:
    source = Files(place)
    names, others = source.names() if place.exists() else ([], Counter[str]())
    if not names and place.is_dir():
        archives = sorted(place.glob("*.zip"))
        if len(archives) == 1:
            source = Files(archives[0])
            names, others = source.names()
    if not place.exists():
        raise DataError(f"there is no folder or zip file {place}")
    if not names:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"no images in {place} or any folder in it, that is, no {kinds}")
    if source.place.is_file():  # people zip a folder, not what is in it
        while (
            len(tops := {name.split("/")[0] for name in names}) == 1
            and min(name.count("/") for name in names) > 1
            and "train" not in tops
        ):
            prefix = f"{tops.pop()}/"
            source, names = source.below(prefix), _within(prefix, names)
    return source, names, others


def _within(prefix: str, names: list[str]) -> list[str]:
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _classes(names: list[str]) -> tuple[str, ...]:
    """Return the folders, if all images are in some and in no deeper ones; one is no class."""
    if any(name.count("/") != 1 for name in names):
        return ()
    classes = tuple(sorted({name.split("/")[0] for name in names}))
    return classes if len(classes) > 1 else ()


def _part(source: Files, names: list[str], workers: int, classes: tuple[str, ...]) -> FileImages:
    number = {name: i for i, name in enumerate(classes)}
    targets = torch.tensor([number[name.split("/")[0]] if classes else -1 for name in names])
    return FileImages(source, targets, classes, tuple(names), workers=workers)


def split(whole: ImageSet, share: float) -> Splits:
    """Hold out a share of each class, always the same; a class of one image stays whole."""
    rng = np.random.default_rng(SPLIT_SEED)
    targets, test = whole.targets.numpy(), np.zeros(len(whole), bool)
    for label in np.unique(targets):
        members = rng.permutation(np.flatnonzero(targets == label))
        test[members[: min(len(members) - 1, round(share * len(members)))]] = True
    if not test.any():
        raise DataError(f"hold_out {share} of {len(whole)} images keeps none for tests")
    train, held = (torch.from_numpy(np.flatnonzero(part)) for part in (~test, test))
    return Splits(whole.select(train), whole.select(held))
