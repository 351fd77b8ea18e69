"""The state spaces: checked loads and stores, traffic counts and race shadows.

A global address is (buffer number << 40) | offset, so no arithmetic leads from one buffer into
another, and every buffer is aligned to whatever one likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from .races import MOST_RACES, BlockShadow, SharedShadow
from .scalars import UNSIGNED, Array, PtxError

BUFFER_BITS = 40
OFFSET_MASK = (1 << BUFFER_BITS) - 1
# where the other spaces lie in generic addresses
WINDOWS = {
    name: (1 << 20 | i) << BUFFER_BITS for i, name in enumerate(("shared", "local", "param"))
}
_SPACE_OF_WINDOW = {start >> BUFFER_BITS: name for name, start in WINDOWS.items()}
SECTOR_BITS = 5  # sectors of 32 bytes


@dataclass
class Traffic:
    """What the threads of a launch asked of one global buffer.

    An atomic counts as a write, and as a read too where its old value is wanted.
    """

    bytes_read: int = 0
    bytes_written: int = 0
    sectors_read: int = 0  # distinct 32-byte sectors, summed over the warps' instructions
    sectors_written: int = 0

    @property
    def sectors(self) -> int:
        return self.sectors_read + self.sectors_written


@dataclass
class Region:
    """A piece of memory with bounds."""

    name: str
    data: Array = field(repr=False)

    def check(self, lanes: Array, offsets: Array, size: int, text: str) -> None:
        """Raise for accesses out of bounds or not aligned to their size."""
        outside = (offsets < 0) | (offsets + size > self.data.shape[-1])
        misaligned = (offsets & (size - 1)) != 0
        bad = outside | misaligned
        if bad.any():
            i = int(np.argmax(bad))
            problem = "out of bounds" if outside[i] else "misaligned"
            raise PtxError(
                f"{problem}: {size} bytes at offset {int(offsets[i])} of {self.name} "
                f"({self.data.shape[-1]} bytes), thread {int(lanes[i])}, in: {text}"
            )

    def index(self, lanes: Array, offsets: Array) -> Array:
        """Where the lanes' offsets are in the flat data."""
        return offsets

    def words(self, width: int) -> Array:
        flat = self.data.reshape(-1)
        return flat[: flat.size // width * width].view(UNSIGNED[8 * width])

    def gather(self, lanes: Array, offsets: Array, width: int, count: int) -> Array:
        at = self.index(lanes, offsets) // width
        return self.words(width)[at[:, None] + np.arange(count)]

    def scatter(self, lanes: Array, offsets: Array, values: Array) -> None:
        width, count = values.dtype.itemsize, values.shape[1]
        at = self.index(lanes, offsets) // width
        self.words(width)[at[:, None] + np.arange(count)] = values

    def note(self, kind: str, lanes: Array, offsets: Array, size: int, text: str) -> None:
        """Count an access, and look for races."""


@dataclass
class LocalMemory(Region):
    """Each thread's own bytes: data has a row for each."""

    def index(self, lanes: Array, offsets: Array) -> Array:
        return lanes * self.data.shape[1] + offsets


@dataclass
class SharedMemory(Region):
    """The shared memory of one block."""

    shadow: SharedShadow
    races: list[str]

    def note(self, kind: str, lanes: Array, offsets: Array, size: int, text: str) -> None:
        kind = {"strong load": "load", "reduction": "atomic"}.get(kind, kind)
        race = self.shadow.touch(kind, lanes, offsets, size)
        if race and len(self.races) < MOST_RACES:
            self.races.append(f"shared race of thread {race[0]} at byte {race[1]} in: {text}")


@dataclass
class GlobalBuffer(Region):
    """One registered array."""

    shadow: BlockShadow
    traffic: Traffic = field(default_factory=Traffic)

    def start_launch(self) -> None:
        self.traffic = Traffic()
        self.shadow = BlockShadow(self.data.size)

    def note(self, kind: str, lanes: Array, offsets: Array, size: int, text: str) -> None:
        self.shadow.touch("atomic" if kind == "reduction" else kind, offsets, size)
        sectors = np.sort((lanes >> 5 << BUFFER_BITS) | (offsets >> SECTOR_BITS))
        distinct = 1 + int(np.count_nonzero(sectors[1:] != sectors[:-1]))
        if kind in ("load", "strong load", "atomic"):
            self.traffic.bytes_read += size * lanes.size
            self.traffic.sectors_read += distinct
        if kind in ("store", "atomic", "reduction"):
            self.traffic.bytes_written += size * lanes.size
            self.traffic.sectors_written += distinct


class Memory:
    """All that one block can address."""

    def __init__(
        self,
        buffers: list[GlobalBuffer],
        shared: SharedMemory,
        local: LocalMemory,
        parameters: Region,
    ) -> None:
        self.buffers = buffers
        self.spaces: dict[str, Region] = {"shared": shared, "local": local, "param": parameters}
        self.shared = shared

    def _regions(
        self, space: str, addresses: Array, text: str
    ) -> Iterator[tuple[Region, Array | slice, Array]]:
        """The regions that some addresses lie in, with a selector of those in each."""
        if space in self.spaces:
            yield self.spaces[space], slice(None), addresses
            return
        numbers = addresses >> BUFFER_BITS
        for number in np.unique(numbers) if (numbers != numbers[0]).any() else numbers[:1]:
            window = _SPACE_OF_WINDOW.get(int(number))
            if window is not None and space == "generic":
                region = self.spaces[window]
            elif 1 <= number <= len(self.buffers):
                region = self.buffers[number - 1]
            else:
                address = int(addresses[numbers == number][0])
                raise PtxError(f"out of bounds: nothing lies at address {address:#x}, in: {text}")
            yield region, numbers == number, addresses & OFFSET_MASK

    def _accesses(
        self, kind: str, space: str, lanes: Array, addresses: Array, size: int, text: str
    ) -> Iterator[tuple[Region, Array | slice, Array, Array]]:
        """Regions, selectors, lanes and offsets of an access, checked and noted."""
        if lanes.size == 0:
            return
        for region, chosen, offsets in self._regions(space, addresses, text):
            these, offsets = lanes[chosen], offsets[chosen]
            region.check(these, offsets, size, text)
            region.note(kind, these, offsets, size, text)
            yield region, chosen, these, offsets

    def load(
        self,
        space: str,
        lanes: Array,
        addresses: Array,
        width: int,
        count: int,
        text: str,
        kind: str = "load",
    ) -> Array:
        """`count` words of `width` bytes for each lane."""
        result = np.zeros((lanes.size, count), UNSIGNED[8 * width])
        for region, chosen, these, offsets in self._accesses(
            kind, space, lanes, addresses, width * count, text
        ):
            result[chosen] = region.gather(these, offsets, width, count)
        return result

    def store(
        self,
        space: str,
        lanes: Array,
        addresses: Array,
        values: Array,
        text: str,
        kind: str = "store",
    ) -> None:
        """Store the words in the rows of `values`, one row for each lane."""
        width, count = values.dtype.itemsize, values.shape[1]
        for region, chosen, these, offsets in self._accesses(
            kind, space, lanes, addresses, width * count, text
        ):
            region.scatter(these, offsets, values[chosen])
            stored = region.gather(these, offsets, width, count)
            if (stored != values[chosen]).any() and len(self.shared.races) < MOST_RACES:
                self.shared.races.append(f"lanes store unlike values to one address in: {text}")

    def update(
        self,
        space: str,
        lanes: Array,
        addresses: Array,
        function: Callable[[Array, Array], Array],
        width: int,
        text: str,
        kind: str,
    ) -> Array:
        """Atomically, lane after lane: new = function(old, which lanes); gives the old words."""
        old = np.zeros(lanes.size, UNSIGNED[8 * width])
        numbers = np.arange(lanes.size)
        for region, chosen, these, offsets in self._accesses(
            kind, space, lanes, addresses, width, text
        ):
            mine = numbers[chosen]
            for turn in _turns(offsets):
                words = region.gather(these[turn], offsets[turn], width, 1)
                old[mine[turn]] = words[:, 0]
                new = function(words[:, 0], mine[turn])
                region.scatter(these[turn], offsets[turn], new[:, None])
        return old


def _turns(offsets: Array) -> Iterator[Array]:
    """Lanes in groups without a repeated offset; those with the same offset in their order."""
    order = np.argsort(offsets, kind="stable")
    sorted_offsets = offsets[order]
    starts = np.flatnonzero(np.r_[True, sorted_offsets[1:] != sorted_offsets[:-1]])
    counts = np.diff(np.r_[starts, offsets.size])
    for turn in range(int(counts.max())):
        yield order[starts[counts > turn] + turn]
