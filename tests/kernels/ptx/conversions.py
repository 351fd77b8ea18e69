"""Moves and conversions: mov, cvt, cvta, selp, slct."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import rounding
from .decoder import (
    Decoder,
    Step,
    bits_reader,
    bits_writer,
    elementwise,
    handles,
    reader,
)
from .memory import WINDOWS
from .program import Negated
from .scalars import TYPES, Array, PtxError, ScalarType, bits_type

if TYPE_CHECKING:
    from .block import Block, Group

_MODES = ("rn", "rz", "rm", "rp", "rna")
_INTEGRAL_MODES = {"rni": "rn", "rzi": "rz", "rmi": "rm", "rpi": "rp"}


def _untyped(scalar: ScalarType) -> ScalarType:
    return scalar if scalar.kind == "pred" else bits_type(scalar.width)


@handles("mov")
def _mov(d: Decoder) -> Step:
    scalar = _untyped(d.type())
    d.expect(2)
    if isinstance(d.operands[1], Negated):
        raise PtxError("mov of a negated predicate")
    source = d.instruction.modifiers[-1]
    read = bits_reader(d.operands[1], TYPES[source])  # a float literal needs its type
    write = bits_writer(d.operands[0], scalar)

    def step(block: Block, group: Group) -> None:
        bits = read(block)
        write(block, group, bits if scalar.kind == "pred" else bits.astype(scalar.storage))

    return step


@handles("selp")
def _selp(d: Decoder) -> Step:
    scalar = d.type()
    d.expect(4)
    first, second = (bits_reader(o, scalar) for o in d.operands[1:3])
    chosen = reader(d.operands[3], TYPES["pred"])
    write = bits_writer(d.operands[0], _untyped(scalar))

    def step(block: Block, group: Group) -> None:
        bits = np.where(chosen(block), first(block), second(block))
        write(block, group, bits.astype(scalar.storage))

    return step


@handles("slct")
def _slct(d: Decoder) -> Step:
    selector, scalar = d.type(), _untyped(d.type())
    flush = d.flag("ftz")

    def select(a: Array, b: Array, c: Array) -> Array:
        return np.where((selector.flush(c) if flush else c) >= 0, a, b)

    return elementwise(d, select, [scalar, scalar, selector], scalar)


@handles("cvta")
def _cvta(d: Decoder) -> Step:
    scalar = d.type()
    to_space = d.flag("to")
    space = d.need("global", "shared", "local", "const", "param")
    d.flag("entry")  # .param::entry
    shift = np.uint64(WINDOWS.get(space, 0))

    def convert(address: Array) -> Array:
        address = address.astype(np.uint64)
        return address - shift if to_space else address + shift

    return elementwise(d, convert, [scalar], scalar)


@handles("isspacep")
def _isspacep(d: Decoder) -> Step:
    space = d.need("global", "shared", "local", "const", "param")
    owner = {low >> 40: name for name, low in WINDOWS.items()}

    def test(address: Array) -> Array:
        windows = np.array([owner.get(int(a) >> 40, "global") for a in address])
        return windows == space

    return elementwise(d, test, [TYPES["u64"]], TYPES["pred"])


def _float_to_integer(x: Array, mode: str, target: ScalarType, source: ScalarType) -> Array:
    """Rounded and clamped to the range, as PTX does; a NaN gives 0, or 2**63 with 64 bits."""
    low = -(2.0 ** (target.bits - 1)) if target.is_signed else 0.0
    above = 2.0 ** (target.bits - target.is_signed)
    whole = rounding.TO_INTEGRAL[mode](x.astype(np.float64))
    inside = (whole >= low) & (whole < above)
    result = np.where(inside, whole, 0).astype(target.dtype)
    result[whole >= above] = np.iinfo(target.dtype).max
    result[whole < low] = np.iinfo(target.dtype).min
    wide = source.bits == 64 or target.bits == 64
    nan = np.uint64(1 << (target.bits - 1) if wide else 0).astype(target.dtype)
    return np.where(np.isnan(whole), nan, result)


def _clamped_integer(x: Array, target: ScalarType) -> Array:
    information = np.iinfo(target.dtype)
    low = max(int(information.min), int(np.iinfo(x.dtype).min))
    high = min(int(information.max), int(np.iinfo(x.dtype).max))
    return np.clip(x, low, high)


class _Conversion:
    """What a cvt instruction asks for."""

    def __init__(self, d: Decoder, target: ScalarType, source: ScalarType) -> None:
        self.target, self.source = target, source
        self.integral = _INTEGRAL_MODES.get(d.choice(*_INTEGRAL_MODES) or "")
        self.mode = d.choice(*_MODES)
        self.flush, self.saturate, self.relu = d.flag("ftz"), d.flag("sat"), d.flag("relu")
        to_float = target.is_float or target.name == "tf32"
        if source.is_float and not to_float and self.integral is None:
            raise PtxError("a conversion to an integer needs .rni, .rzi, .rmi or .rpi")
        if to_float and not source.is_float and self.mode is None:
            raise PtxError("a conversion from an integer needs a rounding mode")

    def __call__(self, x: Array) -> Array:
        target, source = self.target, self.source
        if self.flush and source.name == "f32":
            x = source.flush(x)
        if not source.is_float:
            if target.is_float:
                return rounding.integer_to_float(x, target.name, self.mode or "rn")
            return _clamped_integer(x, target) if self.saturate else x
        if not (target.is_float or target.name == "tf32"):
            return _float_to_integer(x, self.integral or "rz", target, source)
        x = self._to_float(x.astype(np.float64))
        if self.flush and target.name == "f32":
            x = target.flush(x)
        if self.saturate:
            x = np.where(np.isnan(x), 0.0, np.clip(x, 0.0, 1.0))
        if self.relu:
            x = np.where(x < 0, 0.0, x)
        return x.astype(np.float32).view(np.uint32) if target.name == "tf32" else x

    def _to_float(self, x: Array) -> Array:
        if self.integral:
            x = rounding.TO_INTEGRAL[self.integral](x)
        if self.target.name == "f64":
            return x
        return rounding.narrow(x, self.target.name, self.mode or "rn")


@handles("cvt")
def _cvt(d: Decoder) -> Step:
    source, target = d.type(), d.type()
    if target.lanes == 2:
        half = _Conversion(d, target.element, source)
        # cvt.f16x2.f32 d, a, b: a goes to the upper half
        return elementwise(
            d,
            lambda a, b: np.stack(np.broadcast_arrays(half(b), half(a)), -1),
            [source] * 2,
            target,
        )
    return elementwise(d, _Conversion(d, target, source), [source], target)
