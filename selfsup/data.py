"""Data sets, held in memory as uint8 images in a fixed order."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

from selfsup.config import Config

SPLIT_SEED = 0
TEST_FRACTION = 0.2
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif"})
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


class DataError(Exception):
    """The data are missing or unreadable; the message says which, where and what to do."""


@dataclass(frozen=True)
class ImageSet:
    """Images in dataset order; position i is the index of a sample everywhere."""

    images: Tensor  # (N, C, H, W) uint8
    targets: Tensor  # (N,) int64; used to evaluate, never to train SeLa
    classes: tuple[str, ...]
    paths: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse records that do not fit together."""
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError("images must be (N, C, H, W) uint8")
        if not len(self.images) == len(self.targets) == len(self.paths):
            raise ValueError("images, targets and paths differ in length")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation per channel, of images in [0, 1]."""
        # Integer counts: exact, in any order, and without a float copy of the images.
        values = torch.arange(256, dtype=torch.float64) / 255
        means, stds = [], []
        for channel in range(self.images.shape[1]):
            counts = torch.bincount(self.images[:, channel].flatten(), minlength=256)
            weights = counts / counts.sum()
            mean = (weights * values).sum()
            means.append(mean)
            stds.append((weights * (values - mean) ** 2).sum().sqrt().clamp_min(1e-3))
        return torch.stack(means).float(), torch.stack(stds).float()

    def select(self, index: Tensor) -> ImageSet:
        """Return the samples at `index`, in that order."""
        paths = tuple(self.paths[i] for i in index.tolist())
        return ImageSet(self.images[index], self.targets[index], self.classes, paths)


@dataclass(frozen=True)
class Splits:
    """Training and test images."""

    train: ImageSet
    test: ImageSet


def load_data(config: Config) -> Splits:
    """Load the data set that `config` names."""
    data = None if config.data is None else Path(config.data)
    if config.dataset == "digits":
        return load_digit_images(config.image_size)
    if config.dataset == "fashion-mnist":
        return load_fashion(data, config.image_size)
    if config.dataset == "folder":
        return load_folder(data, config.image_size)
    raise ValueError(f"unknown dataset {config.dataset!r}: digits, fashion-mnist or folder")


def load_digit_images(image_size: int) -> Splits:
    """Load the 1,797 digits that scikit-learn ships, split 80:20 by class."""
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    whole = ImageSet(
        _resize(torch.from_numpy(images)[:, None], image_size),
        torch.from_numpy(digits.target.astype(np.int64)),
        tuple(str(name) for name in digits.target_names),
        tuple(f"digits/{i:04d}" for i in range(len(images))),
    )
    return _split(whole)


def load_fashion(data: Path | None, image_size: int) -> Splits:
    """Load Fashion-MNIST from its four idx files, plain or gzipped."""
    if data is None:
        places = [Path("data"), Path("data/FashionMNIST/raw"), DEBIAN_FASHION]
    else:
        places = [data, data / "FashionMNIST" / "raw"]
    sets = []
    for part in ("train", "t10k"):
        images_path = _find_idx(places, f"{part}-images-idx3-ubyte")
        labels_path = _find_idx(places, f"{part}-labels-idx1-ubyte")
        images, labels = read_idx(images_path), read_idx(labels_path)
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise DataError(f"{images_path} and {labels_path} do not belong together")
        sets.append(
            ImageSet(
                _resize(torch.from_numpy(images)[:, None], image_size),
                torch.from_numpy(labels.astype(np.int64)),
                FASHION_CLASSES,
                tuple(f"{part}/{i:05d}" for i in range(len(images))),
            )
        )
    return Splits(*sets)


def _find_idx(places: Sequence[Path], name: str) -> Path:
    candidates = [place / (name + suffix) for place in places for suffix in ("", ".gz")]
    for path in candidates:
        if path.is_file():
            return path
    looked = "\n".join(f"  {path}" for path in candidates)
    raise DataError(
        f"Fashion-MNIST: no {name}[.gz]. Looked for:\n{looked}\n"
        "On Debian or Ubuntu: apt-get install dataset-fashion-mnist. Elsewhere: download the four "
        "files from https://github.com/zalandoresearch/fashion-mnist and pass their folder "
        "with --data."
    )


def read_idx(path: Path) -> np.ndarray:
    """Read an idx file of bytes (the format of MNIST), plain or gzipped."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError(f"{path}: not an idx file of unsigned bytes")
    ndim = content[3]
    start = 4 + 4 * ndim
    shape = struct.unpack(f">{ndim}I", content[4:start])
    if len(content) - start != int(np.prod(shape)):
        raise DataError(f"{path}: {len(content) - start} bytes of data, header says {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def load_folder(data: Path | None, image_size: int) -> Splits:
    """Load images from a folder per class, resized to a square of `image_size`, as RGB."""
    layouts = "DIR/train/<class>/* with DIR/test/<class>/*, or DIR/<class>/*"
    if data is None:
        raise DataError(f"folder: pass the images' folder with --data DIR, laid out as {layouts}")
    train, test = data / "train", data / "test"
    if train.is_dir() and test.is_dir():
        classes = _classes(train)
        if classes:
            return Splits(_read(train, classes, image_size), _read(test, classes, image_size))
    elif classes := _classes(data):
        return _split(_read(data, classes, image_size))
    raise DataError(
        f"folder: no images. Looked in {train}, {test} and {data} for one folder per class "
        f"({layouts}) with {', '.join(sorted(IMAGE_SUFFIXES))} files."
    )


def _classes(root: Path) -> tuple[str, ...]:
    if not root.is_dir():
        return ()
    return tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and _images_in(p)))


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)


def _read(root: Path, classes: tuple[str, ...], image_size: int) -> ImageSet:
    unknown = set(_classes(root)) - set(classes)
    if unknown:
        raise DataError(f"{root}: classes without training images: {', '.join(sorted(unknown))}")
    paths = [(p, c) for c, name in enumerate(classes) for p in _images_in(root / name)]
    images = np.empty((len(paths), image_size, image_size, 3), np.uint8)
    for i, (path, _) in enumerate(paths):
        try:
            with Image.open(path) as image:
                rgb = image.convert("RGB")
        except (OSError, UnidentifiedImageError, ValueError) as error:
            raise DataError(f"{path}: not a readable image ({error})") from error
        if rgb.size != (image_size, image_size):
            rgb = rgb.resize((image_size, image_size), Image.Resampling.BILINEAR)
        images[i] = np.asarray(rgb)
    return ImageSet(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.tensor([c for _, c in paths], dtype=torch.int64),
        classes,
        tuple(str(path.relative_to(root)) for path, _ in paths),
    )


def _resize(images: Tensor, size: int) -> Tensor:
    if images.shape[-2:] == (size, size):
        return images.contiguous()
    resized = F.interpolate(
        images.float(), (size, size), mode="bilinear", align_corners=False, antialias=True
    )
    return resized.round().clamp(0, 255).to(torch.uint8)


def _split(whole: ImageSet) -> Splits:
    index = np.arange(len(whole))
    try:
        train, test = train_test_split(
            index, test_size=TEST_FRACTION, random_state=SPLIT_SEED, stratify=whole.targets.numpy()
        )
    except ValueError as error:
        raise DataError(f"too few images for a test split of every class: {error}") from error
    return Splits(
        whole.select(torch.from_numpy(np.sort(train))),
        whole.select(torch.from_numpy(np.sort(test))),
    )
