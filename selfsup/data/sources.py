"""Images by name: in a folder, in a zip file, or in a data set of one's own."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from selfsup.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".bmp", ".ppm", ".pgm", ".gif", ".tif",
     ".tiff"}
)  # fmt: skip
#: First bytes of files without a suffix that are images.
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
#: Fewer than PIL knows: it asks one after the other.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
#: What PIL raises for files that are not what they should be.
UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, RuntimeError, struct.error, zlib.error,
    zipfile.BadZipFile, Image.DecompressionBombError,
)  # fmt: skip


class Source(Protocol):
    """Where images are, which are known by their names."""

    def open(self, name: str) -> Any:
        """Return a context with the image; what is wrong with it is a `DataError`."""

    def locate(self, name: str) -> Path | None:
        """Return its file, if it is one."""


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
        inside = (name.removeprefix(self.prefix) for name in found if name.startswith(self.prefix))
        images, others = [], Counter[str]()
        for name in inside:
            if _hidden(name):
                continue
            if self._is_image(name):
                images.append(name)
            else:
                others[PurePath(name).suffix or "no suffix"] += 1
        return sorted(images, key=lambda name: name.split("/")), others

    def _is_image(self, name: str) -> bool:
        suffix = PurePath(name).suffix.lower()
        if suffix:
            return suffix in IMAGE_SUFFIXES
        try:
            return self._content(name, 4).startswith(MAGIC)
        except UNREADABLE:
            return False

    def _content(self, name: str, size: int = -1) -> bytes:
        if self.place.is_dir():
            with self.locate(name).open("rb") as file:
                return file.read(size)
        with _archive(self.place, os.getpid()).open(self.prefix + name) as file:
            return file.read(size)

    def below(self, prefix: str) -> Files:
        """Return a folder in this one."""
        return Files(self.place, self.prefix + prefix)

    def locate(self, name: str) -> Path:
        """Return the path of an image, in a zip file as if that was a folder."""
        return self.place / (self.prefix + name)

    @contextmanager
    def open(self, name: str) -> Iterator[Image.Image]:
        """Open an image; whatever is wrong with it is a `DataError` that names it."""
        where = self.locate(name)
        try:
            file = where if self.place.is_dir() else BytesIO(self._content(name))
            with Image.open(file, formats=FORMATS) as image:
                yield image
        except (FileNotFoundError, KeyError) as error:
            raise DataError(
                f"{where}: was there when the images were listed and is gone"
            ) from error
        except UNREADABLE as error:
            reason = str(error).replace(f"{str(where)!r}", "it")
            raise DataError(f"{where}: not a readable image ({reason})") from error


def _walk(place: Path) -> Iterator[Path]:
    """Give every file once: folders that are links come after those that are none."""
    folders, links, linked, files = [place], list[Path](), list[Path](), list[str]()
    seen: set[tuple[int, int]] = set()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                path = Path(entry.path)
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(path)
                elif entry.is_symlink():
                    linked.append(path)
                else:
                    files.append(entry.path)
                    yield path
        except OSError as error:
            raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
    real = {os.path.realpath(file) for file in files} if linked else set()
    for path in linked:
        target = os.path.realpath(path)
        if target not in real:
            real.add(target)
            yield path


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePath(name).parts)


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
        self.names: Sequence[str] = names
        self._index = {name: i for i, name in enumerate(names)}

    def locate(self, name: str) -> Path | None:
        """Return the file of an image, where the data set tells its name."""
        path = Path(name).absolute()
        return path if path.is_file() else None

    @contextmanager
    def open(self, name: str) -> Iterator[Image.Image]:
        """Give an item as an image."""
        try:
            item = self.dataset[self._index[name]]
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
