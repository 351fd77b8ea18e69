"""The small data sets, as scikit-learn and torchvision have them."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

from selfsup.data.images import Splits, TensorImages
from selfsup.errors import DataError

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


def digit_images(image_size: int) -> Splits:
    """Load the 1,797 digits of 8 x 8 that scikit-learn ships, split 80:20 by class.

    They are enlarged once: resampled again by each view they are softer, and in trials the labels
    were better for it.
    """
    digits = load_digits()
    whole = TensorImages(
        torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8))[:, None],
        torch.from_numpy(digits.target.astype(np.int64)),
        tuple(str(name) for name in digits.target_names),
        tuple(f"digits/{i:04d}" for i in range(len(digits.images))),
    ).resized(image_size)
    train, test = train_test_split(
        np.arange(len(whole)), test_size=0.2, random_state=0, stratify=digits.target
    )
    train, test = (torch.from_numpy(np.sort(part)) for part in (train, test))
    return Splits(whole.select(train), whole.select(test))


def fashion_images(data: Path | None) -> Splits:
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
        sets.append(_tensors(images[:, None], labels, FASHION_CLASSES, part))
    return Splits(sets[0], sets[1])


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


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an idx file of bytes (the format of MNIST), plain or gzipped."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if content[:3] != b"\x00\x00\x08" or len(content) < 4 + 4 * content[3]:
        raise DataError(f"{path}: not an idx file of unsigned bytes")
    ndim = content[3]
    start = 4 + 4 * ndim
    shape = struct.unpack(f">{ndim}I", content[4:start])
    if len(content) - start != int(np.prod(shape)):
        raise DataError(f"{path}: {len(content) - start} bytes of data, header says {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def torchvision_images(place: Path, dataset: str) -> Splits | None:
    """Load CIFAR-10, CIFAR-100 or SVHN by torchvision, which compares checksums; None if absent."""
    kind, marker = {
        "cifar10": (CIFAR10, CIFAR10.base_folder),
        "cifar100": (CIFAR100, CIFAR100.base_folder),
        "svhn": (SVHN, "train_32x32.mat"),
    }[dataset]
    roots = [root for root in (place, place.parent) if (root / marker).exists()]
    if not roots or (roots[0] != place and place.name != marker):
        return None
    sets = []
    for part in ("train", "test"):
        try:
            if kind is SVHN:
                svhn = SVHN(roots[0], split=part)
                digits = tuple(map(str, range(10)))
                sets.append(_tensors(svhn.data, svhn.labels, digits, part))
            else:
                cifar = kind(roots[0], train=part == "train")
                pixels = cifar.data.transpose(0, 3, 1, 2)
                sets.append(_tensors(pixels, cifar.targets, tuple(cifar.classes), part))
        except (RuntimeError, OSError, EOFError, ValueError) as error:
            raise DataError(
                f"{roots[0] / marker}: the {part} part of {dataset} is missing or not as it was "
                f"published ({error}); unpack the archive there again"
            ) from error
    return Splits(sets[0], sets[1])


def _tensors(
    pixels: NDArray[np.uint8], targets: ArrayLike, classes: tuple[str, ...], part: str
) -> TensorImages:
    images = torch.from_numpy(np.ascontiguousarray(pixels))
    names = tuple(f"{part}/{i:05d}" for i in range(len(images)))
    return TensorImages(images, torch.from_numpy(np.asarray(targets, np.int64)), classes, names)
