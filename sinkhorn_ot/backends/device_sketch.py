"""A sketch in the memory of a device: two sparse matrices, and products with them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from sinkhorn_ot.arrays import Array
from sinkhorn_ot.backends.launches import Read, Segments, SketchRows, Tile, sampled_rows

if TYPE_CHECKING:
    from sinkhorn_ot.backends.device import DevicePasses

#: Words of 4 bytes that an entry of a sketch takes: value, column and row (3), value and row in the
#: order of columns (2), and what sorting takes (7).
WORDS_PER_ENTRY = 12
#: Fewer long rows than this have a block of threads each: a warp each would not fill a device.
FEW_ROWS = 1 << 14
#: What choosing rows takes for each, and again for each chunk of long ones.
BYTES_PER_PIECE = 60
#: What stays of it: where the entries of a row begin and end, and its weight.
BYTES_HELD = 24


class DeviceSketch:
    """Entries that matter, by row and by column; see `Sketch`.

    They are probabilities at the g at which they were read, so the sums of a sketch are products
    of two sparse matrices with vectors: no atomics, and the same bits every time.
    """

    def __init__(self, passes: DevicePasses, words: int) -> None:
        self.passes = passes
        self.room = max(words // WORDS_PER_ENTRY, 1)
        self._held: tuple[int, int] | None = 0, 0  # kept rows and entries; None: ask the device
        self._kept = passes._full(2, 0, passes.torch.int64)
        self._clear()
        self.expect(passes._full(passes.k, 0.0), math.inf)

    def _clear(self) -> None:
        none = self.passes._full(0, 0.0)
        self.scalings = self.curvature = self.weight = none
        self.by_row = self.by_column = Segments(none, none, none, none, long=False)

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
            rows, entries = self._kept.tolist()
            self._held = rows, entries
        return self._held

    def rows_of(self, count: int, padded: int, finest: Tile) -> SketchRows:
        """Return room for what a read of that many rows finds out."""
        torch, passes = self.passes.torch, self.passes
        pad = torch.nn.functional.pad
        extra = padded - passes.k
        return SketchRows(
            finest.width,
            finest.chunks,
            pad(self.hold, (0, extra)),
            pad(self.cut, (0, extra), value=math.inf),
            passes._full((count, finest.chunks), 0, torch.int32),
            passes._empty(count, torch.float32),
        )

    def fill(self, read: Read, odd: Array | None) -> None:
        """Choose rows, evenly and as many as there is room for, and read their entries."""
        passes, torch = self.passes, self.passes.torch
        self._clear()  # what it held makes room
        seen = read.sketch
        assert seen is not None
        parts = self._chosen(seen.count)
        kept = parts.sum(1) > 0
        self._kept, self._held = torch.stack((kept.sum(), parts.sum())), None
        end = parts.flatten().cumsum(0).view(parts.shape)
        entry = passes._full(self.room, 0.0, torch.float32)
        column = passes._full(self.room, passes.k, torch.int32)
        row = passes._full(self.room, 0, torch.int32)
        begin = end - parts
        del parts
        filled = replace(seen, begin=begin, end=end, entry=entry, column=column, row=row)
        read = replace(read, mode="fill", sketch=filled, f=None, labels=None)
        for exact in (False, True) if odd is not None else (True,):
            gate = odd if exact else None
            once = replace(read, exact=exact, gate=gate, tile=passes.tile(exact))
            passes.kernels.read_rows(once.spread(once.tile.blocks))
        passes.gated += self._kept[0] / (read.count * read.stride)
        passes.seen = None

        order = torch.sort(column, stable=True)
        edges = torch.arange(passes.k, dtype=torch.int32, device=passes.device)
        first, last = begin[:, 0].contiguous(), end[:, -1].contiguous()
        few = seen.pieces > 1 and read.count < FEW_ROWS
        self.by_row = Segments(first, last, entry, column, long=few)
        self.by_column = Segments(
            torch.searchsorted(order.values, edges),
            torch.searchsorted(order.values, edges, right=True),
            entry[order.indices],
            row[order.indices],
            long=True,
        )
        self.weight = kept.to(torch.float64)
        if passes.a is not None and read.stride == 1:
            self.weight *= passes.n * passes.a
        elif passes.a is not None:
            rows = sampled_rows(torch, read.count, read.stride, passes.device)
            self.weight *= passes.n * passes.a[rows]

    def _chosen(self, count: Array) -> Array:
        """Return the entries of each piece, zero where its row is passed over."""
        passes, torch = self.passes, self.passes.torch
        entries = count.sum(1)
        total = entries.sum()
        part = (0.95 * self.room / total).clamp(max=1.0)
        turn = torch.arange(len(count) + 1, dtype=torch.float64, device=passes.device)
        turn = turn.mul_(part).floor_()
        chosen = (turn[1:] > turn[:-1]) | (total <= self.room)
        del turn
        entries *= chosen
        # uneven rows may take more than expected
        entries *= entries.cumsum(0) <= self.room
        return torch.where(entries[:, None] > 0, count, 0).to(torch.int64)

    def mass(self, delta: Array) -> tuple[Array, Array]:
        """Return masses and second moments; see `Sketch`. They are always float64 sums."""
        torch, weight = self.passes.torch, self.weight
        self.scalings = delta.exp()
        self.curvature = weight[:0]  # makes room
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
