"""What a data set is: images in a fixed order, shown as random views."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from selfsup.augment import random_views
from selfsup.config import AugmentConfig


class DataError(Exception):
    """The data are missing or unreadable; the message says which, where and what to do."""


class ImageSet(ABC):
    """Images in dataset order; position i is the index of a sample everywhere."""

    targets: Tensor
    """(N,) int64, -1 where unknown; used to evaluate, never to train SeLa."""
    classes: tuple[str, ...]
    """Names of the targets; none when the images are unlabelled."""
    paths: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.targets)

    @property
    def labelled(self) -> bool:
        """Whether the true classes are known."""
        return bool(self.classes)

    @property
    @abstractmethod
    def channels(self) -> int:
        """Return how many channels the images have: 1 or 3."""

    @abstractmethod
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return (C,) mean and standard deviation of images in [0, 1]."""

    @abstractmethod
    def select(self, index: Tensor) -> ImageSet:
        """Return the samples at `index`, in that order."""

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
        """Yield random views of one batch after the other.

        Parameters
        ----------
        batches : sequence of Tensor
            (B,) int64 indices of samples each.
        augment : AugmentConfig
            The ranges.
        size : int
            Side of the views.
        seeds : sequence of int
            One for every batch, which alone decides what is random in it.
        device : str or torch.device
            Where the views are wanted.

        Yields
        ------
        Tensor
            (B, C, size, size) float32 in [0, 1].
        """


@dataclass(frozen=True, eq=False)
class TensorImages(ImageSet):
    """Images in memory."""

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
    def channels(self) -> int:
        """Return how many channels the images have."""
        return self.images.shape[1]

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return exact (C,) mean and standard deviation of the images in [0, 1]."""
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

    def select(self, index: Tensor) -> TensorImages:
        """Return the samples at `index`, in that order."""
        paths = tuple(self.paths[i] for i in index.tolist())
        return TensorImages(self.images[index], self.targets[index], self.classes, paths)

    def views(
        self,
        batches: Sequence[Tensor],
        augment: AugmentConfig,
        size: int,
        *,
        seeds: Sequence[int],
        device: str | torch.device = "cpu",
    ) -> Iterator[Tensor]:
        """Yield random views of one batch after the other, see :meth:`ImageSet.views`."""
        for index, seed in zip(batches, seeds, strict=True):
            yield finished(self.images[index], augment, size, seed, device)

    def no_larger_than(self, size: int) -> TensorImages:
        """Return the images resized to `size` x `size` if a side is longer, else as they are."""
        return self if max(self.images.shape[2:]) <= size else self.resized(size)

    def resized(self, size: int) -> TensorImages:
        """Return the images resized to `size` x `size`."""
        resized = F.interpolate(
            self.images.float(), (size, size), mode="bilinear", align_corners=False, antialias=True
        )
        images = resized.round().clamp(0, 255).to(torch.uint8)
        return TensorImages(images, self.targets, self.classes, self.paths)


def finished(
    images: Tensor, augment: AugmentConfig, size: int, seed: int, device: str | torch.device
) -> Tensor:
    """Return views on `device` of (B, C, H, W) uint8 images."""
    generator = torch.Generator().manual_seed(seed)
    pixels = images.to(device, non_blocking=True).float().div_(255)
    return random_views(pixels, augment, generator, size)


@dataclass(frozen=True)
class Splits:
    """Training and test images; unlabelled folders may have no test images."""

    train: ImageSet
    test: ImageSet | None
