"""Logic, shifts, bit fields and byte permutations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .decoder import Decoder, Step, elementwise, handles
from .program import Immediate
from .scalars import TYPES, Array, PtxError


def shift_left(x: Array, count: Array) -> Array:
    """Shift left; zero for counts as large as the word."""
    bits = 8 * x.dtype.itemsize
    return np.where(count < bits, x << np.minimum(count, bits - 1).astype(x.dtype), x.dtype.type(0))


def shift_right(x: Array, count: Array) -> Array:
    """Shift right, filled with the sign of signed x; large counts leave only that."""
    bits = 8 * x.dtype.itemsize
    clamped = np.minimum(count, bits - 1).astype(x.dtype)
    if x.dtype.kind == "i":
        return x >> clamped
    return np.where(count < bits, x >> clamped, x.dtype.type(0))


def _low_mask(length: Array, dtype: np.dtype) -> Array:
    """The lowest `length` bits."""
    return ~shift_left(np.full(length.shape, ~np.uint64(0)).astype(dtype), length)


@handles("and", "or", "xor", "not")
def _logic(d: Decoder) -> Step:
    scalar = d.type()
    functions: dict[str, Callable[..., Array]] = {
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
        "not": np.invert,
    }
    return elementwise(d, functions[d.opcode], [scalar] * (2 - (d.opcode == "not")), scalar)


@handles("cnot")
def _cnot(d: Decoder) -> Step:
    scalar = d.type()
    return elementwise(d, lambda a: a == 0, [scalar], scalar)


@handles("shl", "shr")
def _shift(d: Decoder) -> Step:
    scalar = d.type()
    function = shift_left if d.opcode == "shl" else shift_right
    return elementwise(d, function, [scalar, TYPES["u32"]], scalar)


@handles("shf")
def _funnel_shift(d: Decoder) -> Step:
    direction, overflow = d.need("l", "r"), d.need("wrap", "clamp")
    scalar = d.type()

    def shift(low: Array, high: Array, count: Array) -> Array:
        both = (high.astype(np.uint64) << np.uint64(32)) | low
        count = count & 31 if overflow == "wrap" else np.minimum(count, 32)
        if direction == "r":
            return (both >> count.astype(np.uint64)).astype(np.uint32)
        return (both >> (32 - count).astype(np.uint64)).astype(np.uint32)

    return elementwise(d, shift, [TYPES["u32"]] * 3, scalar)


@handles("lop3")
def _lop3(d: Decoder) -> Step:
    scalar = d.type()
    d.expect(5)
    table = d.operands.pop()
    if not isinstance(table, Immediate):
        raise PtxError("the truth table of lop3 must be a literal")
    truth = int(table.text, 0)

    def look_up(a: Array, b: Array, c: Array) -> Array:
        result = np.zeros(np.broadcast_shapes(a.shape, b.shape, c.shape), a.dtype)
        for row in range(8):
            if truth >> row & 1:
                result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        return result

    return elementwise(d, look_up, [scalar] * 3, scalar)


@handles("bfe")
def _bit_field_extract(d: Decoder) -> Step:
    scalar = d.type()

    def extract(x: Array, position: Array, length: Array) -> Array:
        position, length = position & 0xFF, length & 0xFF
        field = shift_right(x, position)
        if scalar.is_signed:  # the field's own sign, or that of x where it runs over the end
            shift = np.maximum(scalar.bits - length.astype(np.int64), 0)
            field = shift_right(shift_left(field, shift), shift)
        else:
            field = field & _low_mask(length, x.dtype)
        return np.where(length == 0, x.dtype.type(0), field)

    return elementwise(d, extract, [scalar, TYPES["u32"], TYPES["u32"]], scalar)


@handles("bfi")
def _bit_field_insert(d: Decoder) -> Step:
    scalar = d.type()

    def insert(field: Array, x: Array, position: Array, length: Array) -> Array:
        mask = shift_left(_low_mask(length & 0xFF, x.dtype), position & 0xFF)
        return (x & ~mask) | (shift_left(field, position & 0xFF) & mask)

    return elementwise(d, insert, [scalar, scalar, TYPES["u32"], TYPES["u32"]], scalar)


def _highest_bit(x: Array) -> Array:
    """Position of the highest set bit; -1 for zero."""
    for shift in (1, 2, 4, 8, 16, 32):
        if shift < 8 * x.dtype.itemsize:
            x = x | (x >> x.dtype.type(shift))
    return np.bitwise_count(x).astype(np.int64) - 1


def _reverse(x: Array) -> Array:
    as_bytes = np.ascontiguousarray(x).view(np.uint8).reshape(*x.shape, -1)
    bits = np.unpackbits(as_bytes, axis=-1, bitorder="little")
    return np.packbits(bits, axis=-1, bitorder="big")[..., ::-1].copy().view(x.dtype)[..., 0]


@handles("popc", "clz", "bfind", "brev")
def _bit_count(d: Decoder) -> Step:
    scalar = d.type()
    bits = scalar.bits
    from_top = d.flag("shiftamt")

    def find(x: Array) -> Array:
        if scalar.is_signed:
            x = np.where(x < 0, ~x, x).view(f"u{scalar.width}")
        top = _highest_bit(x)
        return np.where(top >= 0, bits - 1 - top if from_top else top, -1)

    functions: dict[str, Callable[[Array], Array]] = {
        "popc": np.bitwise_count,
        "clz": lambda x: bits - 1 - _highest_bit(x),
        "bfind": find,
        "brev": _reverse,
    }
    result = scalar if d.opcode == "brev" else TYPES["u32"]
    return elementwise(d, functions[d.opcode], [scalar], result)


@handles("prmt")
def _permute(d: Decoder) -> Step:
    scalar = d.type()

    def permute(a: Array, b: Array, selector: Array) -> Array:
        a, b, selector = np.broadcast_arrays(a, b, selector)
        source = np.stack([a, b], -1).view(np.uint8)
        nibbles = (selector[..., None] >> np.arange(0, 16, 4, dtype=np.uint32)) & np.uint32(15)
        chosen = np.take_along_axis(source, (nibbles & 7).astype(np.intp), -1)
        signs = np.where(chosen & 0x80, np.uint8(0xFF), np.uint8(0))
        return np.where(nibbles & 8, signs, chosen).view(np.uint32)[..., 0]

    return elementwise(d, permute, [scalar] * 3, scalar)
