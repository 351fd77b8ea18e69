"""Images in files: found in a folder or a zip file, decoded when they are used."""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePath

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from selfsup.augment import crop_boxes
from selfsup.config import AugmentConfig
from selfsup.data.images import DataError, ImageSet, TensorImages, finished
from selfsup.seeds import Stream, generator_of

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"}
)
#: Fewer than PIL knows: it asks one after the other.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF")
#: What PIL raises for files that are not what they should be.
UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, RuntimeError, struct.error, zlib.error,
    zipfile.BadZipFile, Image.DecompressionBombError,
)  # fmt: skip
MODES = {"L": 1, "RGB": 3}
#: Customary for ImageNet, and close to natural photographs in general.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_GREY_MEAN, IMAGENET_GREY_STD = (0.449,), (0.226,)
#: A JPEG may be decoded at a fraction of its size if that leaves so many pixels for every one of
#: the view; PIL's own thumbnails are made so, and differ by less than one part in 255 on average.
DRAFT_GAP = 2.0


@dataclass(frozen=True)
class Source:
    """A folder or a zip file of images, which are known by their paths in it."""

    place: Path
    prefix: str = ""
    """The part of it that is meant: nothing, or a folder in it with a slash at the end."""

    def names(self) -> list[str]:
        """Return the paths of all images, with slashes, in the order of the data set."""
        if self.place.is_dir():
            found = [
                (Path(folder) / name).relative_to(self.place).as_posix()
                for folder, _, names in os.walk(self.place, followlinks=True)
                for name in names
            ]
        else:
            found = _archive(self.place, os.getpid()).namelist()
        inside = (name.removeprefix(self.prefix) for name in found if name.startswith(self.prefix))
        return sorted(filter(_is_image, inside), key=lambda name: name.split("/"))

    def below(self, prefix: str) -> Source:
        """Return a folder in this one."""
        return Source(self.place, self.prefix + prefix)

    @contextmanager
    def open(self, name: str) -> Iterator[Image.Image]:
        """Open an image; whatever is wrong with it is a `DataError` that names it."""
        where = self.place / (self.prefix + name)
        try:
            if self.place.is_dir():
                with Image.open(where, formats=FORMATS) as image:
                    yield image
            else:
                content = _archive(self.place, os.getpid()).read(self.prefix + name)
                with Image.open(BytesIO(content), formats=FORMATS) as image:
                    yield image
        except (FileNotFoundError, KeyError) as error:
            raise DataError(
                f"{where}: was there when the images were listed and is gone; put it back or "
                "start a new run without it"
            ) from error
        except UNREADABLE as error:
            raise DataError(
                f"{where}: not a readable image ({error}); replace it, or remove it and start a "
                "new run"
            ) from error


def _is_image(name: str) -> bool:
    path = PurePath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


@lru_cache(maxsize=1)
def _archive(place: Path, process: int) -> zipfile.ZipFile:
    """Open a zip file once per process: its position in the file cannot be shared."""
    try:
        return zipfile.ZipFile(place)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{place}: neither a folder nor a readable zip file ({error})") from error


@dataclass(frozen=True, eq=False)
class FileImages(ImageSet):
    """Images that are decoded each time they are used."""

    source: Source
    targets: Tensor
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    mode: str = "RGB"
    """Or L; all images are converted to it."""
    workers: int = 0
    """Processes that decode; 0 decodes in this one."""

    @property
    def channels(self) -> int:
        """Return how many channels the images have."""
        return MODES[self.mode]

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return ImageNet's (C,) mean and standard deviation, without a look at the images."""
        if self.mode == "RGB":
            return torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        return torch.tensor(IMAGENET_GREY_MEAN), torch.tensor(IMAGENET_GREY_STD)

    def select(self, index: Tensor) -> FileImages:
        """Return the samples at `index`, in that order."""
        paths = tuple(self.paths[i] for i in index.tolist())
        return replace(self, targets=self.targets[index], paths=paths)

    def views(
        self,
        batches: Sequence[Tensor],
        augment: AugmentConfig,
        size: int,
        *,
        seeds: Sequence[int],
        device: str | torch.device = "cpu",
    ) -> Iterator[Tensor]:
        """Yield random views of one batch after the other, see :meth:`ImageSet.views`.

        Images are cropped as they are decoded; everything else happens on `device`.
        """
        crops = _Crops(self, list(zip(batches, seeds, strict=True)), augment, size)
        loader = DataLoader(
            crops,
            batch_size=None,
            sampler=range(len(crops)),
            num_workers=min(self.workers, len(crops)),
            pin_memory=torch.device(device).type == "cuda",
            generator=torch.Generator(),  # or it draws from the global one
        )
        rest = replace(augment, crop=(1.0, 1.0), centre=1.0)
        for seed, images in zip(seeds, loader, strict=True):
            if isinstance(images, DataError):
                raise images
            yield finished(images, rest, size, seed, device)

    def in_memory(self, size: int) -> TensorImages:
        """Return the decoded images.

        Square images of one size up to `size` stay as they are, all others become `size` x `size`.
        """
        with self.source.open(self.paths[0]) as image:
            width, height = image.size
        images = self._decoded(width) if width == height <= size else None
        if images is None:
            images = self._decoded(size, resize=True)
        assert images is not None
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        return TensorImages(pixels, self.targets, self.classes, self.paths)

    def _decoded(self, side: int, *, resize: bool = False) -> np.ndarray | None:
        """Return (N, side, side, C) uint8, or None if an image is of another size."""
        images = np.empty((len(self), side, side, self.channels), np.uint8)
        for i, name in enumerate(self.paths):
            with self.source.open(name) as file:
                image = _converted(file, self.mode)
                if image.size != (side, side):
                    if not resize:
                        return None
                    image = image.resize((side, side), Image.Resampling.BILINEAR)
                images[i] = np.asarray(image).reshape(side, side, -1)
        return images


@dataclass(frozen=True)
class _Crops(Dataset[Tensor | DataError]):
    """The batches that worker processes prepare: (B, C, size, size) uint8, or what went wrong."""

    images: FileImages
    batches: Sequence[tuple[Tensor, int]]
    """Indices and the seed."""
    augment: AugmentConfig
    size: int

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, j: int) -> Tensor | DataError:
        samples, seed = self.batches[j]
        index = samples.tolist()
        pixels = np.empty((len(index), self.size, self.size, self.images.channels), np.uint8)
        for position, i in enumerate(index):
            generator = generator_of(seed, Stream.VIEWS, position)
            try:
                with self.images.source.open(self.images.paths[i]) as file:
                    image = _cropped(file, self.images.mode, self.augment, self.size, generator)
                    pixels[position] = np.asarray(image).reshape(self.size, self.size, -1)
            except DataError as error:
                return error  # raised, it would come out wrapped in the worker's traceback
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _cropped(
    image: Image.Image, mode: str, augment: AugmentConfig, size: int, generator: torch.Generator
) -> Image.Image:
    width, height = image.size
    boxes = crop_boxes(1, height, width, augment, generator)
    top, left, h, w = boxes[0].tolist()
    wanted = DRAFT_GAP * size / min(h, w)
    drafted = image.draft(mode, (math.ceil(width * wanted), math.ceil(height * wanted)))
    scale_x, scale_y = 1.0, 1.0
    if drafted is not None:
        scale_x, scale_y = drafted[1][2] / width, drafted[1][3] / height
    box = (left * scale_x, top * scale_y, (left + w) * scale_x, (top + h) * scale_y)
    converted = _converted(image, mode)
    return converted.resize((size, size), Image.Resampling.BILINEAR, box=box)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)
