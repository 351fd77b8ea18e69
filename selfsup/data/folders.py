"""Images in folders, or in a zip file of folders."""

from __future__ import annotations

import functools
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from selfsup.config import Config
from selfsup.data.images import (
    DataError,
    FileImages,
    ImageFile,
    ImageSet,
    Splits,
    TensorImages,
    decode,
    pixels,
    resized,
)

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
SPLIT_SEED, TEST_FRACTION = 0, 0.2
LAYOUTS = "DIR/train/CLASS/* with DIR/test/CLASS/* (or val), DIR/CLASS/*, or images without classes"


@dataclass(frozen=True)
class ZipMember:
    """A file in a zip file; each process opens that anew, as forks would share its position."""

    archive: Path
    name: str

    def open(self, mode: str = "rb") -> IO[Any]:
        """Open it for reading."""
        return _archive(self.archive, os.getpid()).open(self.name)


@functools.lru_cache(maxsize=4)
def _archive(path: Path, _process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@dataclass(frozen=True)
class Tree:
    """The image files under a place, by the parts of their relative paths, in order."""

    place: Path
    files: dict[tuple[str, ...], ImageFile]

    @classmethod
    def at(cls, place: Path) -> Tree:
        """List a folder, a zip file, or the only zip file of a folder."""
        files = _in_folder(place) if place.is_dir() else {}
        if not files:
            archives = sorted(place.glob("*.zip")) if place.is_dir() else [place]
            if len(archives) == 1 and archives[0].is_file():
                place = archives[0]
                files = _in_zip(place)
        return cls(place, dict(sorted(files.items())))

    def part(self, *names: str) -> Tree:
        """Return what is under the first of these folders that holds images."""
        for name in names:
            inner = {path[1:]: f for path, f in self.files.items() if path[0] == name and path[1:]}
            if inner:
                return Tree(self.place / name, inner)
        return Tree(self.place / names[0], {})

    def classes(self) -> tuple[str, ...]:
        """Return the names of the class folders; none when some image is in no such folder."""
        if any(len(path) != 2 for path in self.files):
            return ()
        return tuple(sorted({path[0] for path in self.files}))


def _in_folder(root: Path) -> dict[tuple[str, ...], ImageFile]:
    found: dict[tuple[str, ...], ImageFile] = {}
    for place, _, names in os.walk(root, followlinks=True):
        above = Path(place).relative_to(root).parts
        for name in names:
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                found[(*above, name)] = Path(place, name)
    return found


def _in_zip(path: Path) -> dict[tuple[str, ...], ImageFile]:
    try:
        names = _archive(path, os.getpid()).namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable zip file ({error})") from error
    images = [n for n in names if os.path.splitext(n)[1].lower() in SUFFIXES]
    return {tuple(n.split("/")): ZipMember(path, n) for n in images if "__MACOSX" not in n}


def load_folder(place: Path, config: Config) -> Splits:
    """Load class folders, or images without classes.

    Images of which not every one is in a class folder, just below DIR or DIR/train, have no
    classes; they are all for training.  Without a test part, a fifth of each class is one.
    """
    tree = Tree.at(place)
    train, test = tree.part("train"), tree.part("test", "val")
    if not tree.files:
        raise DataError(
            f"{config.dataset}: no images in {place}. Pass a folder or a zip file with {LAYOUTS}; "
            f"images are {', '.join(sorted(SUFFIXES))} files"
        )
    if train.files and test.files:
        classes = train.classes()
        unknown = set(test.classes()) - set(classes)
        if unknown and classes:
            raise DataError(
                f"{test.place}: classes without training images: {', '.join(sorted(unknown))}"
            )
        return Splits(_load(train, classes, config), _load(test, classes, config))
    tree = train if train.files else tree
    classes = tree.classes()
    whole = _load(tree, classes, config)
    return split(whole) if classes else Splits(whole, None)


def all_images(place: Path, channels: int, workers: int = 0) -> FileImages:
    """Return every image under a folder or in a zip file, however nested, without classes."""
    tree = Tree.at(place)
    if not tree.files:
        raise DataError(f"no images in {place}: {', '.join(sorted(SUFFIXES))} files are wanted")
    unknown = torch.full((len(tree.files),), -1)
    paths = tuple("/".join(path) for path in tree.files)
    return FileImages(tuple(tree.files.values()), unknown, (), paths, workers, channels)


def _load(tree: Tree, classes: tuple[str, ...], config: Config) -> ImageSet:
    number = {name: i for i, name in enumerate(classes)}
    targets = torch.tensor([number[path[0]] if classes else -1 for path in tree.files])
    paths = tuple("/".join(path) for path in tree.files)
    files = tuple(tree.files.values())
    if not config.in_memory:
        return FileImages(files, targets, classes, paths, config.workers)
    return TensorImages(read(files, paths, config.image_size), targets, classes, paths)


def read(files: Sequence[ImageFile], paths: Sequence[str], size: int) -> torch.Tensor:
    """Decode images to (N, 3, S, S) uint8.

    S is the side of the first image if that is square and no larger than `size`, else `size`;
    images of other shapes are resized to it.
    """
    width, height = decode(files[0], 3, paths[0]).size
    side = width if width == height <= size else size
    images = np.empty((len(files), side, side, 3), np.uint8)

    def one(i: int) -> None:
        image = decode(files[i], 3, paths[i])
        images[i] = pixels(resized(image, (0, 0, image.height, image.width), side))

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for _ in threads.map(one, range(len(files))):
            pass
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def split(whole: ImageSet) -> Splits:
    """Set a fifth of each class aside for testing."""
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
