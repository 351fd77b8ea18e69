"""The kernels of a GPU backend, and what a launch of them is told; with torch tensors.

`Kernels` are nine, and csrc/cuda/passes.hpp and minibatch.hpp tell what each of them does.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from sinkhorn_ot.arrays import Array
from sinkhorn_ot.passes import REACH


@dataclass(frozen=True)
class Tile:
    """How a kernel cuts the rows up."""

    width: int  # columns of a chunk
    chunks: int  # of a row; more than one are read twice
    rows: int  # that a block takes at a time
    blocks: int  # that fill the device
    launch: Any = None  # what else the kernels want to know

    @property
    def slabs(self) -> int:
        """Into how many parts the rows are shared out; each has a block for every chunk."""
        return -(-self.blocks // self.chunks)


@dataclass(frozen=True)
class KeptRows:
    """What a read finds out of the entries to be kept, and where a second read puts them.

    Rows are counted in pieces, the shortest chunks into which any kernel cuts them.
    """

    width: int  # of a piece
    pieces: int  # of a row
    count: Array  # (rows, pieces) int32, entries that are large enough
    top: Array  # (rows) float32, the largest probability
    chunk_top: Array | None = None  # (rows, chunks) float64, in the mode "stats"
    begin: Array | None = None  # (rows, pieces) int64
    end: Array | None = None
    entry: Array | None = None  # (entries) float32
    column: Array | None = None  # int32
    row: Array | None = None  # int32

    def step(self, tile: Tile) -> int:
        """Return how many pieces a chunk of a tile is."""
        return max(tile.width // self.width, 1)


#: Threads of a multiprocessor that the blocks of a read are meant to fill.
RESIDENT_THREADS = 1024
#: The fields of `KeptRows` that are tensors.
KEPT_TENSORS = ("count", "top", "chunk_top", "begin", "end", "entry", "column", "row")
#: An entry is kept if it is at least this part of the largest of its row.
LEAST = math.exp(-REACH)


@dataclass(frozen=True)
class Read:
    """The launch of a kernel over rows: `RowPass` of csrc/cuda/passes.hpp, with tensors."""

    x: Array
    vectors: bool
    n: int
    k: int
    a: Array | None
    epsilon: float
    g: Array
    high: Array
    low: Array
    stride: int
    count: int
    tile: Tile
    exact: bool
    bad_row: Array
    mode: str = "whole"
    rows_per_block: int = 0
    sums: Array | None = None  # (blocks, k + 1)
    odd: Array | None = None
    gate: Array | None = None
    f: Array | None = None
    labels: Array | None = None
    log_sum: Array | None = None
    best: Array | None = None
    best_column: Array | None = None
    kept: KeptRows | None = None

    @property
    def blocks(self) -> int:
        """How many blocks of `rows_per_block` rows there are."""
        return -(-self.count // self.rows_per_block)

    def spread(self, blocks: int) -> Read:
        """Share the rows out to at most that many blocks."""
        rows = max(-(-self.count // max(blocks, 1)), least_rows(self.tile))
        return replace(self, rows_per_block=rows)


class Sums(NamedTuple):
    """The slabs of a read; those in float64 count if a row was odd, and are all if that is None."""

    quick: Array
    exact: Array
    odd: Array | None


@dataclass(frozen=True)
class Segments:
    """Entries that lie together: rows or columns of a sparse matrix."""

    begin: Array  # (segments) int64
    end: Array
    value: Array  # (entries) float32
    index: Array  # (entries) int32
    long: bool  # a whole block of threads to each


@dataclass(frozen=True)
class MinibatchRead:
    """What the kernels of a minibatch are told; numbers are float64 where the scores are."""

    x: Array  # (batches, n, k)
    vectors: bool
    rate: float  # that turns a score into an exponent of 2
    n_valid: Array | None  # (batches,) int64
    tile: Tile
    rows_per_block: int
    tops: Array  # (batches, n)
    largest: Array | None = None  # (batches,)
    masses: Array | None = None  # (batches, k) float64
    scales: Array | None = None  # (batches, n): v
    sums: Array | None = None  # (batches, blocks, k)
    out: Array | None = None

    @property
    def blocks(self) -> int:
        """How many blocks of rows a batch is cut into."""
        n: int = self.x.shape[1]
        return -(-n // self.rows_per_block)


class Kernels(Protocol):
    """One way to run the kernels; each call queues them on the current stream."""

    #: Whether `minibatch_columns` finds v of rows that a tile holds, so that they are read once.
    holds_rows: bool

    def tile(self, k: int, exact: bool, on: Any) -> Tile:
        """Return how rows of k entries are cut up on a device."""

    def prepare(self, g: Array, epsilon: float, padded: Array, high: Array, low: Array) -> None:
        """Split g for float32, and pad it."""

    def read_rows(self, read: Read) -> None:
        """Read rows, in the `mode` of the read."""

    def finish(self, sums: Sums, n: int, g: Array, out: Array, low_mass: Array) -> None:
        """Add the slabs: log masses, and the weight of the rows."""

    def read_log(self, read: Read, tops: Array, totals: Array) -> None:
        """Sum the columns in the log domain."""

    def finish_log(self, tops: Array, totals: Array, n: int, gate: Array, out: Array) -> None:
        """Add what `read_log` left."""

    def add_segments(
        self, segments: Segments, p: Array, q: Array | None, first: Array, second: Array | None
    ) -> None:
        """Sum ``value * p[index]`` over each segment, and ``value**2 * q[index]``."""

    def minibatch_rows(self, read: MinibatchRead) -> None:
        """Find the largest score of each row, or with masses its scale."""

    def minibatch_columns(self, read: MinibatchRead) -> None:
        """Sum columns into slabs, or write codes."""

    def minibatch_finish(self, sums: Array, masses: Array) -> None:
        """Add the slabs of each batch."""


def filling(threads: int, on: Any, absent: int) -> int:
    """Return how many blocks of so many threads fill a device.

    One that is not there has `absent` multiprocessors.
    """
    processors = absent
    if on.type == "cuda":
        processors = sys.modules["torch"].cuda.get_device_properties(on).multi_processor_count
    return processors * RESIDENT_THREADS // threads


def least_rows(tile: Tile) -> int:
    """Rows of a block below which its sums cost too much."""
    return 4 * tile.rows


def exact_rate(epsilon: float) -> float:
    """Return what turns a logit into an exponent of 2."""
    return 1.4426950408889634 / epsilon


def rounded_rate(epsilon: float) -> float:
    """Return the same as float32 has it: logits and g are both scaled by that."""
    with np.errstate(over="ignore"):
        return float(np.float32(exact_rate(epsilon)))
