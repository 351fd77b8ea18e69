"""A tiny run, and when two runs are the same, to the bit."""

from __future__ import annotations

import numpy as np
import torch

from selfsup.config import (
    AugmentConfig,
    Config,
    DataConfig,
    LabelConfig,
    ModelConfig,
    OptimiserConfig,
    RunConfig,
)
from selfsup.training.checkpoints import load_checkpoint, read_log

TINY = Config(
    DataConfig("digits", 8),
    ModelConfig(width=4),
    LabelConfig(clusters=(10, 6), epsilon=0.1, updates=7),
    OptimiserConfig(
        epochs=4, batch_size=200, augment=AugmentConfig(rotate=10, shift=0.1, erase=0.2)
    ),
    RunConfig("tiny", device="cpu", supervised_epochs=1),
)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def timeless(line):
    ignored = ("seconds", "images_per_second", "label_share")
    return {k: v for k, v in line.items() if k not in ignored}


def assert_same_run(run, finished):
    ours, theirs = load_checkpoint(run), load_checkpoint(finished)
    assert same(timeless(ours), timeless(theirs))
    assert np.array_equal(np.load(run / "labels.npy"), np.load(finished / "labels.npy"))
    assert list(map(timeless, read_log(run))) == list(map(timeless, read_log(finished)))
