"""Race detection: who touched which byte, and what orders two accesses.

Within a block two accesses are ordered by a block barrier between them, or, in one warp, by a
bar.warp.sync. Both are counted in epochs; a partial barrier counts as one for all, so races
beside it may be missed, but none is invented. Across the blocks of a launch nothing orders plain
accesses: fences with atomics, as in "the last block to finish", are not modelled.
"""

from __future__ import annotations

import numpy as np

from .scalars import Array

MOST_RACES = 20  # reported per launch

_NONE, _MANY = -1, -(2**30)
_WARP_EPOCHS = 20  # bits of a stamp; the block's epoch is above them


def _warp_of(owner: Array) -> Array:
    """The warp of an owner: a thread (>= 0), several lanes of warp w (-2 - w), or several warps."""
    return np.where(owner >= 0, owner >> 5, -2 - owner)


class _Touches:
    """For each granule, who made the accesses of one kind since the last synchronisation."""

    def __init__(self, granules: int) -> None:
        self.owner = np.full(granules, _NONE, np.int64)
        self.stamp = np.zeros(granules, np.int64)

    def unordered(self, at: Array, threads: Array, stamps: Array) -> Array:
        """Which of these granules somebody else touched with nothing in between."""
        owner, stamp = self.owner[at], self.stamp[at]
        foreign = (owner != _NONE) & (owner != threads)
        recent = stamp >> _WARP_EPOCHS == stamps >> _WARP_EPOCHS
        warp_synchronised = (_warp_of(owner) == threads >> 5) & (stamp < stamps)
        return foreign & recent & ~warp_synchronised

    def replace(self, at: Array, threads: Array, stamps: Array) -> None:
        """Note a write: what came before it is ordered, or already reported."""
        self.owner[at], self.stamp[at] = threads, stamps

    def merge(self, at: Array, threads: Array, stamps: Array) -> None:
        """Note reads (or atomics), of which several may be concurrent."""
        joins = self.unordered(at, threads, stamps)
        owner = self.owner[at]
        same_warp = _warp_of(owner) == threads >> 5
        code = np.where(joins, np.where(same_warp, -2 - (threads >> 5), _MANY), threads)
        self.owner[at], self.stamp[at] = code, stamps
        lost = self.owner[at] != code  # several lanes of this instruction on one granule
        if lost.any():
            at, mine = at[lost], code[lost]
            same_warp = _warp_of(self.owner[at]) == _warp_of(mine)
            self.owner[at[same_warp]] = -2 - _warp_of(mine[same_warp])
            self.owner[at[~same_warp]] = _MANY


class SharedShadow:
    """Finds unordered accesses to the shared memory of one block."""

    def __init__(self, size: int, granule: int, warps: int) -> None:
        self.granule = granule
        granules = -(-size // granule) + 1
        self.reads, self.writes, self.atomics = (_Touches(granules) for _ in range(3))
        self.epoch = 1
        self.warp_epochs = np.zeros(warps, np.int64)

    def barrier(self) -> None:
        self.epoch += 1

    def warp_barrier(self, warps: Array) -> None:
        self.warp_epochs[warps] += 1

    def touch(self, kind: str, lanes: Array, offsets: Array, size: int) -> tuple[int, int] | None:
        """Note an access ("load", "store" or "atomic"); a race gives its thread and offset."""
        each = max(1, size // self.granule)
        at = offsets // self.granule
        threads = lanes
        if each > 1:
            at = (at[:, None] + np.arange(each)).ravel()
            threads = np.repeat(lanes, each)
        stamps = (self.epoch << _WARP_EPOCHS) + self.warp_epochs[threads >> 5]
        bad = self.writes.unordered(at, threads, stamps)
        if kind != "load":
            bad |= self.reads.unordered(at, threads, stamps)
        if kind != "atomic":
            bad |= self.atomics.unordered(at, threads, stamps)
        if kind == "store":
            self.writes.replace(at, threads, stamps)
        else:
            (self.reads if kind == "load" else self.atomics).merge(at, threads, stamps)
        if not bad.any():
            return None
        first = int(np.argmax(bad))
        return int(threads[first]), int(at[first]) * self.granule


_FLAGS = {"load": 1, "store": 2, "atomic": 4, "strong load": 8}
_LOAD, _STORE, _ATOMIC = 1, 2, 4


def _conflict_table() -> Array:
    table = np.zeros((16, 16), bool)
    for one in range(16):
        for other in range(16):
            table[one, other] = (
                (one & _STORE and other)
                or (other & _STORE and one)
                or (one & _ATOMIC and other & _LOAD)
                or (other & _ATOMIC and one & _LOAD)
            ) != 0
    return table


_CONFLICTS = _conflict_table()


class BlockShadow:
    """Finds plain accesses of one global buffer that race between blocks of a launch."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.mine, self.others = (np.zeros(-(-size // 8) * 8, np.uint8) for _ in range(2))

    def touch(self, kind: str, offsets: Array, size: int) -> None:
        """Note an access of the block that runs."""
        unit = min(size, 8)
        dtype = np.dtype(f"u{unit}")
        flag = dtype.type(int.from_bytes(bytes([_FLAGS[kind]]) * unit, "little"))
        words = self.mine.view(dtype)
        for part in range(size // unit):
            words[offsets // unit + part] |= flag

    def end_block(self) -> tuple[int, int] | None:
        """Forget the block; a race with an earlier one gives its first offset and its bytes."""
        touched = np.flatnonzero(self.mine)
        race = touched[_CONFLICTS[self.mine[touched], self.others[touched]]]
        self.others[touched] |= self.mine[touched]
        self.mine[touched] = 0
        return (int(race[0]), race.size) if race.size else None
