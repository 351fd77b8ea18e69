"""The paper's training sets whose classes differ in size."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from selfsup.data.images import ImageSet
from selfsup.errors import DataError


def imbalanced(images: ImageSet, kind: Literal["full", "light", "heavy"], seed: int) -> ImageSet:
    """Leave images of some classes out, in the order of the classes; the rest keeps its order.

    Of C classes "light" drops half of the last one (truck of CIFAR-10), "heavy" the share i / C of
    the i-th: in CIFAR-10 10% of the first, 20% of the second, and so on to all of the tenth.

    Parameters
    ----------
    images : ImageSet
        With classes.
    kind : {"full", "light", "heavy"}
        "full" returns the images as they are.
    seed : int
        Decides which images are left out.

    Raises
    ------
    DataError
        The images have no classes.
    """
    if kind == "full":
        return images
    if not images.labelled:
        raise DataError(f"imbalance {kind} leaves out shares of classes, and these images have "
                        "none: for a folder, --classes folders names them")  # fmt: skip
    n = len(images.classes)
    shares = [(i + 1) / n if kind == "heavy" else 0.5 * (i == n - 1) for i in range(n)]
    targets, kept = images.targets.numpy(), np.ones(len(images), bool)
    for label, share in enumerate(shares):
        members = np.flatnonzero(targets == label)
        rng = np.random.default_rng((seed, label))
        kept[rng.permutation(members)[: round(share * len(members))]] = False
    return images.select(torch.from_numpy(np.flatnonzero(kept)))
