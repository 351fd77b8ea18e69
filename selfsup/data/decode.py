"""From files to pixels: upright, in 8 bits, cropped and never squeezed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from selfsup.config import AugmentConfig
from selfsup.data.images import ImageSet, TensorImages, finished
from selfsup.data.sources import Files, Source
from selfsup.data.views import crop_boxes
from selfsup.errors import DataError
from selfsup.seeds import Stream, generator_of

MODES = {"L": 1, "RGB": 3}
ORIENTATION = 0x0112
#: Mean and deviation, customary for ImageNet, and close to natural photographs in general.
IMAGENET = {"RGB": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "L": ((0.449,), (0.226,))}
#: A JPEG may be decoded at a fraction of its size if that leaves so many pixels for every one of
#: the view; PIL's own thumbnails are made so, and differ by less than one part in 255 on average.
DRAFT_GAP = 2.0
#: In memory the longer side is cut to so many times the shorter one, as in most photographs.
LONGEST = 1.5


def converted(image: Image.Image, mode: str) -> Image.Image:
    """Return an image upright as its camera held it, as L or RGB: 16 bits scaled, clear on white.

    Raises
    ------
    ValueError
        Numbers that no scale is known for.
    """
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == mode:
        return image
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    top = float(values.max(initial=0))
    if values.min(initial=0) < 0 or not top <= 65535:
        raise ValueError(f"values from {values.min()} to {top} in mode {image.mode}: save 16 bits")
    if image.mode == "F":  # a float TIFF: shares, bytes or 16 bits
        values = values * (65535.0 if top <= 1 else 257.0 if top <= 255 else 1.0)
    return Image.fromarray(np.rint(values / 257.0).astype(np.uint8))


def _size(image: Image.Image) -> tuple[int, int]:
    """Return (height, width) of an image once it is upright."""
    width, height = image.size
    turned = image.getexif().get(ORIENTATION, 1) >= 5
    return (width, height) if turned else (height, width)


def _resized(
    image: Image.Image, mode: str, box: Sequence[float], height: int, width: int
) -> Image.Image:
    """Resize the box (top, left, height, width) of the upright image."""
    whole, upright = image.size, _size(image) == (image.size[1], image.size[0])
    wanted = DRAFT_GAP * max(height / box[2], width / box[3])
    across, down = (math.ceil(side * wanted) for side in whole)
    drafted = image.draft(mode, (across, down))  # of JPEGs alone
    x, y = (1.0, 1.0) if drafted is None else (drafted[1][2] / whole[0], drafted[1][3] / whole[1])
    if not upright:
        x, y = y, x
    image = converted(image, mode)
    top, left, h, w = box[0] * y, box[1] * x, box[2] * y, box[3] * x
    if (left, top, w, h) == (0, 0, *image.size) and image.size == (width, height):
        return image
    edges = (left, top, min(left + w, image.size[0]), min(top + h, image.size[1]))
    return image.resize((width, height), Image.Resampling.BILINEAR, box=edges)


def kept(image: Image.Image, mode: str, side: int) -> NDArray[np.uint8]:
    """Return (h, w, C) pixels whose shorter side is at most `side`, with a longer one of 1.5 of it.

    The middle of longer images is kept; small images are not enlarged.
    """
    height, width = _size(image)
    limit = LONGEST * min(height, width)
    h, w = min(height, limit), min(width, limit)
    zoom = min(1.0, side / min(height, width))
    box = (round((height - h) / 2), round((width - w) / 2), h, w)
    picture = _resized(image, mode, box, round(h * zoom), round(w * zoom))
    return np.asarray(picture).reshape(picture.size[1], picture.size[0], MODES[mode])


def pictures(files: Sequence[Path], side: int) -> list[NDArray[np.uint8]]:
    """Return small (h, w, 3) pictures of files, decoded in threads."""

    def one(file: Path) -> NDArray[np.uint8]:
        with Files(file.parent).open(file.name) as image:
            return kept(image, "RGB", side)

    with ThreadPoolExecutor() as threads:
        return list(threads.map(one, files))


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
    _idle: list[DataLoader[Tensor | DataError]] = field(default_factory=list, repr=False)

    @property
    def channels(self) -> int:
        """Return how many channels the images have."""
        return MODES[self.mode]

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return ImageNet's (C,) mean and standard deviation, without a look at the images."""
        mean, std = IMAGENET[self.mode]
        return torch.tensor(mean), torch.tensor(std)

    def select(self, index: Tensor) -> FileImages:
        """Return the samples at `index`, in that order."""
        paths = tuple(self.paths[i] for i in index.tolist())
        return replace(self, targets=self.targets[index], paths=paths, _idle=[])

    def thumbnails(self, index: Tensor, side: int) -> list[NDArray[np.uint8]]:
        """Return small pictures of the samples at `index`."""
        return [self._kept(i, side) for i in index.tolist()]

    def views(
        self, batches: Sequence[Tensor], augment: AugmentConfig, size: int, *,
        seeds: Sequence[int], device: str | torch.device = "cpu",
    ) -> Iterator[Tensor]:  # fmt: skip
        """Yield random views of one batch after the other, see :meth:`ImageSet.views`.

        Images are cropped as they are decoded; everything else happens on `device`. Worker
        processes stay for the next call.
        """
        jobs = [(b, seed, augment, size) for b, seed in zip(batches, seeds, strict=True)]
        loader = self._idle.pop() if self._idle else DataLoader(
            _Crops(self.source, self.paths, self.mode), batch_size=None, sampler=[],
            num_workers=self.workers, persistent_workers=self.workers > 0,
            pin_memory=torch.device(device).type == "cuda",
            generator=torch.Generator(),  # or it draws from the global one
        )  # fmt: skip
        loader.sampler[:] = jobs  # type: ignore[index]
        rest = replace(augment, crop=(1.0, 1.0), centre=1.0)
        for seed, images in zip(seeds, loader, strict=True):
            if isinstance(images, DataError):
                raise images
            yield finished(images, rest, size, seed, device)
        if self.workers:
            self._idle.append(loader)

    def in_memory(self, size: int, skip: bool = False) -> tuple[TensorImages, list[str]]:
        """Return the decoded images, their shorter sides at most `size`, and what is unreadable.

        Raises
        ------
        DataError
            Some cannot be read; with `skip` they are left out.
        """
        pixels, some, problems = self._decoded(size, skip)
        extents = torch.tensor([image.shape[:2] for image in pixels])
        height, width = extents.max(0).values.tolist()
        whole = np.empty((len(pixels), height, width, self.channels), np.uint8)
        for i, image in enumerate(pixels):
            beyond = (0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)
            whole[i] = np.pad(image, beyond, mode="edge") if np.any(beyond) else image
        images = TensorImages(
            torch.from_numpy(whole).permute(0, 3, 1, 2).contiguous(),
            some.targets, some.classes, some.paths,
            None if bool((extents == extents[0]).all()) else extents,
            tuple(self.source.locate(name) for name in some.paths),
        )  # fmt: skip
        return images, problems

    def checked(self, skip: bool) -> tuple[FileImages, list[str]]:
        """Return the images that can be decoded, and what is wrong with the others."""
        return self._decoded(8, skip)[1:]

    def _decoded(
        self, side: int, skip: bool
    ) -> tuple[list[NDArray[np.uint8]], FileImages, list[str]]:
        """Decode all in threads; return pixels, what they are of, and problems."""

        def tried(i: int) -> NDArray[np.uint8] | DataError:
            try:
                return self._kept(i, side)
            except DataError as error:
                return error

        with ThreadPoolExecutor() as threads:
            found = list(threads.map(tried, range(len(self))))
        problems = [str(error) for error in found if isinstance(error, DataError)]
        refuse(problems, skip, len(self))
        good = [i for i, image in enumerate(found) if not isinstance(image, DataError)]
        pixels = [image for image in found if not isinstance(image, DataError)]
        return pixels, self.select(torch.tensor(good, dtype=torch.int64)), problems

    def _kept(self, i: int, side: int) -> NDArray[np.uint8]:
        with self.source.open(self.paths[i]) as image:
            return kept(image, self.mode, side)

    def locate(self, i: int) -> str | None:
        """Return the file of an image."""
        path = self.source.locate(self.paths[i])
        return None if path is None else str(path)


