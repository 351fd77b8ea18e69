"""Arithmetic on floats and integers: add to fma, division, minima, comparisons, functions.

The approximate functions (ex2, lg2, sin, rcp.approx, ...) return the rounded exact value, which
the hardware's results differ from by an ulp or two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from . import rounding
from .decoder import Decoder, Step, elementwise, handles, pair, reader, writer
from .scalars import TYPES, Array, PtxError, ScalarType

if TYPE_CHECKING:
    from .block import Block, Group

Function = Callable[..., Array]
_ROUNDINGS = ("rn", "rz", "rm", "rp")


def _finished(d: Decoder, scalar: ScalarType, function: Function) -> Function:
    """The function with the modifiers .ftz, .sat and .relu around it."""
    ftz, saturate, relu = d.flag("ftz"), d.flag("sat"), d.flag("relu")
    if not (ftz or saturate or relu):
        return function

    def finished(*values: Array) -> Array:
        if ftz:
            values = tuple(scalar.flush(v) for v in values)
        result = function(*values)
        if ftz:
            result = scalar.flush(result)
        if saturate:
            result = np.where(np.isnan(result), 0, np.clip(result, 0, 1))
        return np.where(result < 0, result.dtype.type(0), result) if relu else result

    return finished


def _float_arithmetic(d: Decoder, scalar: ScalarType) -> Step:
    mode = d.choice(*_ROUNDINGS) or "rn"
    name = scalar.name.removesuffix("x2")
    if mode != "rn" and name == "f64" and d.opcode not in ("add", "sub"):
        raise PtxError(f"{d.opcode}.{mode}.f64 is not supported")
    function: Function = {
        "add": lambda a, b: rounding.rounded_sum(a, b, name, mode),
        "sub": lambda a, b: rounding.rounded_sum(a, -b, name, mode),
        "mul": lambda a, b: rounding.rounded_product(a, b, name, mode),
        "fma": lambda a, b, c: rounding.rounded_fma(a, b, c, name, mode),
        "mad": lambda a, b, c: rounding.rounded_fma(a, b, c, name, mode),
    }[d.opcode]
    sources = [scalar] * (3 if d.opcode in ("fma", "mad") else 2)
    return elementwise(d, _finished(d, scalar, function), sources, scalar)


def _high_product(a: Array, b: Array) -> Array:
    bits = 8 * a.dtype.itemsize
    if bits == 64:  # Python's integers are wide enough
        product = (a.astype(object) * b.astype(object)) >> 64
        return np.asarray(product & (2**64 - 1)).astype(np.uint64).view(a.dtype)
    wide = np.dtype(f"{a.dtype.kind}{a.dtype.itemsize * 2}")
    return ((a.astype(wide) * b.astype(wide)) >> wide.type(bits)).astype(a.dtype)


def _integer_arithmetic(d: Decoder, scalar: ScalarType) -> Step:
    if d.opcode in ("add", "sub"):
        function: Function = np.add if d.opcode == "add" else np.subtract
        if d.flag("sat"):
            function = _saturated(function, scalar)
        return elementwise(d, function, [scalar, scalar], scalar)
    part = d.need("lo", "hi", "wide")
    result = scalar
    if part == "wide":
        result = TYPES[f"{scalar.kind}{scalar.bits * 2}"]

    def product(a: Array, b: Array) -> Array:
        if part == "wide":
            return a.astype(result.dtype) * b.astype(result.dtype)
        return a * b if part == "lo" else _high_product(a, b)

    if d.opcode == "mul":
        return elementwise(d, product, [scalar, scalar], result)
    return elementwise(d, lambda a, b, c: product(a, b) + c, [scalar, scalar, result], result)


def _saturated(function: Function, scalar: ScalarType) -> Function:
    if scalar.name != "s32":
        raise PtxError(f".sat of {scalar.name} is not supported")
    low, high = -(2**31), 2**31 - 1
    return lambda a, b: np.clip(function(a.astype(np.int64), b.astype(np.int64)), low, high)


@handles("add", "sub", "mul", "mad", "fma")
def _arithmetic(d: Decoder) -> Step:
    scalar = d.type()
    return _float_arithmetic(d, scalar) if scalar.is_float else _integer_arithmetic(d, scalar)


def _truncated_quotient(a: Array, b: Array) -> Array:
    quotient = a // b
    quotient += ((a < 0) != (b < 0)) & (quotient * b != a)  # // rounds down, PTX to zero
    return np.where(b == 0, ~a.dtype.type(0), quotient)


def _remainder(a: Array, b: Array) -> Array:
    return a - b * _truncated_quotient(a, b)


@handles("div", "rem")
def _division(d: Decoder) -> Step:
    scalar = d.type()
    if not scalar.is_float:
        function = _truncated_quotient if d.opcode == "div" else _remainder
        return elementwise(d, function, [scalar] * 2, scalar)
    kind = d.need("rn", "approx", "full")

    def divide(a: Array, b: Array) -> Array:
        if kind == "approx" and scalar.name == "f32":
            huge = (np.abs(b) > 2.0**126) & np.isfinite(b)  # the reciprocal would be a denormal
            return np.where(huge, np.where(np.isinf(a), np.float32(np.nan), a * 0), a / b)
        return a / b

    return elementwise(d, _finished(d, scalar, divide), [scalar] * 2, scalar)


_FUNCTIONS: dict[str, Function] = {
    "rcp": lambda x: 1 / x,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "ex2": np.exp2,
    "lg2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


@handles("rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh")
def _function(d: Decoder) -> Step:
    scalar = d.type()
    kind = d.need("approx", "rn")
    exact = _FUNCTIONS[d.opcode]

    def function(x: Array) -> Array:
        result = exact(x.astype(np.float64))
        if scalar.bits == 64 and kind == "approx":  # the lower half of the result is zero
            return (result.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)
        # rounding 1/x and sqrt twice is harmless: float64 has more than 2 * 24 + 2 bits
        return result.astype(np.float32) if scalar.bits == 32 else result

    return elementwise(d, _finished(d, scalar, function), [scalar], scalar)


def _extremum(opcode: str, propagate_nan: bool) -> Function:
    """Min or max as the hardware has it: +0 is above -0; a NaN loses unless .NaN is asked for."""
    sign = np.signbit if opcode == "max" else lambda x: ~np.signbit(x)

    def extremum(a: Array, b: Array) -> Array:
        a, b = np.broadcast_arrays(a, b)
        first = (a > b) if opcode == "max" else (a < b)
        result = np.where(first | ((a == b) & ~sign(a)), a, b)
        nan_a, nan_b = np.isnan(a), np.isnan(b)
        if propagate_nan:
            return np.where(nan_a | nan_b, a.dtype.type(np.nan), result)
        return np.where(nan_b, a, np.where(nan_a, b, result))

    return extremum


@handles("min", "max")
def _minimum_maximum(d: Decoder) -> Step:
    scalar = d.type()
    count = len(d.operands) - 1
    if count not in (2, 3):
        raise PtxError(f"{count} operands")
    if scalar.is_float:
        two = _finished(d, scalar, _extremum(d.opcode, d.flag("NaN")))
    else:
        two = np.maximum if d.opcode == "max" else np.minimum
    function = two if count == 2 else lambda a, b, c: two(two(a, b), c)
    return elementwise(d, function, [scalar] * count, scalar)


@handles("neg", "abs")
def _sign(d: Decoder) -> Step:
    scalar = d.type()
    function = np.negative if d.opcode == "neg" else np.abs
    if scalar.is_float:
        function = _finished(d, scalar, function)
    return elementwise(d, function, [scalar], scalar)


@handles("copysign")
def _copysign(d: Decoder) -> Step:
    scalar = d.type()  # copysign d, a, b: the sign of a on b
    return elementwise(d, lambda a, b: np.copysign(b, a), [scalar] * 2, scalar)


@handles("testp")
def _testp(d: Decoder) -> Step:
    scalar = d.type()
    tiny = 2.0**-126 if scalar.bits == 32 else 2.0**-1022

    def normal(x: Array) -> Array:
        return np.isfinite(x) & (np.abs(x) >= tiny)

    tests: dict[str, Function] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda x: ~np.isnan(x),
        "notanumber": np.isnan,
        "normal": normal,
        "subnormal": lambda x: (x != 0) & (np.abs(x) < tiny),
    }
    return elementwise(d, tests[d.need(*tests)], [scalar], TYPES["pred"])


def _ordered(compare: Function) -> Function:
    return lambda a, b: compare(a, b) & ~(np.isnan(a) | np.isnan(b))


def _unordered(compare: Function) -> Function:
    return lambda a, b: compare(a, b) | np.isnan(a) | np.isnan(b)


_COMPARISONS: dict[str, Function] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_UNSIGNED_COMPARISONS = {
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}
_FLOAT_COMPARISONS: dict[str, Function] = {
    **_COMPARISONS,
    "ne": _ordered(np.not_equal),
    **{f"{name}u": _unordered(compare) for name, compare in _COMPARISONS.items()},
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}


def _comparison(d: Decoder, scalar: ScalarType) -> Function:
    table = _FLOAT_COMPARISONS if scalar.is_float else _COMPARISONS | _UNSIGNED_COMPARISONS
    compare = table[d.need(*table)]
    if not d.flag("ftz"):
        return compare
    return lambda a, b: compare(scalar.flush(a), scalar.flush(b))


_COMBINE: dict[str, Function] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}


@handles("setp")
def _setp(d: Decoder) -> Step:
    scalar = d.type()
    compare = _comparison(d, scalar)
    combine = d.choice(*_COMBINE)
    d.expect(4 if combine else 3)
    a, b = (reader(o, scalar) for o in d.operands[1:3])
    other = reader(d.operands[3], TYPES["pred"]) if combine else None
    writes = [writer(o, TYPES["pred"]) for o in pair(d.operands[0])]

    def step(block: Block, group: Group) -> None:
        result = compare(a(block), b(block))
        # packed types give one predicate per lane, the others the result and its opposite
        lanes = [result, ~result] if scalar.lanes == 1 else [result[..., 0], result[..., 1]]
        for write, lane in zip(writes, lanes, strict=True):
            if combine and other:
                lane = _COMBINE[combine](lane, other(block))
            write(block, group, lane)

    return step


@handles("set")
def _set(d: Decoder) -> Step:
    scalar, result = d.type(), d.type()
    compare = _comparison(d, scalar)
    combine = d.choice(*_COMBINE)
    zero = result.dtype.type(0)
    true = zero + 1 if result.is_float else ~zero

    def compare_and_combine(a: Array, b: Array, c: Array | None = None) -> Array:
        holds = compare(a, b)
        return np.where(_COMBINE[combine](holds, c) if combine else holds, true, zero)

    sources = [scalar, scalar, TYPES["pred"]][: 3 if combine else 2]
    return elementwise(d, compare_and_combine, sources, result)
