"""Random numbers as functions of where a run is, so that a position is all a resume needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a random number is for."""

    WEIGHTS = 0
    ORDER = 1
    VIEWS = 2
    DROPOUT = 3
    LABEL_VIEWS = 4
    LABELS = 5
    LABELLER = 8
    SPLITS = 9


def seed_of(seed: int, stream: Stream, *position: int) -> int:
    """Return a seed of 63 bits for one position of one stream."""
    words = np.random.SeedSequence((seed, stream, *position)).generate_state(2)
    return (int(words[0]) << 31) | (int(words[1]) >> 1)


def generator_of(seed: int, stream: Stream, *position: int) -> torch.Generator:
    """Return a CPU generator for one position of one stream."""
    return torch.Generator().manual_seed(seed_of(seed, stream, *position))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Start the CPU's global generator from a seed; it is as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
