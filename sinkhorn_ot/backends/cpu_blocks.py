"""Which blocks of rows a process runs, so that they are those that one process would run.

A pass is cut into blocks. Within one, sums are float32 in the order of the rows, and whether a
sketch keeps a row depends on those before: cut between two processes it would not come out the
same. So a block is run by the process that holds its first row, to which the others send their
part of it: once, not at each pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import sinkhorn_ot._cpu as _cpu
from sinkhorn_ot.sharding import Shard

Bytes = np.ndarray[Any, Any]


class Blocks:
    """The blocks of a pass over every `stride`-th row of all processes."""

    def __init__(self, shard: Shard, stride: int) -> None:
        self.shard, self.stride = shard, stride
        self.count = shard.total // stride
        self.rows = _cpu.rows_per_block(self.count)
        self.number = -(-self.count // self.rows)
        #: the first row of the pass in each process
        self.starts = [self._first_from(start) for start in shard.starts]
        self.begin, self.end = self.starts[shard.rank : shard.rank + 2]
        self.first, self.last = -(-self.begin // self.rows), -(-self.end // self.rows)

    def held(self, first: int, last: int) -> slice | list[int]:
        """Where rows of the pass that are held here lie in the input."""
        if self.stride == 1:
            return slice(first - self.shard.first, last - self.shard.first)
        return [_cpu.sampled_row(j, self.stride) - self.shard.first for j in range(first, last)]

    def _first_from(self, row: int) -> int:
        j = row // self.stride
        if j < self.count and _cpu.sampled_row(j, self.stride) < row:
            j += 1
        return min(j, self.count)

    @property
    def head(self) -> tuple[int, int]:
        """The rows held here that another process runs."""
        return self.begin, min(self.first * self.rows, self.end)

    @property
    def tail(self) -> tuple[int, int]:
        """The rows that are run here in a block of which others hold a part."""
        stop = min(self.last * self.rows, self.count)
        cut = self.last > self.first and stop > self.end
        return ((self.last - 1) * self.rows, stop) if cut else (self.end, self.end)

    @property
    def whole(self) -> tuple[int, int]:
        """The rows of the blocks that are wholly held here."""
        return self.head[1], self.tail[0]

    def fetch(self, held: Callable[[int, int], Bytes]) -> Bytes:
        """Let the processes exchange their parts of common blocks; return the `tail` in one piece.

        ``held(first, last)`` copies rows that are held here, as bytes.
        """
        first, last = self.tail
        mine = held(first, self.end)
        if self.shard.peers is None:
            return mine
        table = np.empty((last - first, mine.shape[1]), np.uint8)
        table[: len(mine)] = mine
        begin, end = self.head
        sent = [(self._owner(), held(begin, end))] if begin < end else []
        received = []
        for rank in range(self.shard.rank + 1, len(self.starts) - 1):
            start, stop = self.starts[rank], min(self.starts[rank + 1], last)
            if start < stop:
                received.append((rank, table[start - first : stop - first]))
        self.shard.peers.exchange(sent, received)
        return table

    def _owner(self) -> int:
        """The process that runs the block of the head."""
        start = (self.first - 1) * self.rows
        return max(rank for rank in range(self.shard.rank) if self.starts[rank] <= start)
