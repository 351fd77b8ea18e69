"""Sets of images in a fixed order: position i is the index of a sample everywhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from selfsup.augment import crop_boxes, random_views
from selfsup.config import AugmentConfig

#: Statistics of ImageNet, which torchvision's networks expect too.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODES = {1: "L", 3: "RGB"}


class DataError(Exception):
    """The data are missing or unreadable; the message says which, where and what to do."""


class ImageFile(Protocol):
    """A file in a folder or in a zip file."""

    @property
    def name(self) -> str:
        """The last part of its path."""

    def open(self, mode: Any = "r") -> IO[Any]:
        """Open it."""


class ImageSet(ABC):
    """Images with their classes, where these are known, and their paths."""

    targets: Tensor
    """(N,) int64, -1 where unknown; used to evaluate and to watch, never to train SeLa."""
    classes: tuple[str, ...]
    """Names of the classes; none when the images are not labelled."""
    paths: tuple[str, ...]
    channels: int

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    @property
    def labelled(self) -> bool:
        """Whether the true classes are known."""
        return bool(self.classes)

    @abstractmethod
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return (C,) mean and standard deviation of images in [0, 1]."""

    @abstractmethod
    def views(
        self,
        batches: Sequence[Tensor],
        augment: AugmentConfig,
        size: int,
        *,
        seeds: Sequence[int],
        device: str | torch.device = "cpu",
    ) -> Iterator[Tensor]:
        """Give one view of every image, batch by batch.

        Parameters
        ----------
        batches : sequence of (B,) int64 Tensor
            Indices of the images.
        augment : AugmentConfig
            How views vary.
        size : int
            Side of the views.
        seeds : sequence of int
            One for each batch; it alone decides what is random in it.
        device
            Where the views are wanted.

        Yields
        ------
        Tensor
            (B, C, size, size) float32 in [0, 1].
        """

    @abstractmethod
    def select(self, index: Tensor) -> ImageSet:
        """Return the samples at `index`, in that order."""


@dataclass(frozen=True)
class Splits:
    """Training and test images; not every folder has the latter."""

    train: ImageSet
    test: ImageSet | None


@dataclass(frozen=True, eq=False)
class TensorImages(ImageSet):
    """Images in memory, augmented as whole batches."""

    images: Tensor
    """(N, C, H, W) uint8."""
    targets: Tensor
    classes: tuple[str, ...]
    paths: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse records that do not fit together."""
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError("images must be (N, C, H, W) uint8")
        if not len(self.images) == len(self.targets) == len(self.paths):
            raise ValueError("images, targets and paths differ in length")

    @property
    def channels(self) -> int:  # type: ignore[override]
        """Channels of the images."""
        return self.images.shape[1]

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation per channel, exactly."""
        # Integer counts: exact, in any order, and without a float copy of the images.
        values = torch.arange(256, dtype=torch.float64) / 255
        means, stds = [], []
        for channel in range(self.channels):
            counts = torch.bincount(self.images[:, channel].flatten(), minlength=256)
            weights = counts / counts.sum()
            mean = (weights * values).sum()
            means.append(mean)
            stds.append((weights * (values - mean) ** 2).sum().sqrt().clamp_min(1e-3))
        return torch.stack(means).float(), torch.stack(stds).float()

    def views(
        self,
        batches: Sequence[Tensor],
        augment: AugmentConfig,
        size: int,
        *,
        seeds: Sequence[int],
        device: str | torch.device = "cpu",
    ) -> Iterator[Tensor]:
        """Give views; see `ImageSet.views`."""
        for index, seed in zip(batches, seeds, strict=True):
            images = self.images[index].to(device).float() / 255
            yield random_views(images, augment, torch.Generator().manual_seed(seed), size)

    def select(self, index: Tensor) -> TensorImages:
        """Return the samples at `index`, in that order."""
        paths = tuple(self.paths[i] for i in index.tolist())
        return TensorImages(self.images[index], self.targets[index], self.classes, paths)


@dataclass(frozen=True, eq=False)
class FileImages(ImageSet):
    """Images that are decoded each time they are used, by `workers` processes."""

    files: tuple[ImageFile, ...]
    targets: Tensor
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    workers: int = 0
    channels: int = 3

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return those of ImageNet: to measure them would mean decoding everything."""
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        if self.channels == 3:
            return mean, std
        return mean.mean().view(1), std.mean().view(1)

    def views(
        self,
        batches: Sequence[Tensor],
        augment: AugmentConfig,
        size: int,
        *,
        seeds: Sequence[int],
        device: str | torch.device = "cpu",
    ) -> Iterator[Tensor]:
        """Give views; see `ImageSet.views`. A worker crops, the rest happens on the device."""
        loader = DataLoader(
            _Batches(self, batches, augment, size, seeds),
            batch_size=None,
            num_workers=self.workers,
            pin_memory=torch.device(device).type == "cuda",
            # a base seed of its own: the global generator, from which dropout draws, is left alone
            generator=torch.Generator().manual_seed(0),
        )
        rest = replace(augment, crop=(1.0, 1.0), centre=1.0)
        for (images, error), seed in zip(loader, seeds, strict=True):
            if error is not None:
                raise DataError(error)
            generator = torch.Generator().manual_seed(seed ^ 1)  # that seed has placed the crops
            shown = images.to(device, non_blocking=True).float() / 255
            yield random_views(shown, rest, generator, size)

    def select(self, index: Tensor) -> FileImages:
        """Return the samples at `index`, in that order."""
        chosen = index.tolist()
        return FileImages(
            tuple(self.files[i] for i in chosen),
            self.targets[index],
            self.classes,
            tuple(self.paths[i] for i in chosen),
            self.workers,
            self.channels,
        )


class _Batches(Dataset[tuple[Tensor, str | None]]):
    """Batches of (B, C, size, size) uint8 crops; an error comes as text, past the processes."""

    def __init__(
        self,
        images: FileImages,
        batches: Sequence[Tensor],
        augment: AugmentConfig,
        size: int,
        seeds: Sequence[int],
    ) -> None:
        self.images, self.batches, self.augment = images, batches, augment
        self.size, self.seeds = size, seeds

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, j: int) -> tuple[Tensor, str | None]:
        generator = torch.Generator().manual_seed(self.seeds[j])
        shape = (self.size, self.size, self.images.channels)
        crops = np.empty((len(self.batches[j]), *shape), np.uint8)
        try:
            for position, i in enumerate(self.batches[j].tolist()):
                image = decode(self.images.files[i], self.images.channels, self.images.paths[i])
                width, height = image.size
                box = crop_boxes(1, height, width, self.augment, generator)[0].tolist()
                crops[position] = pixels(resized(image, box, self.size))
        except DataError as error:
            return torch.empty(0), str(error)
        return torch.from_numpy(crops).permute(0, 3, 1, 2), None


def decode(file: ImageFile, channels: int, path: str) -> Image.Image:
    """Read an image as grey or RGB."""
    try:
        with file.open("rb") as content, Image.open(content) as image:
            return image.convert(MODES[channels])
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise DataError(
            f"{path}: not a readable image ({error}). Replace it, or take it out of the data set "
            "and start a new run"
        ) from error


def resized(image: Image.Image, box: Sequence[int], size: int) -> Image.Image:
    """Return the (top, left, height, width) box of an image as a square of that size."""
    top, left, height, width = box
    corners = (left, top, left + width, top + height)
    if (height, width) == (size, size):
        return image.crop(corners)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=corners)


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return an image as (H, W, C)."""
    values = np.asarray(image)
    return values[:, :, None] if values.ndim == 2 else values
