"""Images by name: in a folder, in a zip file, or in a data set of one's own."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from selfsup.errors import DataError

#: Fewer than PIL knows: it asks one after the other.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
IMAGE_SUFFIXES = {
    suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS
}
#: What PIL raises for files that are not what they should be.
UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, RuntimeError, struct.error, zlib.error,
    zipfile.BadZipFile, Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True)
class Files:
    """A folder or a zip file of images, which are known by their paths in it."""

    place: Path
    prefix: str = ""
    """The part of it that is meant: nothing, or a folder in it with a slash at the end."""

    def names(self) -> tuple[list[str], Counter[str]]:
        """Return the paths of all images, sorted by folder, and the suffixes of other files."""
        if self.place.is_dir():
            found = [path.relative_to(self.place).as_posix() for path in _walk(self.place)]
        else:
            listed = _archive(self.place, os.getpid()).namelist()
            found = [name for name in listed if not name.endswith("/")]
        images, others = [], Counter[str]()
        for name in found:
            if any(part.startswith((".", "__MACOSX")) for part in PurePath(name).parts):
                continue
            if self._is_image(name):
                images.append(name)
            else:
                others[PurePath(name).suffix or "no suffix"] += 1
        return sorted(images, key=lambda name: name.split("/")), others

    def _is_image(self, name: str) -> bool:
        if suffix := PurePath(name).suffix.lower():
            return suffix in IMAGE_SUFFIXES
        try:
            begin = self._read(name, 16)
        except UNREADABLE:
            return False
        # by its signature, so that a damaged image counts as one
        return any(accept and accept(begin) for _, accept in (Image.OPEN[kind] for kind in FORMATS))

    def _read(self, name: str, size: int = -1) -> bytes:
        inside = self.prefix + name
        if self.place.is_dir():
            with (self.place / inside).open("rb") as file:
                return file.read(size)
        with _archive(self.place, os.getpid()).open(inside) as file:
            return file.read(size)

    def locate(self, name: str) -> Path | None:
        """Return the file of an image, if it is one: not in a zip file."""
        return self.place / (self.prefix + name) if self.place.is_dir() else None

    @contextmanager
    def open(self, name: str) -> Iterator[Image.Image]:
        """Open an image; whatever is wrong with it is a `DataError` that names it."""
        where = self.place / (self.prefix + name)  # in a zip file as if that was a folder
        try:
            file = where if self.place.is_dir() else BytesIO(self._read(name))
            with Image.open(file, formats=FORMATS) as image:
                yield image
        except (FileNotFoundError, KeyError) as error:
            raise DataError(
                f"{where}: was there when the images were listed and is gone"
            ) from error
        except UNREADABLE as error:
            reason = str(error).replace(f"{str(where)!r}", "it")
            raise DataError(f"{where}: not a readable image ({reason})") from error


def _walk(place: Path) -> list[Path]:
    """Return every file once, by a path without links where there is one."""
    folders, seen = deque([place]), set[str]()
    files, linked_files = list[Path](), list[Path]()
    while folders:
        folder = folders.popleft()
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        try:
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                path, linked = Path(entry.path), entry.is_symlink()
                if entry.is_dir():  # those behind links come last
                    (folders.append if linked else folders.appendleft)(path)
                else:
                    (linked_files if linked else files).append(path)
        except OSError as error:
            raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
    if not linked_files:
        return files
    return list({os.path.realpath(x): x for x in [*reversed(linked_files), *files]}.values())


@lru_cache(maxsize=1)
def _archive(place: Path, process: int) -> zipfile.ZipFile:
    """Open a zip file once per process: its position in the file cannot be shared."""
    try:
        return zipfile.ZipFile(place)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{place}: neither a folder nor a readable zip file ({error})") from error


class Items:
    """The images of any map-style data set: PIL's, arrays or tensors, alone or first in a tuple."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        samples = getattr(dataset, "samples", None)  # of torchvision's folders: paths and classes
        names = [str(item[0]) for item in samples] if samples else []
        if len(set(names)) != len(dataset):
            names = [f"{i:06d}" for i in range(len(dataset))]
        self.index = {name: i for i, name in enumerate(names)}

    def locate(self, name: str) -> Path | None:
        """Return the file of an image, where the data set tells its name."""
        path = Path(name).absolute()
        return path if path.is_file() else None

    @contextmanager
    def open(self, name: str) -> Iterator[Image.Image]:
        """Give an item as an image."""
        try:
            item = self.dataset[self.index[name]]
        except UNREADABLE as error:
            raise DataError(f"item {name} of the data set cannot be read: {error}") from error
        image = item[0] if isinstance(item, tuple | list) else item
        if isinstance(image, np.ndarray | Tensor):
            image = to_pil_image(image)
        if not isinstance(image, Image.Image):
            raise DataError(
                f"item {name} of the data set is a {type(image).__name__}: an image must be PIL's, "
                "a (H, W, C) uint8 array or a (C, H, W) tensor of bytes or of floats in [0, 1]"
            )
        yield image
