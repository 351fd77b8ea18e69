"""Memory instructions: ld, st, atom, red, cp.async, ldmatrix, stmatrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .decoder import (
    Decoder,
    Step,
    address_reader,
    bits_reader,
    bits_writer,
    elements,
    handles,
    reader,
    writer,
)
from .scalars import TYPES, Array, PtxError

if TYPE_CHECKING:
    from .block import Block, Group

_SPACES = ("global", "shared", "local", "const", "param")
_STRONG = ("relaxed", "acquire", "release", "acq_rel", "volatile", "mmio")
_SCOPES = ("cta", "cluster", "gpu", "sys")
_CACHING = (
    *("ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "weak", "noftz"),
    *(f"L1::{p}" for p in ("evict_normal", "evict_unchanged", "evict_first", "evict_last")),
    "L1::no_allocate",
    *(f"L2::{p}" for p in ("evict_normal", "evict_first", "evict_last")),
    *(f"L2::{size}B" for size in (64, 128, 256)),
)
_VECTORS = {"v2": 2, "v4": 4, "v8": 8}


def _space(d: Decoder) -> str:
    return d.choice(*_SPACES) or "generic"


def _take_caching(d: Decoder) -> None:
    """Take what concerns only caches, with the policy operand of a hint."""
    d.ignore(*_CACHING)
    if d.flag("L2::cache_hint"):
        d.operands.pop()


def _is_strong(d: Decoder) -> bool:
    strong = d.choice(*_STRONG) is not None
    d.ignore(*_SCOPES)
    return strong


def _check_elements(d: Decoder, operand_index: int) -> int:
    count = _VECTORS.get(d.choice(*_VECTORS) or "", 1)
    if len(elements(d.operands[operand_index])) != count:
        raise PtxError("the vector has another length than the instruction says")
    return count


@handles("ld", "ldu")
def _load(d: Decoder) -> Step:
    scalar = d.type()
    _take_caching(d)
    kind = "strong load" if _is_strong(d) else "load"
    space = _space(d)
    d.expect(2)
    count = _check_elements(d, 0)
    writes = [bits_writer(o, scalar) for o in elements(d.operands[0])]
    address, text, width = address_reader(d.operands[1]), d.text, scalar.width

    def step(block: Block, group: Group) -> None:
        words = block.memory.load(
            space, group.lanes, address(block, group), width, count, text, kind
        )
        for i, write in enumerate(writes):
            write(block, group, group.spread(words[:, i]))

    return step


@handles("st")
def _store(d: Decoder) -> Step:
    scalar = d.type()
    _take_caching(d)
    kind = "reduction" if _is_strong(d) else "store"  # it conflicts with what an atomic does
    space = _space(d)
    d.expect(2)
    _check_elements(d, 1)
    reads = [bits_reader(o, scalar) for o in elements(d.operands[1])]
    address, text = address_reader(d.operands[0]), d.text

    def step(block: Block, group: Group) -> None:
        columns = [group.pick(read(block)).astype(scalar.storage) for read in reads]
        values = np.stack(columns, 1)
        block.memory.store(space, group.lanes, address(block, group), values, text, kind)

    return step


def _increment(old: Array, limit: Array) -> Array:
    return np.where(old >= limit, 0, old + 1)


def _decrement(old: Array, limit: Array) -> Array:
    return np.where((old == 0) | (old > limit), limit, old - 1)


_UPDATES: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "exch": lambda old, new: new,
    "inc": _increment,
    "dec": _decrement,
}


@handles("atom", "red")
def _atomic(d: Decoder) -> Step:
    scalar = d.type()
    _take_caching(d)
    d.ignore(*_STRONG, *_SCOPES)
    space = d.choice("global", "shared") or "generic"
    name = d.need(*_UPDATES, "cas")
    returns = d.opcode == "atom"
    d.expect((4 if name == "cas" else 3) - (not returns))
    if not returns:
        d.operands.insert(0, d.operands[0])  # as atom, but its result is not written
    count = _check_elements(d, 2)
    address, text, width = address_reader(d.operands[1]), d.text, scalar.width
    values = [reader(o, scalar) for o in elements(d.operands[2])]
    writes = [bits_writer(o, scalar) for o in elements(d.operands[0])] if returns else []
    new_value = reader(d.operands[3], scalar) if name == "cas" else None
    kind = "atomic" if returns else "reduction"

    def update(block: Block, group: Group, value: Array, position: int) -> Array:
        swapped = group.pick(new_value(block)) if new_value else value

        def function(old_bits: Array, who: Array) -> Array:
            old = scalar.from_bits(old_bits)
            if name == "cas":
                return scalar.to_bits(np.where(old == value[who], swapped[who], old))
            return scalar.to_bits(_UPDATES[name](old, value[who]))

        where = address(block, group) + position * width
        return block.memory.update(space, group.lanes, where, function, width, text, kind)

    def step(block: Block, group: Group) -> None:
        if count > 1 and (address(block, group) % (count * width)).any():
            raise PtxError(f"misaligned vector in: {text}")
        old = [update(block, group, group.pick(v(block)), i) for i, v in enumerate(values)]
        for write, bits in zip(writes, old, strict=False):
            write(block, group, group.spread(bits))

    return step


@handles("cp")
def _async_copy(d: Decoder) -> Step:
    d.need("async")
    if d.choice("commit_group", "wait_group", "wait_all"):
        return lambda block, group: None  # copies are made at once
    _take_caching(d)
    if d.rest != ["shared", "global"]:
        raise PtxError("only cp.async.{ca,cg}.shared.global is supported")
    d.rest.clear()
    d.expect(3, 4)
    target, source = (address_reader(o) for o in d.operands[:2])
    bytes_copied = int(getattr(d.operands[2], "text", "0"), 0)
    if bytes_copied not in (4, 8, 16):
        raise PtxError("cp.async copies 4, 8 or 16 bytes")
    text = d.text
    filled = reader(d.operands[3], TYPES["u32"]) if len(d.operands) == 4 else None
    width = min(bytes_copied, 8)
    count = bytes_copied // width

    def step(block: Block, group: Group) -> None:
        to, at = target(block, group), source(block, group)
        sizes = group.pick(filled(block)) if filled else np.full(group.lanes.size, bytes_copied)
        values = np.zeros((group.lanes.size, count), f"u{width}")
        whole = sizes >= bytes_copied
        values[whole] = block.memory.load(
            "global", group.lanes[whole], at[whole], width, count, text
        )
        as_bytes = values.view(np.uint8)
        for i in np.flatnonzero(~whole & (sizes > 0)):  # what is not read is filled with zeros
            size, lane = int(sizes[i]), group.lanes[i : i + 1]
            for j in range(size):
                part = block.memory.load("global", lane, at[i : i + 1] + j, 1, 1, text)
                as_bytes[i, j] = part[0, 0]
        block.memory.store("shared", group.lanes, to, values, text)

    return step


def _matrix_shape(d: Decoder) -> tuple[int, bool]:
    """Number of 8x8 matrices, and whether they are transposed."""
    for name in ("sync", "aligned", "m8n8"):
        d.need(name)
    count = int(d.need("x1", "x2", "x4")[1:])
    transposed = d.flag("trans")
    d.ignore("shared")
    if d.type().name != "b16":
        raise PtxError("only b16 matrices are supported")
    return count, transposed


def _matrix_rows(block: Block, group: Group, addresses: Array, count: int) -> tuple[Array, Array]:
    """The lanes that name rows, warp by warp, and their addresses."""
    if group.lanes.size % 32:
        raise PtxError("a matrix instruction with lanes missing from a warp")
    per_warp = addresses.reshape(-1, 32)[:, : 8 * count]
    lanes = group.lanes.reshape(-1, 32)[:, : 8 * count]
    return lanes.ravel(), per_warp.ravel()


@handles("ldmatrix")
def _load_matrix(d: Decoder) -> Step:
    count, transposed = _matrix_shape(d)
    writes = [bits_writer(o, TYPES["b32"]) for o in elements(d.operands[0])]
    address, text = address_reader(d.operands[1]), d.text

    def step(block: Block, group: Group) -> None:
        lanes, rows = _matrix_rows(block, group, address(block, group), count)
        words = block.memory.load("shared", lanes, rows, 8, 2, text)
        matrices = words.view(np.uint16).reshape(-1, count, 8, 8)
        if transposed:
            matrices = np.ascontiguousarray(matrices.swapaxes(2, 3))
        pairs = matrices.view(np.uint32).reshape(-1, count, 32)  # one pair for each lane
        for i, write in enumerate(writes):
            write(block, group, group.spread(pairs[:, i].ravel()))

    return step


@handles("stmatrix")
def _store_matrix(d: Decoder) -> Step:
    count, transposed = _matrix_shape(d)
    reads = [reader(o, TYPES["b32"]) for o in elements(d.operands[1])]
    address, text = address_reader(d.operands[0]), d.text

    def step(block: Block, group: Group) -> None:
        lanes, rows = _matrix_rows(block, group, address(block, group), count)
        pairs = np.stack([group.pick(read(block)).reshape(-1, 32) for read in reads], 1)
        matrices = np.ascontiguousarray(pairs).view(np.uint16).reshape(-1, count, 8, 8)
        if transposed:
            matrices = matrices.swapaxes(2, 3)
        values = np.ascontiguousarray(matrices).view(np.uint64).reshape(-1, 2)
        block.memory.store("shared", lanes, rows, values, text)

    return step


@handles("createpolicy")
def _create_policy(d: Decoder) -> Step:
    d.rest.clear()
    write = writer(d.operands[0], TYPES["b64"])
    return lambda block, group: write(block, group, np.zeros(1, np.uint64))
