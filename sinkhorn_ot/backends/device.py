"""What the GPU backends share: the passes as launches of a few kernels on torch tensors.

Nothing in here waits for the device. What cannot be known without waiting is left to the kernels:
one that may not be needed looks at its *gate*, a number on the device, and returns if it is zero.
So a read in float32 is followed by one in float64 that runs only if a row was *odd* (too large for
float32, or no row at all), and by one in the log domain that runs only if a mass underflowed.

The kernels are those of `Kernels`; csrc/cuda/passes.hpp tells what each of them does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from sinkhorn_ot.arrays import (
    Array,
    Needs,
    Problem,
    Reading,
    dtype_name,
    is_torch,
    may_look,
    namespace,
)

#: Words of 4 bytes that an entry of a sketch takes: value, column and row (3), value and row in the
#: order of columns (2), and what sorting takes (7).
WORDS_PER_ENTRY = 12


@dataclass(frozen=True)
class Tile:
    """How a kernel cuts the rows up."""

    width: int  # columns of a chunk
    chunks: int  # of a row; more than one are read twice
    rows: int  # that a block takes at a time
    blocks: int  # that fill the device
    launch: Any = None  # what else the kernels want to know


@dataclass(frozen=True)
class SketchRows:
    """What a read finds out for a sketch, and how a second read fills it."""

    hold: Array  # (padded columns) float32
    cut: Array
    count: Array  # (rows) int32, entries that matter
    top: Array  # (rows) float32
    begin: Array | None = None  # (rows) int64
    end: Array | None = None
    entry: Array | None = None  # (entries) float32
    column: Array | None = None  # int32
    row: Array | None = None  # int32


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
    sketch: SketchRows | None = None

    @property
    def blocks(self) -> int:
        """How many blocks of `rows_per_block` rows there are."""
        return -(-self.count // self.rows_per_block)

    def spread(self, blocks: int) -> Read:
        """Share the rows out to at most that many blocks."""
        rows = max(-(-self.count // max(blocks, 1)), least_rows(self.tile))
        return replace(self, rows_per_block=rows)


@dataclass(frozen=True)
class Segments:
    """Entries that lie together: rows or columns of a sparse matrix."""

    begin: Array  # (segments) int64
    end: Array
    value: Array  # (entries) float32
    index: Array  # (entries) int32
    long: bool  # a whole block of threads to each


class Kernels(Protocol):
    """One way to run the kernels; each call queues them on the current stream."""

    def tile(self, k: int, exact: bool, on: Any) -> Tile:
        """Return how rows of k entries are cut up on a device."""

    def prepare(self, g: Array, epsilon: float, padded: Array, high: Array, low: Array) -> None:
        """Split g for float32, and pad it."""

    def read_rows(self, read: Read) -> None:
        """Read rows, in the `mode` of the read."""

    def finish(
        self,
        quick: Array,
        exact: Array,
        odd: Array | None,
        n: int,
        g: Array,
        out: Array,
        low_mass: Array,
    ) -> None:
        """Add the slabs: log masses, and the weight of the rows."""

    def read_log(self, read: Read, tops: Array, totals: Array) -> None:
        """Sum the columns in the log domain."""

    def finish_log(self, tops: Array, totals: Array, n: int, gate: Array, out: Array) -> None:
        """Add what `read_log` left."""

    def add_segments(
        self, segments: Segments, p: Array, q: Array | None, first: Array, second: Array | None
    ) -> None:
        """Sum ``value * p[index]`` over each segment, and ``value**2 * q[index]``."""


def needs(logits: Array, kernels: Kernels) -> Needs:
    """What a sketch takes: its entries, and per row what tells which of them to keep."""
    n, k = logits.shape
    tiles = [kernels.tile(k, exact, logits.device) for exact in (False, True)]
    blocks = sum(min(tile.blocks, n // least_rows(tile) + 1) for tile in tiles)
    held = all(tile.chunks == 1 for tile in tiles)  # rows in chunks are not counted
    return Needs(
        besides=64 * n + 8 * (k + 65) * blocks,  # the sums of a block, also in the log domain
        least=4 * WORDS_PER_ENTRY * k,
        everything=WORDS_PER_ENTRY * n * k if held else 0,
    )


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


def not_on_gpu(logits: Array) -> str | None:
    """None, or why these logits are nothing for a GPU that the kernels know."""
    if not is_torch(logits) or logits.device.type != "cuda":
        return "the logits are not a CUDA tensor"
    major, minor = namespace(logits).cuda.get_device_capability(logits.device)
    if major < 8:
        return f"the GPU has compute capability {major}.{minor}; the kernels need 8.0"
    return None


class DevicePasses:
    """The passes over rows in the memory of a device."""

    def __init__(self, problem: Problem, kernels: Kernels) -> None:
        logits = problem.logits
        self.problem = problem
        self.kernels = kernels
        self.torch = namespace(logits)
        self.device = logits.device
        self.n, self.k = logits.shape
        self.double = dtype_name(logits) == "float64"
        self.a = None if problem.a is None else problem.a.contiguous()
        self.vectors = reads_in_vectors(logits)
        self.bad_row = self._full(1, self.n, self.torch.int64)
        self.certain = 0.0  # reads that were queued
        self.gated = self._full(1, 0.0)  # reads that happened behind a gate
        self.seen: float | None = 0.0  # of these, as the host knows them; None: not any more

    @property
    def may_wait(self) -> bool:
        """Whether the host may ask the device for a number: not while a graph is recorded."""
        return may_look(self.problem.b)

    @property
    def reads(self) -> float:
        """Reads of the matrix so far; while a graph is recorded, those that no gate guards."""
        if self.seen is None and self.may_wait:
            self.seen = float(self.gated)
        return self.certain + (self.seen or 0.0)

    def number(self, x: Array) -> float:
        """Wait for a number; and learn on the way how many reads there have been."""
        value, self.seen = self.torch.stack((x.reshape(()), self.gated.reshape(()))).tolist()
        return float(value)

    def first_bad_row(self) -> int | None:
        """The least row without a finite maximum that a read has met."""
        row = int(self.bad_row)  # of the first read that met one: later ones see its NaN everywhere
        return row if row < self.n else None

    def read(
        self,
        g: Array,
        *,
        exact: bool = False,
        stride: int = 1,
        assign: bool = False,
        sketch: DeviceSketch | None = None,
    ) -> Reading:
        """Read the rows once; see `Passes`."""
        torch, g = self.torch, g.contiguous()
        exact = exact or self.double
        flags = self._full(2, 0, torch.int32)
        odd, low_mass = flags[:1], flags[1:]
        f = self._empty(self.n) if assign else None
        labels = self._empty(self.n, torch.int64) if assign else None
        read = self._point(g, stride, self.n // stride, sketch)
        read = replace(read, f=f, labels=labels)
        fast = None if exact else self._sums(replace(read, exact=False, odd=odd))
        sure = self._sums(replace(read, exact=True, gate=None if exact else odd))
        if stride == 1:  # a sample need not hold the first one
            self.bad_row = torch.where(self.bad_row < self.n, self.bad_row, read.bad_row)
        out = self._empty(self.k + 1)
        self.kernels.finish(
            sure if fast is None else fast, sure, None if exact else odd, self.n, g, out, low_mass
        )
        del fast, sure  # their memory serves again
        self._read_log(replace(read, exact=True, gate=low_mass, labels=None, sketch=None), out)
        # rows in chunks are read twice, in float64 sooner than in float32
        sure_reads = min(self.tile(True).chunks, 2)
        self.certain += (sure_reads if exact else min(self.tile(False).chunks, 2)) / stride
        self.gated += ((not exact) * sure_reads * odd + (sure_reads + 1) * low_mass) / stride
        self.seen = None
        if sketch is not None:
            sketch.fill(read, None if exact else odd)
        return Reading(out[: self.k], f, labels)

    def sketch(self, words: int) -> DeviceSketch:
        """Return room for a sketch; see `Passes`."""
        return DeviceSketch(self, words)

    def tile(self, exact: bool) -> Tile:
        """Return how these rows are cut up."""
        return self.kernels.tile(self.k, exact, self.device)

    def _point(self, g: Array, stride: int, count: int, sketch: DeviceSketch | None) -> Read:
        """What the reads at one g have in common."""
        torch, problem = self.torch, self.problem
        tiles = [self.tile(exact) for exact in (False, True)]
        padded = max(tile.width * tile.chunks for tile in tiles)
        high, low = self._empty((2, padded), torch.float32)
        padded_g = self._empty(padded)
        self.kernels.prepare(g, problem.epsilon, padded_g, high, low)
        rows = None if sketch is None else sketch.rows_of(count, padded)
        log_sum = None if rows is None else self._empty(count)
        return Read(
            problem.logits, self.vectors, self.n, self.k, self.a, problem.epsilon, padded_g, high,
            low, stride, count, tiles[0], False, self._full(1, self.n, torch.int64),
            log_sum=log_sum, sketch=rows,
        )  # fmt: skip

    def _sums(self, read: Read) -> Array:
        """Queue one read; return its slabs."""
        read = replace(read, tile=self.tile(read.exact))
        if read.tile.chunks == 1:
            read = read.spread(read.tile.blocks)
            read = replace(read, sums=self._empty((read.blocks, self.k + 1)))
            self.kernels.read_rows(read)
            return read.sums
        read = read.spread(-(-read.tile.blocks // read.tile.chunks))
        read = replace(read, sums=self._full((read.blocks, self.k + 1), 0.0))
        self._in_chunks(read)
        return read.sums

    def _in_chunks(self, read: Read) -> None:
        """Rows too long to be held: a read for the sums of their chunks, one for the masses."""
        torch = self.torch
        shape = (read.count, read.tile.chunks)
        log_sums = self._full(shape, 0.0)
        best: Array = None
        column: Array = None
        if read.labels is not None:
            best, column = self._full(shape, 0.0), self._full(shape, 0, torch.int64)
        self.kernels.read_rows(
            replace(read, mode="stats", log_sum=log_sums, best=best, best_column=column)
        )
        log_sum = torch.logsumexp(log_sums * math.log(2), 1) / math.log(2)
        rows = sampled_rows(torch, read.count, read.stride, self.device)
        bad = ~log_sum.isfinite()
        if read.exact:
            read.bad_row.copy_(torch.minimum(read.bad_row, torch.where(bad, rows, self.n).min()))
        else:
            torch.bitwise_or(read.odd, bad.any().to(torch.int32), out=read.odd)

        def put(into: Array, values: Array) -> None:
            into[rows] = values if read.gate is None else values.where(read.gate > 0, into[rows])

        if read.labels is not None:
            put(read.labels, column.gather(1, best.argmax(1, keepdim=True))[:, 0].where(~bad, -1))
        if read.f is not None:
            log_a = -math.log(self.n) if self.a is None else self.a[rows].log()
            rate = exact_rate(read.epsilon) if read.exact else rounded_rate(read.epsilon)
            put(read.f, read.epsilon * log_a - log_sum / rate)
        self.kernels.read_rows(replace(read, mode="apply", log_sum=log_sum))

    def _read_log(self, read: Read, out: Array) -> None:
        """Queue the read in the log domain that replaces masses which underflowed."""
        if read.f is None:
            read = replace(read, f=self._empty(self.n))
        self._sums(read)
        log = read.spread(-(-read.tile.blocks // max(self.k // 32, 1)))
        tops = self._empty((log.blocks, self.k))
        totals = self._empty((log.blocks, self.k))
        self.kernels.read_log(log, tops, totals)
        self.kernels.finish_log(tops, totals, self.n, read.gate, out)

    def _empty(self, shape: Any, dtype: Any = None) -> Array:
        return self.torch.empty(shape, dtype=dtype or self.torch.float64, device=self.device)

    def _full(self, shape: Any, value: float, dtype: Any = None) -> Array:
        shape = (shape,) if isinstance(shape, int) else shape
        return self.torch.full(shape, value, dtype=dtype or self.torch.float64, device=self.device)


class DeviceSketch:
    """Entries that matter, by row and by column; see `Sketch`.

    They are probabilities at the g at which they were read, so the sums of a sketch are products
    of two sparse matrices with vectors: no atomics, and the same bits every time.
    """

    def __init__(self, passes: DevicePasses, words: int) -> None:
        self.passes = passes
        self.room = max(words // WORDS_PER_ENTRY, 1)
        self.hold = self.cut = passes._full(0, 0.0, passes.torch.float32)
        self.scalings = self.curvature = self.weight = self.count = passes._full(0, 0.0)
        none = self.scalings
        self.none = Segments(none, none, none, none, long=False)
        self.by_row = self.by_column = self.none
        self._held: tuple[int, int] | None = None
        self.expect(passes._full(passes.k, 0.0), math.inf)

    def expect(self, move: Array, reach: float) -> None:
        """Say what matters; see `Sketch`."""
        torch = self.passes.torch
        self.hold = (-move).exp().to(torch.float32)
        self.cut = (-reach - move).exp().to(torch.float32)

    @property
    def rows(self) -> int:
        """Rows that were kept."""
        return self._counts()[0]

    @property
    def words(self) -> int:
        """Memory that they take, in words of 4 bytes."""
        return self._counts()[1] * WORDS_PER_ENTRY

    def _counts(self) -> tuple[int, int]:
        """Kept rows and their entries; waits for the device, once for each read."""
        if self._held is None:
            self._held = int((self.count > 0).sum()), int(self.count.sum())
        return self._held

    def rows_of(self, count: int, padded: int) -> SketchRows | None:
        """Return room for what a read of that many rows finds out."""
        torch, empty = self.passes.torch, self.passes._empty
        pad = torch.nn.functional.pad
        extra = padded - self.passes.k
        return SketchRows(
            pad(self.hold, (0, extra)),
            pad(self.cut, (0, extra), value=math.inf),
            empty(count, torch.int32),
            empty(count, torch.float32),
        )

    def fill(self, read: Read, odd: Array | None) -> None:
        """Choose rows, evenly and as many as there is room for, and read their entries."""
        passes, torch = self.passes, self.passes.torch
        self.by_row = self.by_column = self.none  # what it held makes room
        seen = read.sketch
        assert seen is not None
        total = seen.count.sum()
        part = (0.95 * self.room / total).clamp(max=1.0)
        turn = torch.arange(read.count + 1, dtype=torch.float64, device=passes.device) * part
        chosen = turn[1:].floor() > turn[:-1].floor()
        chosen |= total <= self.room
        count = torch.where(chosen, seen.count, 0).to(torch.int64)
        end = count.cumsum(0)
        count = torch.where(end <= self.room, count, 0)  # uneven rows may take more than expected
        end = count.cumsum(0)
        entry = passes._full(self.room, 0.0, torch.float32)
        column = passes._full(self.room, passes.k, torch.int32)
        row = passes._full(self.room, 0, torch.int32)
        begin = end - count
        filled = replace(seen, begin=begin, end=end, entry=entry, column=column, row=row)
        read = replace(read, mode="fill", sketch=filled, f=None, labels=None)
        for exact in (False, True) if odd is not None else (True,):
            gate = odd if exact else None
            once = replace(read, exact=exact, gate=gate, tile=passes.tile(exact))
            passes.kernels.read_rows(once.spread(once.tile.blocks))
        passes.gated += (count > 0).sum() / (read.count * read.stride)
        passes.seen = None

        order = torch.sort(column, stable=True)
        edges = torch.arange(passes.k, dtype=torch.int32, device=passes.device)
        self.by_row = Segments(begin, end, entry, column, long=False)
        self.by_column = Segments(
            torch.searchsorted(order.values, edges),
            torch.searchsorted(order.values, edges, right=True),
            entry[order.indices],
            row[order.indices],
            long=True,
        )
        rows = sampled_rows(torch, read.count, read.stride, passes.device)
        mass = 1.0 if passes.a is None else passes.a[rows] * passes.n
        self.count = count
        self.weight = torch.where(count > 0, mass, 0.0).to(torch.float64)
        self._held = None

    def mass(self, delta: Array, *, exact: bool = False) -> tuple[Array, Array]:
        """Return masses and second moments; see `Sketch`. They are always float64 sums."""
        torch, weight = self.passes.torch, self.weight
        self.scalings = delta.exp()
        total = self._times(self.by_row, self.scalings)
        kept = (weight > 0) & (total > 0)
        c = torch.where(kept, weight / total, 0.0)
        q = torch.where(kept, c / total, 0.0)
        self.curvature = q
        first, second = torch.empty_like(delta), torch.empty_like(delta)
        self.passes.kernels.add_segments(self.by_column, c, q, first, second)
        self._count()
        whole = weight.sum()
        return first * self.scalings / whole, second * self.scalings**2 / whole

    def value(self, delta: Array) -> float:
        """Return the value; see `Sketch`."""
        torch, weight = self.passes.torch, self.weight
        total = self._times(self.by_row, delta.exp())
        self._count(0.5)
        logs = torch.where(weight > 0, weight * total.log(), 0.0)
        return float(logs.sum() / weight.sum())

    def second_moment(self, v: Array) -> Array:
        """Return the product; see `Sketch`."""
        along = self._times(self.by_row, self.scalings * v)
        out = self._times(self.by_column, self.curvature * along)
        self._count()
        return out * self.scalings / self.weight.sum()

    def _times(self, segments: Segments, vector: Array) -> Array:
        out = self.passes._empty(segments.begin.shape[0])
        self.passes.kernels.add_segments(segments, vector, None, out, None)
        return out

    def _count(self, both: float = 1.0) -> None:
        """Count what was read: 8 bytes an entry in each of two directions."""
        whole = self.passes.n * self.passes.k * self.passes.problem.logits.element_size()
        self.passes.certain += both * 16 * self._counts()[1] / whole


def reads_in_vectors(logits: Array) -> bool:
    """Whether rows can be read 16 bytes at a time, the last ones included."""
    n, k = logits.shape
    size = logits.element_size()
    wide = 16 // size
    rows, columns = logits.stride()
    last = logits.storage_offset() + (n - 1) * rows + -(-k // wide) * wide
    return bool(
        (columns == 1 or k == 1)
        and (rows * size % 16 == 0 or n == 1)
        and logits.data_ptr() % 16 == 0
        and last * size <= logits.untyped_storage().nbytes()
    )


def sampled_rows(torch: Any, count: int, stride: int, device: Array) -> Array:
    """The rows of a sample, one of each `stride` neighbours: Fibonacci hashing, as in C++."""
    turn = torch.arange(count, device=device)
    if stride == 1:
        return turn
    high, low = 0x9E3779B9, 0x7F4A7C15  # the 64-bit constant in halves: int64 has no unsigned
    hashed = (turn * high + (turn * low >> 32)) & 0xFFFFFFFF
    return turn * stride + hashed % stride
