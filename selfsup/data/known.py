"""The small data sets, in the files in which they are published and torchvision keeps them."""

from __future__ import annotations

import gzip
import pickle
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from sklearn.datasets import load_digits
from torch import Tensor

from selfsup.data.folders import split
from selfsup.data.images import DataError, Splits, TensorImages

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
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return split(
        TensorImages(
            torch.from_numpy(images)[:, None],
            torch.from_numpy(digits.target.astype(np.int64)),
            tuple(str(name) for name in digits.target_names),
            tuple(f"digits/{i:04d}" for i in range(len(images))),
        ).resized(image_size)
    )


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
        sets.append(
            TensorImages(
                torch.from_numpy(images)[:, None],
                torch.from_numpy(labels.astype(np.int64)),
                FASHION_CLASSES,
                _names(part, len(images)),
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


#: Folder, training files, test file, key of the labels, file and key of the classes' names.
CIFAR = {
    "cifar10": (
        "cifar-10-batches-py",
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        "test_batch",
        "labels",
        ("batches.meta", "label_names"),
    ),
    "cifar100": (
        "cifar-100-python",
        ("train",),
        "test",
        "fine_labels",
        ("meta", "fine_label_names"),
    ),
}


def cifar_images(place: Path, dataset: str) -> Splits | None:
    """Load CIFAR-10 or CIFAR-100 from the pickles of its Python version; None if not there.

    torchvision's classes compare checksums; here subsets in the same format are read as well.
    """
    name, train, test, key, (meta, names_key) = CIFAR[dataset]
    roots = [root for root in (place / name, place) if (root / meta).is_file()]
    if not roots:
        return None
    names = tuple(map(str, _unpickle(roots[0] / meta, names_key)[0]))
    sets = []
    for part, files in (("train", train), ("test", (test,))):
        batches = [_unpickle(roots[0] / file, "data", key) for file in files]
        for file, (values, labels) in zip(files, batches, strict=True):
            if np.shape(values) != (len(labels), 3 * 32 * 32) or values.dtype != np.uint8:
                raise DataError(f"{roots[0] / file}: data must be (N, 3072) bytes, with N {key}")
        images = np.concatenate([values for values, _ in batches]).reshape(-1, 3, 32, 32)
        targets = torch.tensor([label for _, labels in batches for label in labels])
        sets.append(
            TensorImages(torch.from_numpy(images), targets, names, _names(part, len(images)))
        )
    return Splits(*sets)


ARRAYS = ("_reconstruct", "_frombuffer", "ndarray", "dtype")


class _Arrays(pickle.Unpickler):
    """A reader of pickles that makes NumPy arrays and nothing else: a pickle can run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ARRAYS:
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, which no CIFAR file does")


def _unpickle(path: Path, *keys: str) -> list[Any]:
    try:
        with path.open("rb") as file:
            content = _Arrays(file, encoding="latin1").load()
            return [content[key] for key in keys]
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; unpack the whole archive there") from error
    except (OSError, EOFError, pickle.UnpicklingError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path}: not a readable batch of CIFAR images ({error!r})") from error


#: What scipy's reader raises on torn files: it checks little before it reads on.
TORN_MAT = (
    OSError,
    MatReadError,
    ValueError,
    IndexError,
    TypeError,
    NotImplementedError,
    zlib.error,
)


def svhn_images(place: Path) -> Splits | None:
    """Load SVHN (cropped digits) from train_32x32.mat and test_32x32.mat; None if not there."""
    files = [place / f"{part}_32x32.mat" for part in ("train", "test")]
    if not any(file.is_file() for file in files):
        return None
    sets = []
    for part, file in zip(("train", "test"), files, strict=True):
        images, targets = _read_mat(file)
        names = tuple(map(str, range(10)))
        sets.append(
            TensorImages(torch.from_numpy(images), targets, names, _names(part, len(images)))
        )
    return Splits(*sets)


def _read_mat(file: Path) -> tuple[NDArray[np.uint8], Tensor]:
    """Read images (N, 3, 32, 32) and their digits from a file of SVHN."""
    try:
        with file.open("rb") as stream:
            content = loadmat(stream)
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing beside the other part of SVHN") from error
    except TORN_MAT as error:
        raise DataError(f"{file}: not a readable file of SVHN ({error!r})") from error
    pixels, digits = np.asarray(content.get("X")), np.asarray(content.get("y"))
    if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(np.ravel(digits))):
        raise DataError(f"{file}: X must be (32, 32, 3, N) bytes, with N labels y")
    images = np.ascontiguousarray(pixels.transpose(3, 2, 0, 1))
    return images, torch.from_numpy(digits.ravel().astype(np.int64) % 10)  # 10 means 0


def _names(part: str, n: int) -> tuple[str, ...]:
    return tuple(f"{part}/{i:05d}" for i in range(n))