def refuse(problems: Sequence[str], skip: bool, n: int, shown: int = 20) -> None:
    """Raise for unreadable images, unless they may be skipped and some are left."""
    if problems and (not skip or len(problems) == n):
        rest = [f"... and {len(problems) - shown} more"] if len(problems) > shown else []
        raise DataError(
            "\n  ".join(
                [f"{len(problems)} of {n} images cannot be read:", *problems[:shown], *rest]
            )
            + "\nReplace or remove them, or go on without them: --skip-unreadable"
        )


@dataclass(frozen=True)
class _Crops(Dataset["Tensor | DataError"]):
    """What worker processes prepare: (B, C, size, size) uint8, or what went wrong."""

    source: Source
    paths: tuple[str, ...]
    mode: str

    def __getitem__(self, job: tuple[Tensor, int, AugmentConfig, int]) -> Tensor | DataError:
        index, seed, augment, size = job
        pixels = np.empty((len(index), size, size, MODES[self.mode]), np.uint8)
        for position, i in enumerate(index.tolist()):
            generator = generator_of(seed, Stream.VIEWS, position)
            try:
                with self.source.open(self.paths[i]) as file:
                    (box,) = crop_boxes(torch.tensor([_size(file)]), augment, generator).tolist()
                    image = _resized(file, self.mode, box, size, size)
                    pixels[position] = np.asarray(image).reshape(size, size, -1)
            except DataError as error:
                return error  # raised, it would come out wrapped in the worker's traceback
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
