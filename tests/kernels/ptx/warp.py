"""Instructions in which the lanes of a warp take part together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .decoder import Decoder, Read, Step, handles, pair, reader, writer
from .scalars import TYPES, Array, PtxError

if TYPE_CHECKING:
    from .block import Block, Group

_U32 = TYPES["u32"]


def _together(d: Decoder, members: Read, act: Callable[[Block, Group, Array], None]) -> Step:
    """A step that waits until all lanes of the membermask are here, then acts."""
    text = d.text

    def step(block: Block, group: Group) -> bool | None:
        mask = np.broadcast_to(members(block), block.threads)
        complete = block.converge(group, mask, text)
        if complete is group:
            act(block, group, mask)
            return None
        if complete.lanes.size:
            act(block, complete, mask)
        return True

    return step


@handles("shfl")
def _shuffle(d: Decoder) -> Step:
    d.need("sync")
    mode = d.need("up", "down", "bfly", "idx")
    scalar = d.type()
    d.expect(5)
    value, distance, clamp = (
        reader(o, t) for o, t in zip(d.operands[1:4], (scalar, _U32, _U32), strict=True)
    )
    result, valid = pair(d.operands[0])
    write, write_valid = writer(result, scalar), writer(valid, TYPES["pred"])
    text = d.text

    def act(block: Block, group: Group, members: Array) -> None:
        lane = block.lane
        b = np.broadcast_to(distance(block), lane.shape).astype(np.int64) & 31
        c = np.broadcast_to(clamp(block), lane.shape).astype(np.int64)
        segment = (c >> 8) & 31
        last = (lane & segment) | (c & 31 & ~segment)
        source = {
            "up": lane - b,
            "down": lane + b,
            "bfly": lane ^ b,
            "idx": (lane & segment) | (b & ~segment),
        }[mode]
        inside = source >= last if mode == "up" else source <= last
        source = np.where(inside, source, lane)
        missing = ~block.present(group, source) & group.mask
        if missing.any():
            thread = int(np.argmax(missing))
            raise PtxError(f"thread {thread} reads from inactive lane {source[thread]} in: {text}")
        everyone = np.broadcast_to(value(block), lane.shape)
        write(block, group, everyone[block.thread_of(source)])
        write_valid(block, group, inside)

    return _together(d, reader(d.operands[4], _U32), act)


def _ballot(block: Block, group: Group, bits: Array) -> Array:
    """For each thread, the 32 bits of its warp; lanes outside of the group count as zero."""
    padded = np.zeros(block.warps * 32, bool)
    padded[: block.threads] = group.mask & bits
    words = np.packbits(padded, bitorder="little").view(np.uint32)
    return words[block.warp]


@handles("vote")
def _vote(d: Decoder) -> Step:
    d.need("sync")
    mode = d.need("ballot", "any", "all", "uni")
    scalar = d.type()
    d.expect(3)
    predicate = reader(d.operands[1], TYPES["pred"])
    write = writer(d.operands[0], scalar)

    def act(block: Block, group: Group, members: Array) -> None:
        votes = _ballot(block, group, predicate(block)) & members
        results = {
            "ballot": votes,
            "any": votes != 0,
            "all": votes == members,
            "uni": (votes == 0) | (votes == members),
        }
        write(block, group, results[mode])

    return _together(d, reader(d.operands[2], _U32), act)


@handles("activemask")
def _activemask(d: Decoder) -> Step:
    scalar = d.type()
    write = writer(d.operands[0], scalar)
    return lambda block, group: write(block, group, _ballot(block, group, np.ones(1, bool)))


def _member_table(block: Block, members: Array) -> Array:
    """[thread, lane]: whether that lane is in the thread's membermask."""
    return (members[:, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1) == 1


def _by_warp(block: Block, values: Array) -> Array:
    """[thread, lane]: the value of each lane of the thread's warp."""
    padded = np.zeros(block.warps * 32, values.dtype)
    padded[: block.threads] = values
    return padded.reshape(-1, 32)[block.warp]


@handles("match")
def _match(d: Decoder) -> Step:
    mode = d.need("any", "all")
    d.need("sync")
    scalar = d.type()
    d.expect(3)
    value = reader(d.operands[1], scalar)
    result, agreed = pair(d.operands[0])
    write, write_agreed = writer(result, TYPES["b32"]), writer(agreed, TYPES["pred"])

    def act(block: Block, group: Group, members: Array) -> None:
        own = np.broadcast_to(value(block), block.threads)
        same = (_by_warp(block, own) == own[:, None]) & _member_table(block, members)
        found = np.packbits(same, axis=1, bitorder="little").view(np.uint32)[:, 0]
        everyone = found == members
        write(block, group, found if mode == "any" else np.where(everyone, members, 0))
        write_agreed(block, group, everyone)

    return _together(d, reader(d.operands[2], _U32), act)


_REDUCTIONS: dict[str, np.ufunc] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


@handles("redux")
def _reduce(d: Decoder) -> Step:
    d.need("sync")
    name = d.need(*_REDUCTIONS)
    function = _REDUCTIONS[name]
    scalar = d.type()
    d.expect(3)
    if scalar.is_float and not d.flag("NaN"):
        function = {"min": np.fmin, "max": np.fmax}[name]
    value = reader(d.operands[1], scalar)
    write = writer(d.operands[0], scalar)

    def act(block: Block, group: Group, members: Array) -> None:
        own = np.broadcast_to(value(block), block.threads)
        table = _by_warp(block, own)
        inside = _member_table(block, members)
        # a lane outside of the mask counts as the thread's own value, which adds only once
        if name in ("add", "xor"):
            reduced = function.reduce(
                np.where(inside, table, scalar.dtype.type(0)), 1, scalar.dtype
            )
        else:
            reduced = function.reduce(np.where(inside, table, own[:, None]), 1)
        write(block, group, reduced)

    return _together(d, reader(d.operands[2], _U32), act)


@handles("elect")
def _elect(d: Decoder) -> Step:
    d.need("sync")
    d.expect(2)
    leader, chosen = pair(d.operands[0])
    write, write_chosen = writer(leader, _U32), writer(chosen, TYPES["pred"])

    def act(block: Block, group: Group, members: Array) -> None:
        first = np.bitwise_count((members & (~members + np.uint32(1))) - np.uint32(1))
        write(block, group, first.astype(np.uint32))
        write_chosen(block, group, block.lane == first)

    return _together(d, reader(d.operands[1], _U32), act)


def warp_barrier(d: Decoder) -> Step:
    """bar.warp.sync: orders the memory accesses of the warp's lanes."""
    d.expect(1)

    def act(block: Block, group: Group, members: Array) -> None:
        block.memory.shared.shadow.warp_barrier(np.unique(group.lanes >> 5))

    return _together(d, reader(d.operands[0], _U32), act)
