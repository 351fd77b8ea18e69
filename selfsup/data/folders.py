"""Folders and zip files of images: which are for training, which for tests, of what class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from selfsup.data.files import IMAGE_SUFFIXES, MODES, FileImages, Source
from selfsup.data.images import DataError, ImageSet, Splits

SPLIT_SEED = 0
TEST_FRACTION = 0.2
TEST_FOLDERS = ("test", "val")


def class_folders(place: Path, workers: int = 0) -> Splits:
    """Find the images in a folder or a zip file; nothing is decoded.

    ``train/`` has ``test/`` or ``val/`` beside it, or there is one part. In a part, one folder per
    class makes it labelled; images beside the folders, or in folders of folders, make it
    unlabelled. A labelled part without a test part is split, an unlabelled one is not.

    Parameters
    ----------
    place : Path
        A folder or a zip file, or a folder with nothing but one zip file.
    workers : int
        Processes that decode.

    Raises
    ------
    DataError
        There are no images, or the parts do not go together.
    """
    source, names = _find(place)
    train, test, beside = _within("train/", names), [], ""
    for beside in (f"{folder}/" for folder in TEST_FOLDERS):
        if test := _within(beside, names):
            break
    # A folder "train" of images, and none for tests, is a class among others.
    if not train or not (test or any("/" in name for name in train)):
        return _split(_part(source, names, workers, _classes(names)))
    classes = _classes(train)
    trained = _part(source.below("train/"), train, workers, classes)
    if not test:
        return _split(trained)
    if classes and not (_classes(test) and set(_classes(test)) <= set(classes)):
        raise DataError(
            f"{place}: {beside} needs one folder per class as train/ has, and no others; to train "
            f"without a test part pass {place / 'train'}"
        )
    return Splits(trained, _part(source.below(beside), test, workers, classes))


def all_images(place: Path, channels: int, workers: int = 0) -> FileImages:
    """Return every image in a folder or a zip file, however nested, without classes."""
    source, names = _find(place)
    mode = {count: name for name, count in MODES.items()}[channels]
    return replace(_part(source, names, workers, ()), mode=mode)


def _find(place: Path) -> tuple[Source, list[str]]:
    source = Source(place)
    names = source.names() if place.exists() else []
    if not names and place.is_dir():
        archives = sorted(place.glob("*.zip"))
        if len(archives) == 1:
            source = Source(archives[0])
            names = source.names()
    if not names:
        raise DataError(
            f"no images in {place}: looked for {', '.join(sorted(IMAGE_SUFFIXES))}, in all "
            "folders in it, or in the only zip file there"
        )
    if source.place.is_file():  # people zip a folder, not what is in it
        while (
            len(tops := {name.split("/")[0] for name in names}) == 1
            and min(name.count("/") for name in names) > 1
            and "train" not in tops
        ):
            prefix = f"{tops.pop()}/"
            source, names = source.below(prefix), _within(prefix, names)
    return source, names


def _within(prefix: str, names: list[str]) -> list[str]:
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _classes(names: list[str]) -> tuple[str, ...]:
    """Return the folders of images that are all in folders, and in no deeper ones."""
    if any(name.count("/") != 1 for name in names):
        return ()
    return tuple(sorted({name.split("/")[0] for name in names}))


def _part(source: Source, names: list[str], workers: int, classes: tuple[str, ...]) -> FileImages:
    number = {name: i for i, name in enumerate(classes)}
    targets = [number[name.split("/")[0]] if classes else -1 for name in names]
    return FileImages(
        source, torch.tensor(targets, dtype=torch.int64), classes, tuple(names), workers=workers
    )


def _split(whole: FileImages) -> Splits:
    return split(whole) if whole.labelled else Splits(whole, None)


def split(whole: ImageSet) -> Splits:
    """Split labelled images 80:20 by class, always in the same way."""
    index = np.arange(len(whole))
    try:
        train, test = train_test_split(
            index, test_size=TEST_FRACTION, random_state=SPLIT_SEED, stratify=whole.targets.numpy()
        )
    except ValueError as error:
        raise DataError(f"too few images for a test split of every class: {error}") from error
    return Splits(
        whole.select(torch.from_numpy(np.sort(train))),
        whole.select(torch.from_numpy(np.sort(test))),
    )
