"""What the GPU backends share: the passes as launches of a few kernels on torch tensors.

Nothing in here waits for the device. What cannot be known without waiting is left to the kernels:
one that may not be needed looks at its *gate*, a number on the device, and returns if it is zero.
So a read in float32 is followed by one in float64 that runs only if a row was *odd* (too large for
float32, or no row at all), and by one in the log domain that runs only if a mass underflowed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from sinkhorn_ot.arrays import Array, Place, dtype_name, namespace, place_of
from sinkhorn_ot.backends.gpu.kept import (
    BYTES_HELD,
    BYTES_PER_PIECE,
    WORDS_PER_ENTRY,
    DeviceKept,
)
from sinkhorn_ot.backends.gpu.kernels import (
    Kernels,
    Read,
    Sums,
    Tile,
    exact_rate,
    least_rows,
    rounded_rate,
)
from sinkhorn_ot.passes import Needs, Problem, Reading, sampled_row

#: So many entries are worth keeping, even if they are all that the matrix has.
WORTH_IT = 1 << 20
#: Bytes that a call may add however small the matrix: what is kept of a million short rows.
ALWAYS = 160 << 20
#: Vectors of K numbers that a solve holds at a time, rounded up.
VECTORS = 32


def needs_of(logits: Array, n: int, kernels: Kernels) -> Needs:
    """What kept entries take, and per row what tells which of them to keep."""
    k = logits.shape[1]
    tiles = [kernels.tile(k, exact, logits.device) for exact in (False, True)]
    slabs = sum(min(tile.slabs, n // least_rows(tile) + 1) for tile in tiles)
    pieces = max(tile.chunks for tile in tiles)
    return Needs(
        # (slabs of the log domain take the place of the others)
        held=BYTES_HELD * n * pieces,
        besides=BYTES_PER_PIECE * n * pieces + 8 * (k + 65) * (slabs + VECTORS),
        least=4 * WORDS_PER_ENTRY * k,
        everything=WORDS_PER_ENTRY * n * k,
        small=WORDS_PER_ENTRY * WORTH_IT,
        always=ALWAYS,
    )


def not_on_gpu(place: Place) -> str | None:
    """None, or why logits there are not on a GPU that the kernels know."""
    if place.kind != "cuda":
        return "the logits are not a CUDA tensor"
    major, minor = place.xp.cuda.get_device_capability(place.device)
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
        self.n, (self.rows, self.k) = problem.n, logits.shape
        self.double = dtype_name(logits) == "float64"
        self.a = None if problem.a is None else problem.a.contiguous()
        self.vectors = reads_in_vectors(logits)
        self.bad_row = self._full(1, self.rows, self.torch.int64)
        self.certain = 0.0  # reads that were queued
        self.gated = self._full(1, 0.0)  # reads that happened behind a gate
        self.seen: float | None = 0.0  # of these, as the host knows them; None: not any more

    @property
    def may_wait(self) -> bool:
        """Whether the host may ask the device for a number: not while a graph is recorded."""
        return place_of(self.problem.b).may_look

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
        """The first row without a finite maximum that a read has met."""
        row = int(self.bad_row)  # of the first read that met one: later ones see its NaN everywhere
        return self.problem.first + row if row < self.rows else None

    def read(
        self,
        g: Array,
        *,
        exact: bool = False,
        log: bool = False,
        stride: int = 1,
        assign: bool = False,
        kept: DeviceKept | None = None,
        share: float = 1.0,
    ) -> Reading:
        """Read the rows once; see `Passes`.

        The kernels see themselves to the log domain, and to how many rows there is room for.  A
        sample is one of the rows held here.
        """
        torch, g, count = self.torch, g.contiguous(), self.rows // stride
        if count == 0:  # of a process with fewer rows than a sample passes over
            return Reading(torch.full_like(g, -math.inf), self._full(1, 0.0))
        exact = exact or self.double
        flags = self._full(2, 0, torch.int32)
        odd, low_mass = flags[:1], flags[1:]
        f = self._empty(self.rows) if assign else None
        labels = self._empty(self.rows, torch.int64) if assign else None
        read = self._point(g, stride, count, kept)
        read = replace(read, f=f, labels=labels)
        gate = None if exact else odd
        fast = None if exact else self._sums(replace(read, exact=False, odd=odd))
        sure = self._sums(replace(read, exact=True, gate=gate))
        sums = Sums(sure if fast is None else fast, sure, gate)
        if stride == 1:  # a sample need not hold the first one
            self.bad_row = torch.where(self.bad_row < self.rows, self.bad_row, read.bad_row)
        out = self._empty(self.k + 1)
        self.kernels.finish(sums, self.n, g, out, low_mass)
        del fast, sure, sums  # their memory serves again
        self._read_log(replace(read, exact=True, gate=low_mass, labels=None, kept=None), out)
        # rows in chunks are read twice, in float64 sooner than in float32
        sure_reads = min(self.tile(True).chunks, 2)
        self.certain += (sure_reads if exact else min(self.tile(False).chunks, 2)) / stride
        self.gated += ((not exact) * sure_reads * odd + (sure_reads + 1) * low_mass) / stride
        self.seen = None
        if kept is not None:
            tiles = {exact: self.tile(exact) for exact in (False, True)}
            self.gated += kept.fill(read, gate, tiles) / (count * stride)
        return Reading(out[: self.k], out[self.k :], f, labels)

    def keep(self, words: int) -> DeviceKept:
        """Return room for kept entries; see `Passes`."""
        return DeviceKept(self.problem, self.kernels, words)

    def tile(self, exact: bool) -> Tile:
        """Return how these rows are cut up."""
        return self.kernels.tile(self.k, exact, self.device)

    def _point(self, g: Array, stride: int, count: int, kept: DeviceKept | None) -> Read:
        """What the reads at one g have in common."""
        torch, problem = self.torch, self.problem
        tiles = [self.tile(exact) for exact in (False, True)]
        padded = max(tile.width * tile.chunks for tile in tiles)
        high, low = self._empty((2, padded), torch.float32)
        padded_g = self._empty(padded)
        self.kernels.prepare(g, problem.epsilon, padded_g, high, low)
        finest = max(tiles, key=lambda tile: tile.chunks)
        rows = None if kept is None else kept.rows_of(count, finest)
        log_sum = None if rows is None else self._empty(count)
        return Read(
            problem.logits, self.vectors, self.n, self.k, self.a, problem.epsilon, padded_g, high,
            low, stride, count, tiles[0], False, self._full(1, self.rows, torch.int64),
            log_sum=log_sum, kept=rows,
        )  # fmt: skip

    def _sums(self, read: Read) -> Array:
        """Queue one read; return its slabs."""
        tile = self.tile(read.exact)
        read = replace(read, tile=tile).spread(tile.slabs)
        if tile.chunks == 1:
            read = replace(read, sums=self._empty((read.blocks, self.k + 1)))
            self.kernels.read_rows(read)
        else:
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
        chunk_top: Array = None
        kept = read.kept
        if kept is not None:
            chunk_top = self._full(shape, 0.0)
            kept = replace(kept, chunk_top=chunk_top)
        self.kernels.read_rows(
            replace(read, mode="stats", log_sum=log_sums, best=best, best_column=column,
                    kept=kept)
        )  # fmt: skip
        log_sum = torch.logsumexp(log_sums * math.log(2), 1) / math.log(2)
        rows = sampled_row(torch.arange(read.count, device=self.device), read.stride)
        bad = ~log_sum.isfinite()
        if read.exact:
            read.bad_row.copy_(torch.minimum(read.bad_row, torch.where(bad, rows, self.rows).min()))
        else:
            torch.bitwise_or(read.odd, bad.any().to(torch.int32), out=read.odd)

        def put(into: Array, values: Array, at: Array = rows) -> None:
            into[at] = values if read.gate is None else values.where(read.gate > 0, into[at])

        if kept is not None:
            every = slice(None)
            put(read.log_sum, log_sum, every)
            put(kept.top, (chunk_top.amax(1) - log_sum).exp2().to(torch.float32), every)
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
            read = replace(read, f=self._empty(self.rows))
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
