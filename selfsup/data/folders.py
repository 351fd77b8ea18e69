"""Folders and zip files of images: which are for training, which for tests, of what class."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from selfsup.data.decode import MODES, FileImages
from selfsup.data.images import ImageSet, Splits
from selfsup.data.sources import IMAGE_SUFFIXES, Files
from selfsup.errors import DataError

SPLIT_SEED = 0
TEST_FOLDERS = ("test", "val")


def all_images(place: Path, channels: int, workers: int = 0) -> tuple[FileImages, str]:
    """Return every image in a folder or a zip file, however nested, and what else was found."""
    source, names, others = _find(place)
    mode = {count: name for name, count in MODES.items()}[channels]
    return replace(_part(source, names, workers, ()), mode=mode), _found(place, names, others)


def class_folders(place: Path, workers: int = 0, hold_out: float = 0.0) -> Splits:
    """Find the images of class folders; nothing is decoded.

    ``train/`` has ``test/`` or ``val/`` beside it, or there is one part. A part has one folder per
    class; one folder alone is no class.

    Parameters
    ----------
    place : Path
        A folder or a zip file, or a folder with nothing but one zip file.
    workers : int
        Processes that decode.
    hold_out : float
        Share of every class that becomes a test part where there is none.

    Raises
    ------
    DataError
        There are no images, or the parts do not go together.
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
    if not names:
        there = "there is no such folder or zip file" if not place.exists() else "it has none of "
        kinds = "" if not place.exists() else ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"no images in {place}: {there}{kinds}, in any folder in it")
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
    targets = [number[name.split("/")[0]] if classes else -1 for name in names]
    return FileImages(
        source, torch.tensor(targets, dtype=torch.int64), classes, tuple(names), workers=workers
    )


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
