"""Stratified parts of labelled images: for choosing settings, and for few labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from selfsup.seeds import Stream, seed_of


def stratified(targets: Tensor, share: float, seed: int, least: int = 0) -> tuple[Tensor, Tensor]:
    """Split positions so that one part has the same share of every class.

    Parameters
    ----------
    targets : Tensor
        (N,) int64 classes.
    share : float
        Share of each class, rounded to whole images, that goes into the first part.
    seed : int
        Decides which; equal arguments give equal parts.
    least : int
        The first part has at least so many images of each class, where the class has them.

    Returns
    -------
    chosen, rest : Tensor
        Sorted int64 positions. A class keeps one image in `rest` unless `share` is 1 or `least`
        takes it.
    """
    rng = np.random.default_rng(seed_of(seed, Stream.SPLITS))
    classes, chosen = targets.cpu().numpy(), np.zeros(len(targets), bool)
    for label in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == label))
        most = len(members) if share >= 1 else len(members) - 1
        chosen[members[: max(min(round(share * len(members)), most), least)]] = True
    first, rest = (torch.from_numpy(np.flatnonzero(part)) for part in (chosen, ~chosen))
    return first, rest


def validation_split(
    targets: Tensor, seed: int, share: float = 0.1, most: int = 10_000
) -> tuple[Tensor, Tensor]:
    """Return positions to fit on and positions to choose settings by: together all images.

    The second part is a tenth of each class, and about `most` images at most. Where a tenth of a
    mean class is not one image, it is a larger share.
    """
    sizes = torch.bincount(targets)
    share = min(share, most / len(targets))
    share = max(share, min(0.5, int((sizes > 0).sum()) / len(targets)))
    held, fit = stratified(targets, share, seed)
    return fit, held
