"""The small data sets, as scikit-learn and torchvision have them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision.datasets import CIFAR10, CIFAR100, SVHN, FashionMNIST

from selfsup.data.images import Splits, TensorImages
from selfsup.errors import DataError

DIGITS = tuple(map(str, range(10)))
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


def known_images(name: str, data: str | None, size: int) -> Splits | None:
    """Load a data set in its published form; None where this is another one, or class folders.

    Images larger than the network's input `size` are shrunk once. The digits are enlarged once:
    resampled again by each view they are softer, and in trials the labels were better for it.
    """
    parts: tuple[TensorImages, ...] | None = None
    if name == "digits":
        parts = _digits()
    elif name == "fashion-mnist":
        parts = _fashion(data)
    elif name in ("cifar10", "cifar100", "svhn"):
        parts = _of_torchvision(Path(data or "data"), name)
    if parts is None:
        return None
    if name == "digits" or max(parts[0].images.shape[2:]) > size:
        parts = tuple(part.resized(size) for part in parts)
    return Splits(parts[0], parts[1], f"{name}: {len(parts[0]):,} images, classes known")


def _digits() -> tuple[TensorImages, ...]:
    """The 1,797 digits of 8 x 8 that scikit-learn ships, split 80:20 by class."""
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    whole = _tensors(pixels[:, None], digits.target, DIGITS, "digits/{:04d}")
    parts = train_test_split(
        np.arange(len(whole)), test_size=0.2, random_state=0, stratify=digits.target
    )
    return tuple(whole.select(torch.from_numpy(np.sort(part))) for part in parts)


def _fashion(data: str | None) -> tuple[TensorImages, ...]:
    """The four idx files of Fashion-MNIST, plain or gzipped."""
    place = Path(data or "data")
    places = [place, place / "FashionMNIST" / "raw"] + ([] if data else [DEBIAN_FASHION])
    sets = []
    for part in ("train", "t10k"):
        images = read_idx(_find_idx(places, f"{part}-images-idx3-ubyte"))
        labels = read_idx(path := _find_idx(places, f"{part}-labels-idx1-ubyte"))
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DataError(f"{path}: {labels.shape} labels of {images.shape} images beside it")
        sets.append(_tensors(images[:, None], labels, FashionMNIST.classes, part + "/{:05d}"))
    return tuple(sets)


def _find_idx(places: list[Path], name: str) -> Path:
    for path in [place / (name + suffix) for place in places for suffix in ("", ".gz")]:
        if path.is_file():
            return path
    raise DataError(
        f"Fashion-MNIST: no {name}[.gz] in {', '.join(map(str, places))}.\n"
        "On Debian or Ubuntu: apt-get install dataset-fashion-mnist. Elsewhere: download the four "
        "files from https://github.com/zalandoresearch/fashion-mnist and pass their folder "
        "with --data."
    )


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an idx file of bytes (the format of MNIST), plain or gzipped."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if len(content) < 4 or content[:3] != b"\0\0\x08":
            raise ValueError("not an idx file of unsigned bytes")
        shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + shape.nbytes).reshape(shape).copy()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _of_torchvision(place: Path, dataset: str) -> tuple[TensorImages, ...] | None:
    """CIFAR-10, CIFAR-100 or SVHN by torchvision, which compares checksums; None if absent."""
    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100, "svhn": SVHN}[dataset]
    marker = "train_32x32.mat" if kind is SVHN else kind.base_folder
    root = place.parent if place.name == marker else place
    if not (root / marker).exists():
        return None
    sets = []
    for part in ("train", "test"):
        try:
            if kind is SVHN:
                found = SVHN(root, split=part)
                sets.append(_tensors(found.data, found.labels, DIGITS, part + "/{:05d}"))
            else:
                found = kind(root, train=part == "train")
                pixels = found.data.transpose(0, 3, 1, 2)
                sets.append(_tensors(pixels, found.targets, found.classes, part + "/{:05d}"))
        except (RuntimeError, OSError, EOFError, ValueError) as error:
            raise DataError(
                f"{root / marker}: the {part} part of {dataset} is missing or not as it was "
                f"published ({error}); unpack the archive there again"
            ) from error
    return tuple(sets)


def _tensors(
    pixels: NDArray[np.uint8], targets: ArrayLike, classes: Sequence[str], name: str
) -> TensorImages:
    images = torch.from_numpy(np.ascontiguousarray(pixels))
    labels = torch.from_numpy(np.asarray(targets, np.int64))
    return TensorImages(images, labels, tuple(classes), tuple(map(name.format, range(len(images)))))
