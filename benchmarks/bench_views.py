"""Random views and decoding of selfsup beside kornia, torchvision v2 and torchvision.io."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from solvers import installed
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from selfsup.data.folders import all_images
from selfsup.data.views import random_views
from selfsup.presets import PRESETS

#: Images of 32 x 32, and the side of their views.
SIZES = ((128, 32), (128, 224))
#: Height and width of photographs, and the shorter side to which they are decoded.
PHOTO, SIDES = (3000, 4000), (32, 224)


def ours(x: torch.Tensor, side: int) -> Callable[[], torch.Tensor]:
    """Views as cifar10-small makes them, every image with parameters of its own."""
    augment = PRESETS["cifar10-small"].optimiser.augment
    return functools.partial(random_views, x, augment, torch.Generator().manual_seed(0), side)


def kornia(x: torch.Tensor, side: int) -> Callable[[], torch.Tensor]:
    """Kornia's, for the same changes."""
    import kornia.augmentation as made

    augment = PRESETS["cifar10-small"].optimiser.augment
    jitter = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    crop = made.RandomResizedCrop(
        (side, side), augment.crop, augment.crop_ratio, align_corners=False
    )
    views = made.AugmentationSequential(
        crop, made.ColorJitter(*jitter, p=1.0), made.RandomGrayscale(p=augment.grey),
        made.RandomHorizontalFlip(),
    )  # fmt: skip
    return functools.partial(views, x)


def torchvision(x: torch.Tensor, side: int) -> Callable[[], torch.Tensor]:
    """Torchvision's, image by image, as a batch would get the same parameters."""
    augment = PRESETS["cifar10-small"].optimiser.augment
    jitter = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    crop = v2.RandomResizedCrop(side, augment.crop, augment.crop_ratio, antialias=False)
    view = v2.Compose(
        [crop, v2.ColorJitter(*jitter), v2.RandomGrayscale(augment.grey), v2.RandomHorizontalFlip()]
    )
    return lambda: torch.stack([view(image) for image in x])


MAKERS = {"selfsup": ours, "torchvision": torchvision, "kornia": kornia}
ROLES = {"selfsup": "ours", "torchvision": "yardstick", "kornia": "peer"}
PACKAGES = {"selfsup": "torch", "torchvision": "torchvision", "kornia": "kornia"}


@pytest.mark.parametrize("solver", [s for s in MAKERS if s != "kornia" or installed(["kornia"])])
def test_views(size: tuple[int, int], solver: str, measured: Any) -> None:
    """Crop, colour, grey and flip of a batch."""
    (n, side), x = size, torch.rand(size[0], 3, 32, 32)
    views = measured(
        MAKERS[solver](x, side),
        x.numpy(),
        group=f"views, {n:,} images of 32 x 32 to {side} x {side}",
        solver=solver,
        role=ROLES[solver],
        packages=[PACKAGES[solver]],
    )
    assert views.shape == (n, 3, side, side)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a smooth photograph."""
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    small = np.random.default_rng(0).integers(0, 256, (PHOTO[0] // 16, PHOTO[1] // 16, 3), np.uint8)
    Image.fromarray(small).resize((PHOTO[1], PHOTO[0])).save(path, "JPEG", quality=90)
    return path


@pytest.mark.parametrize("solver", ["selfsup", "torchvision"])
@pytest.mark.parametrize("side", SIDES)
def test_decoding(side: int, solver: str, photo: Path, measured: Any) -> None:
    """PIL's drafts beside a whole decoding and a resize."""
    images, _ = all_images(photo.parent)
    content = torch.frombuffer(bytearray(photo.read_bytes()), dtype=torch.uint8)

    def theirs() -> torch.Tensor:
        image = decode_image(content, ImageReadMode.RGB, apply_exif_orientation=True)
        return v2.functional.resize(image, [side], antialias=True)

    measured(
        functools.partial(images.decoded, side) if solver == "selfsup" else theirs,
        np.zeros((PHOTO[0], 3 * PHOTO[1]), np.uint8),  # the pixels
        group=f"decoding, JPEG of {PHOTO[0]} x {PHOTO[1]} to a shorter side of {side}",
        solver=solver,
        role=ROLES[solver],
        packages=[PACKAGES[solver]],
    )
