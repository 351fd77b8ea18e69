"""What kornia, torchvision v2 and torchvision.io take for what selfsup does itself.

    pip install kornia
    python benchmarks/libraries.py

Each pair is measured alternately in one process: medians of the rounds, and the ratio to ours.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import kornia
import kornia.augmentation as K
import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from selfsup.data.decode import pictures
from selfsup.data.views import random_views
from selfsup.presets import PRESETS

BATCH, ROUNDS = 128, 15


def measured(title: str, runs: dict[str, Callable[[], object]]) -> None:
    """Run each in turn, and print medians."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(ROUNDS):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(title)
    for name, median in medians.items():
        print(f"  {name:26s}{1000 * median:9.1f} ms {median / medians['ours']:6.2f} times ours")


def views(size: int) -> None:
    """Compare the training views of cifar10-small, every image with parameters of its own."""
    augment, x = PRESETS["cifar10-small"].optimiser.augment, torch.rand(BATCH, 3, 32, 32)
    jitter = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    ours = torch.Generator().manual_seed(0)
    whole = K.AugmentationSequential(
        K.RandomResizedCrop((size, size), augment.crop, augment.crop_ratio, align_corners=False),
        K.ColorJitter(*jitter, p=1.0), K.RandomGrayscale(p=augment.grey), K.RandomHorizontalFlip(),
    )  # fmt: skip
    one = v2.Compose([
        v2.RandomResizedCrop(size, augment.crop, augment.crop_ratio, antialias=False),
        v2.ColorJitter(*jitter), v2.RandomGrayscale(augment.grey), v2.RandomHorizontalFlip(),
    ])  # fmt: skip
    measured(f"views, {BATCH} x 3 x 32 x 32 to {size} x {size}", {
        "ours": lambda: random_views(x, augment, ours, size),
        f"kornia {kornia.__version__}": lambda: whole(x),
        f"torchvision {torchvision.__version__.split('+')[0]}":
            lambda: torch.stack([one(image) for image in x]),
    })  # fmt: skip


def decoding(width: int, height: int, side: int) -> None:
    """Compare JPEG files to small pictures: PIL's drafts beside a whole decoding and a resize."""
    rng, n = np.random.default_rng(0), 8
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.jpg" for i in range(n)]
        for file in files:
            small = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
            Image.fromarray(small).resize((width, height)).save(file, "JPEG", quality=90)
        contents = [torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
                    for file in files]  # fmt: skip

        def theirs() -> None:
            for content in contents:
                image = decode_image(content, ImageReadMode.RGB, apply_exif_orientation=True)
                v2.functional.resize(image, [side], antialias=True)

        def one_by_one() -> None:
            for file in files:
                pictures([file], side)

        measured(f"{n} JPEG files of {width} x {height} to a shorter side of {side}",
                 {"ours": one_by_one, "torchvision.io": theirs})  # fmt: skip


def formats() -> None:
    """Try which formats of photographs torchvision.io decodes."""
    image, failed = Image.new("RGB", (8, 8)), []
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        content = io.BytesIO()
        image.save(content, kind)
        try:
            decode_image(torch.frombuffer(bytearray(content.getvalue()), dtype=torch.uint8))
        except RuntimeError:
            failed.append(kind)
    print(f"torchvision.io decodes no {', '.join(failed)}")


if __name__ == "__main__":
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    views(32)
    views(224)
    decoding(4000, 3000, 32)
    decoding(4000, 3000, 224)
    formats()
