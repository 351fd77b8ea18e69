"""What a data set is: images in a fixed order, shown as random views."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from selfsup.config import AugmentConfig
from selfsup.data.views import random_views


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
    def thumbnails(self, index: Tensor, side: int) -> list[NDArray[np.uint8]]:
        """Return (h, w, C) pictures of the samples at `index`, shorter sides at most `side`."""

    @abstractmethod
    def locate(self, i: int) -> str | None:
        """Return the file of an image, if it is one."""

    @abstractmethod
    def views(
        self, batches: Sequence[Tensor], augment: AugmentConfig, size: int, *,
        seeds: Sequence[int], device: str | torch.device = "cpu",
    ) -> Iterator[Tensor]:  # fmt: skip
        """Yield random (B, C, size, size) float32 views in [0, 1], one batch after the other.

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
        """


@dataclass(frozen=True, eq=False)
class TensorImages(ImageSet):
    """Images in memory."""

    images: Tensor
    """(N, C, H, W) uint8, on any device: there the views are made."""
    targets: Tensor
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    extents: Tensor | None = None
    """(N, 2) int64 height and width, where they differ: images continue beyond by their edges."""
    files: tuple[Path | None, ...] | None = None

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
        inside: Tensor | None = None  # an image, not what continues it
        if self.extents is not None:
            rows, columns = (torch.arange(side) for side in self.images.shape[2:])
            inside = (rows < self.extents[:, :1])[:, :, None]
            inside = inside & (columns < self.extents[:, 1:])[:, None]
        # Integer counts: exact, in any order, and without a float copy of the images.
        values = torch.arange(256, dtype=torch.float64) / 255
        counts = []
        for pixels in self.images.unbind(1):
            own = pixels.flatten() if inside is None else pixels[inside.to(pixels.device)]
            counts.append(torch.bincount(own, minlength=256).cpu())
        weights = torch.stack(counts) / torch.stack(counts).sum(1, keepdim=True)
        mean = (weights * values).sum(1)
        variance = (weights * (values - mean[:, None]) ** 2).sum(1)
        return mean.float(), variance.sqrt().clamp_min(1e-3).float()

    def select(self, index: Tensor) -> TensorImages:
        """Return the samples at `index`, in that order."""
        order = index.tolist()
        return TensorImages(
            self.images[index], self.targets[index], self.classes,
            tuple(self.paths[i] for i in order),
            None if self.extents is None else self.extents[index],
            None if self.files is None else tuple(self.files[i] for i in order),
        )  # fmt: skip

    def to(self, device: str | torch.device) -> TensorImages:
        """Return the same images on a device."""
        return replace(self, images=self.images.to(device))

    def thumbnails(self, index: Tensor, side: int) -> list[NDArray[np.uint8]]:
        """Return the images at `index`; they are small already."""
        whole = self.images[index].permute(0, 2, 3, 1).cpu().numpy()
        if self.extents is None:
            return list(whole)
        extents = self.extents[index].tolist()
        return [image[:h, :w] for image, (h, w) in zip(whole, extents, strict=True)]

    def locate(self, i: int) -> str | None:
        """Return the file of an image."""
        return None if self.files is None or self.files[i] is None else str(self.files[i])

    def views(
        self, batches: Sequence[Tensor], augment: AugmentConfig, size: int, *,
        seeds: Sequence[int], device: str | torch.device = "cpu",
    ) -> Iterator[Tensor]:  # fmt: skip
        """Yield random views of one batch after the other, see :meth:`ImageSet.views`."""
        for index, seed in zip(batches, seeds, strict=True):
            extents = None if self.extents is None else self.extents[index]
            yield finished(self.images[index], augment, size, seed, device, extents)

    def resized(self, size: int) -> TensorImages:
        """Return images of one size resized to `size` x `size`."""
        resized = F.interpolate(
            self.images.float(), (size, size), mode="bilinear", align_corners=False, antialias=True
        )
        return replace(self, images=resized.round().clamp(0, 255).to(torch.uint8))


def finished(
    images: Tensor, augment: AugmentConfig, size: int, seed: int, device: str | torch.device,
    extents: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return views on `device` of (B, C, H, W) uint8 images."""
    generator = torch.Generator().manual_seed(seed)
    pixels = images.to(device, non_blocking=True).float().div_(255)
    return random_views(pixels, augment, generator, size, extents)


@dataclass(frozen=True)
class Splits:
    """Training and test images; most folders have no test images."""

    train: ImageSet
    test: ImageSet | None
    found: str = ""
    """What there was and what is used, for a person."""
