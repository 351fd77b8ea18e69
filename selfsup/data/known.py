"""The small data sets, in the files in which they are published and torchvision keeps them."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.io import loadmat
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from selfsup.data.folders import split
from selfsup.data.images import DataError, Splits, TensorImages

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


def digit_images(image_size: int) -> Splits:
    """Load the 1,797 digits that scikit-learn ships, split 80:20 by class."""
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return split(
        TensorImages(
            _resize(torch.from_numpy(images)[:, None], image_size),
            torch.from_numpy(digits.target.astype(np.int64)),
            tuple(str(name) for name in digits.target_names),
            tuple(f"digits/{i:04d}" for i in range(len(images))),
        )
    )


def fashion_images(data: Path | None, image_size: int) -> Splits:
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
                _resize(torch.from_numpy(images)[:, None], image_size),
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


def cifar_images(place: Path, classes: int) -> Splits | None:
    """Load CIFAR-10 or CIFAR-100 from the pickles of its Python version; None if not there."""
    folder, parts, meta = {
        10: (
            "cifar-10-batches-py",
            ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]),
            ("batches.meta", b"label_names", b"labels"),
        ),
        100: (
            "cifar-100-python",
            (["train"], ["test"]),
            ("meta", b"fine_label_names", b"fine_labels"),
        ),
    }[classes]
    roots = [root for root in (place / folder, place) if (root / meta[0]).is_file()]
    if not roots:
        return None
    names = tuple(name.decode() for name in _unpickle(roots[0] / meta[0])[meta[1]])
    sets = []
    for part, files in zip(("train", "test"), parts, strict=True):
        batches = [_unpickle(roots[0] / file) for file in files]
        images = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
        targets = torch.tensor([label for batch in batches for label in batch[meta[2]]])
        sets.append(
            TensorImages(torch.from_numpy(images), targets, names, _names(part, len(images)))
        )
    return Splits(*sets)


class _Arrays(pickle.Unpickler):
    """A reader of pickles that makes NumPy arrays and nothing else: a pickle can run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, which no CIFAR file does")


def _unpickle(path: Path) -> dict[bytes, Any]:
    try:
        with path.open("rb") as file:
            content: dict[bytes, Any] = _Arrays(file, encoding="bytes").load()
    except (OSError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise DataError(f"{path}: not a readable batch of CIFAR images ({error})") from error
    return content


def svhn_images(place: Path) -> Splits | None:
    """Load SVHN (cropped digits) from train_32x32.mat and test_32x32.mat; None if not there."""
    files = [place / "train_32x32.mat", place / "test_32x32.mat"]
    if not all(file.is_file() for file in files):
        return None
    sets = []
    for part, file in zip(("train", "test"), files, strict=True):
        try:
            content = loadmat(file)
            images = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1))
            targets = torch.from_numpy(content["y"].astype(np.int64)[:, 0] % 10)  # 10 means 0
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"{file}: not a readable file of SVHN ({error})") from error
        names = tuple(map(str, range(10)))
        sets.append(
            TensorImages(torch.from_numpy(images), targets, names, _names(part, len(images)))
        )
    return Splits(*sets)


def _names(part: str, n: int) -> tuple[str, ...]:
    return tuple(f"{part}/{i:05d}" for i in range(n))


def _resize(images: Tensor, size: int) -> Tensor:
    if images.shape[-2:] == (size, size):
        return images.contiguous()
    resized = F.interpolate(
        images.float(), (size, size), mode="bilinear", align_corners=False, antialias=True
    )
    return resized.round().clamp(0, 255).to(torch.uint8)
