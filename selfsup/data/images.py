"""What a data set is: images in a fixed order, shown as random views."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from selfsup.config import AugmentConfig
from selfsup.data.decode import kept, resized, upright_size
from selfsup.data.sources import Files, Items
from selfsup.data.views import crop_boxes, random_views
from selfsup.errors import DataError
from selfsup.seeds import Stream, generator_of

#: Mean and deviation, customary for ImageNet, and close to natural photographs in general.
IMAGENET = {3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 1: ((0.449,), (0.226,))}
#: Unreadable images that an error names.
NAMED = 20
#: Indices of a batch, the seed of its views, their ranges and side.
Job = tuple[Tensor, int, AugmentConfig, int]
#: (B, C, H, W) uint8 images, the ranges of what is still to be done to them, and their extents.
Shown = tuple[Tensor, AugmentConfig, Tensor | None]


class _Images(ABC):
    """What all images are: see `ImageSet`."""

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

    def views(
        self, batches: Sequence[Tensor], augment: AugmentConfig, size: int, *,
        seeds: Sequence[int], device: str | torch.device = "cpu",
    ) -> Iterator[Tensor]:  # fmt: skip
        """Yield random (B, C, size, size) float32 views in [0, 1] on `device`, batch after batch.

        A batch is (B,) int64 indices of samples; its seed alone decides what is random in it.
        """
        jobs = [(index, seed, augment, size) for index, seed in zip(batches, seeds, strict=True)]
        pinned = torch.device(device).type == "cuda"
        for seed, (images, rest, extents) in zip(seeds, self._shown(jobs, pinned), strict=True):
            pixels = images.to(device, non_blocking=True).float().div_(255)
            yield random_views(pixels, rest, torch.Generator().manual_seed(seed), size, extents)

    @abstractmethod
    def _shown(self, jobs: list[Job], pinned: bool) -> Iterator[Shown]:
        """Yield the pixels for one batch of views after the other."""


@dataclass(frozen=True, eq=False)
class TensorImages(_Images):
    """Images in memory."""

    images: Tensor
    """(N, C, H, W) uint8, on any device: there the views are made."""
    targets: Tensor
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    extents: Tensor | None = None
    """(N, 2) int64 height and width, where they differ: images continue beyond by their edges."""
    origin: FileImages | None = None
    """What they were decoded from."""

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
        pixels = self.images.unbind(1)
        if self.extents is not None:  # an image, not what continues it
            rows, columns = (torch.arange(side) for side in self.images.shape[2:])
            height, width = self.extents[:, :, None].unbind(1)
            inside = (rows < height)[:, :, None] & (columns < width)[:, None]
            pixels = tuple(x[inside.to(x.device)] for x in pixels)
        # Integer counts: exact, in any order, and without a float copy of the images.
        counts = torch.stack([torch.bincount(x.flatten(), minlength=256) for x in pixels]).cpu()
        weights = counts / counts.sum(1, keepdim=True)
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = (weights * values).sum(1)
        variance = (weights * (values - mean[:, None]) ** 2).sum(1)
        return mean.float(), variance.sqrt().clamp_min(1e-3).float()

    def select(self, index: Tensor) -> TensorImages:
        """Return the samples at `index`, in that order."""
        return TensorImages(
            self.images[index], self.targets[index], self.classes,
            tuple(self.paths[i] for i in index.tolist()),
            None if self.extents is None else self.extents[index],
            None if self.origin is None else self.origin.select(index),
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

    def locate(self, i: int) -> Path | None:
        """Return the file of an image."""
        return None if self.origin is None else self.origin.locate(i)

    def _shown(self, jobs: list[Job], pinned: bool) -> Iterator[Shown]:
        for index, _, augment, _ in jobs:
            extents = None if self.extents is None else self.extents[index]
            yield self.images[index], augment, extents

    def resized(self, size: int) -> TensorImages:
        """Return images of one size resized to `size` x `size`."""
        resized = F.interpolate(
            self.images.float(), (size, size), mode="bilinear", align_corners=False, antialias=True
        )
        return replace(self, images=resized.round().clamp(0, 255).to(torch.uint8))


@dataclass(frozen=True, eq=False)
class FileImages(_Images):
    """Images that are decoded each time they are used."""

    source: Files | Items
    targets: Tensor
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    channels: int = 3
    """All images are converted to so many."""
    workers: int = 0
    """Processes that decode; 0 decodes in this one."""
    _idle: list[DataLoader[Tensor | DataError]] = field(default_factory=list, repr=False)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return ImageNet's (C,) mean and standard deviation, without a look at the images."""
        mean, std = IMAGENET[self.channels]
        return torch.tensor(mean), torch.tensor(std)

    def select(self, index: Tensor) -> FileImages:
        """Return the samples at `index`, in that order."""
        paths = tuple(self.paths[i] for i in index.tolist())
        return replace(self, targets=self.targets[index], paths=paths, _idle=[])

    def thumbnails(self, index: Tensor, side: int) -> list[NDArray[np.uint8]]:
        """Return small pictures of the samples at `index`."""
        return self.select(index).decoded(side)[0]

    def locate(self, i: int) -> Path | None:
        """Return the file of an image."""
        return self.source.locate(self.paths[i])

    def _shown(self, jobs: list[Job], pinned: bool) -> Iterator[Shown]:
        """Crop images as they are decoded; worker processes stay for the next call."""
        loader = self._idle.pop() if self._idle else DataLoader(
            _Crops(replace(self, _idle=[])), batch_size=None, sampler=[],
            num_workers=self.workers, persistent_workers=self.workers > 0, pin_memory=pinned,
            generator=torch.Generator(),  # or it draws from the global one
        )  # fmt: skip
        loader.sampler[:] = jobs  # type: ignore[index]
        for (_, _, augment, _), images in zip(jobs, loader, strict=True):
            if isinstance(images, DataError):
                raise images
            yield images, replace(augment, crop=(1.0, 1.0), centre=1.0), None
        if self.workers:
            self._idle.append(loader)

    def in_memory(self, size: int, skip: bool = False) -> tuple[TensorImages, list[str]]:
        """Return what :meth:`decoded` does as images in memory, and what is unreadable."""
        pixels, some, problems = self.decoded(size, skip)
        extents = torch.tensor([image.shape[:2] for image in pixels])
        height, width = extents.max(0).values.tolist()
        whole = np.empty((len(pixels), height, width, self.channels), np.uint8)
        for i, image in enumerate(pixels):
            beyond = (0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)
            whole[i] = np.pad(image, beyond, mode="edge") if np.any(beyond) else image
        images = TensorImages(
            torch.from_numpy(whole).permute(0, 3, 1, 2).contiguous(),
            some.targets, some.classes, some.paths,
            None if bool((extents == extents[0]).all()) else extents, some,
        )  # fmt: skip
        return images, problems

    def decoded(
        self, side: int, skip: bool = False
    ) -> tuple[list[NDArray[np.uint8]], FileImages, list[str]]:
        """Decode all, in threads; return pixels, the images that they are of, what is unreadable.

        Pixels are (h, w, C), with shorter sides of at most `side`. With `skip` what is unreadable
        is left out, if anything remains; otherwise it is a `DataError`.
        """

        def tried(i: int) -> NDArray[np.uint8] | str:
            try:
                with self.source.open(self.paths[i]) as image:
                    return kept(image, self.channels, side)
            except DataError as error:
                return str(error)

        with ThreadPoolExecutor() as threads:
            found = list(threads.map(tried, range(len(self))))
        problems = [image for image in found if isinstance(image, str)]
        pixels = [image for image in found if not isinstance(image, str)]
        if problems and not (skip and pixels):
            more = [f"... and {len(problems) - NAMED} more"] if len(problems) > NAMED else []
            raise DataError(
                f"{len(problems)} of {len(self)} images cannot be read:\n  "
                + "\n  ".join([*problems[:NAMED], *more])
                + "\nReplace or remove them, or go on without them: --skip-unreadable"
            )
        good = [i for i, image in enumerate(found) if not isinstance(image, str)]
        return pixels, self.select(torch.tensor(good, dtype=torch.int64)), problems


@dataclass(frozen=True)
class _Crops(Dataset["Tensor | DataError"]):
    """What worker processes prepare: (B, C, size, size) uint8, or what went wrong."""

    images: FileImages

    def __getitem__(self, job: Job) -> Tensor | DataError:
        (index, seed, augment, size), images = job, self.images
        pixels = np.empty((len(index), size, size, images.channels), np.uint8)
        for position, i in enumerate(index.tolist()):
            generator = generator_of(seed, Stream.VIEWS, position)
            try:
                with images.source.open(images.paths[i]) as file:
                    extent = torch.tensor([upright_size(file)])
                    (box,) = crop_boxes(extent, augment, generator).tolist()
                    pixels[position] = resized(file, images.channels, box, size, size)
            except DataError as error:
                return error  # raised, it would come out wrapped in the worker's traceback
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


#: Images in dataset order; position i is the index of a sample everywhere.
ImageSet = TensorImages | FileImages


@dataclass(frozen=True)
class Splits:
    """Training and test images; most folders have no test images."""

    train: ImageSet
    test: ImageSet | None
    found: str = ""
    """What there was and what is used, for a person."""
