"""Kept entries in the memory of a device: two sparse matrices, and products with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sinkhorn_ot.arrays import Array, namespace
from sinkhorn_ot.backends.gpu.kernels import KeptRows, Kernels, Read, Segments, Tile
from sinkhorn_ot.passes import Counts, Problem, sampled_row

#: Words of 4 bytes that an entry takes: value, column and row (3), value and row in the order of
#: columns (2), and what sorting takes (7).
WORDS_PER_ENTRY = 12
#: An operation reads 8 bytes an entry in each of two directions.
BYTES_READ = 16
#: Fewer long rows than this have a block of threads each: a warp each would not fill a device.
FEW_ROWS = 1 << 14
#: What choosing rows takes for each, and again for each chunk of long ones.
BYTES_PER_PIECE = 60
#: What stays of it: where the entries of a row begin and end, and its weight.
BYTES_HELD = 24


class DeviceKept:
    """Large entries, by row and by column; see `Kept`.

    They are probabilities at the g at which they were read, so all sums are products of two sparse
    matrices with vectors: no atomics, and the same bits every time.
    """

    def __init__(self, problem: Problem, kernels: Kernels, words: int) -> None:
        self.problem, self.kernels = problem, kernels
        self.torch, self.device = namespace(problem.logits), problem.logits.device
        self.room = max(words // WORDS_PER_ENTRY, 1)
        self._counted: tuple[int, int] | None = 0, 0  # rows and entries; None: ask the device
        self._count = self._full(2, 0, self.torch.int64)
        self._clear()

    def _clear(self) -> None:
        none = self._full(0, 0.0)
        self.scalings = self.curvature = self.weight = none
        self.by_row = self.by_column = Segments(none, none, none, none, long=False)

    @property
    def counts(self) -> Counts:
        """Return how much is kept; waits for the device, once for each read."""
        if self._counted is None:
            rows, entries = self._count.tolist()
            self._counted = rows, entries
        rows, entries = self._counted
        return Counts(rows, entries * WORDS_PER_ENTRY, entries * BYTES_READ, 0)

    def rows_of(self, count: int, finest: Tile) -> KeptRows:
        """Return room for what a read of that many rows finds out."""
        return KeptRows(
            finest.width,
            finest.chunks,
            self._full((count, finest.chunks), 0, self.torch.int32),
            self._full(count, 0.0, self.torch.float32),
        )

    def fill(self, read: Read, odd: Array | None, tiles: dict[bool, Tile]) -> Array:
        """Choose rows, evenly and as many as there is room for, and read their entries.

        Returns how many rows that takes, on the device.
        """
        torch = self.torch
        self._clear()  # what it held makes room
        seen = read.kept
        assert seen is not None
        parts = self._chosen(seen.count)
        kept = parts.sum(1) > 0
        self._count, self._counted = torch.stack((kept.sum(), parts.sum())), None
        end = parts.flatten().cumsum(0).view(parts.shape)
        entry = self._full(self.room, 0.0, torch.float32)
        column = self._full(self.room, read.k, torch.int32)
        row = self._full(self.room, 0, torch.int32)
        begin = end - parts
        del parts
        filled = replace(seen, begin=begin, end=end, entry=entry, column=column, row=row)
        read = replace(read, mode="fill", kept=filled, f=None, labels=None)
        for exact in (False, True) if odd is not None else (True,):
            gate = odd if exact else None
            once = replace(read, exact=exact, gate=gate, tile=tiles[exact])
            self.kernels.read_rows(once.spread(once.tile.blocks))
        self.by_row = Segments(
            begin[:, 0].contiguous(), end[:, -1].contiguous(), entry, column,
            long=seen.pieces > 1 and read.count < FEW_ROWS,
        )  # fmt: skip
        order = torch.sort(column, stable=True)
        edges = torch.arange(read.k, dtype=torch.int32, device=self.device)
        self.by_column = Segments(
            torch.searchsorted(order.values, edges),
            torch.searchsorted(order.values, edges, right=True),
            entry[order.indices],
            row[order.indices],
            long=True,
        )
        self.weight = kept.to(torch.float64)
        if read.a is not None:
            rows: Any = slice(None)  # a view: a copy would take as much again
            if read.stride > 1:
                rows = sampled_row(torch.arange(read.count, device=self.device), read.stride)
            self.weight *= read.a[rows]
            self.weight *= read.n
        return self._count[0]

    def _chosen(self, count: Array) -> Array:
        """Return the entries of each piece, zero where its row is passed over."""
        torch = self.torch
        entries = count.sum(1)
        total = entries.sum()
        part = (0.95 * self.room / total).clamp(max=1.0)
        turn = torch.arange(len(count) + 1, dtype=torch.float64, device=self.device)
        turn = turn.mul_(part).floor_()
        chosen = (turn[1:] > turn[:-1]) | (total <= self.room)
        del turn
        entries *= chosen
        # uneven rows may take more than expected
        entries *= entries.cumsum(0) <= self.room
        return torch.where(entries[:, None] > 0, count, 0).to(torch.int64)

    def mass(self, delta: Array) -> tuple[Array, Array, Array]:
        """Return masses, second moments and weight; see `Kept`. They are always float64 sums."""
        torch, weight = self.torch, self.weight
        self.scalings = delta.exp()
        self.curvature = weight[:0]  # makes room
        total = self._times(self.by_row, self.scalings)
        kept = (weight > 0) & (total > 0)
        c = torch.where(kept, weight / total, 0.0)
        q = torch.where(kept, c / total, 0.0)
        self.curvature = q
        first, second = torch.empty_like(delta), torch.empty_like(delta)
        self.kernels.add_segments(self.by_column, c, q, first, second)
        return first * self.scalings, second * self.scalings**2, weight.sum().reshape(1)

    def second_moment(self, v: Array) -> Array:
        """Return the product; see `Kept`."""
        along = self._times(self.by_row, self.scalings * v)
        return self._times(self.by_column, self.curvature * along) * self.scalings

    def _times(self, segments: Segments, vector: Array) -> Array:
        out = self.torch.empty(segments.begin.shape, dtype=self.torch.float64, device=self.device)
        self.kernels.add_segments(segments, vector, None, out, None)
        return out

    def _full(self, shape: int | tuple[int, ...], value: float, dtype: Any = None) -> Array:
        shape = (shape,) if isinstance(shape, int) else shape
        return self.torch.full(shape, value, dtype=dtype or self.torch.float64, device=self.device)
