"""Correct rounding in every mode, by exact sums and products in float64.

The plan is always the same: an operation on narrow floats is exact as a float64 plus an error
term; that pair is rounded *to odd* in float64, from where one more rounding, in any mode, to a
format with two bits fewer or less is right (Boldo and Melquiond, 2008).
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Format(NamedTuple):
    """A binary floating-point format."""

    precision: int  # bits of the significand
    quantum: int  # exponent of the smallest denormal
    largest: float


FORMATS = {
    "f16": Format(11, -24, 65504.0),
    "bf16": Format(8, -133, float.fromhex("0x1.fep127")),
    "tf32": Format(11, -136, float.fromhex("0x1.ffcp127")),
    "f32": Format(24, -149, float.fromhex("0x1.fffffep127")),
}


def _half_away(x: Array) -> Array:
    whole = np.trunc(x)
    return whole + np.where(np.abs(x - whole) >= 0.5, np.copysign(1.0, x), 0.0)


TO_INTEGRAL: dict[str, Callable[[Array], Array]] = {
    "rn": np.rint,
    "rz": np.trunc,
    "rm": np.floor,
    "rp": np.ceil,
    "rna": _half_away,
}


def narrow(x: Array, format_name: str, mode: str) -> Array:
    """Float64 values rounded to a narrower format, still held in float64."""
    precision, quantum, largest = FORMATS[format_name]
    unit = np.maximum(np.frexp(x)[1] - precision, quantum)
    rounded = np.ldexp(TO_INTEGRAL[mode](np.ldexp(x, -unit)), unit)
    over = (np.abs(rounded) > largest) & np.isfinite(x)
    if over.any():
        stays = {"rz": over, "rm": over & (x > 0), "rp": over & (x < 0)}.get(mode, over & False)
        rounded = np.where(over, np.copysign(np.inf, x), rounded)
        rounded = np.where(stays, np.copysign(largest, x), rounded)
    return rounded


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The sum in float64 and its exact error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """The product in float64 and its exact error (Dekker), far from over- and underflow."""
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _halves(a: Array) -> tuple[Array, Array]:
    scaled = a * 134217729.0  # 2**27 + 1
    high = scaled - (scaled - a)
    return high, a - high


def to_odd(total: Array, error: Array) -> Array:
    """Round total + error to odd: of the two neighbours around it, take the odd one."""
    bits = total.view(np.int64)
    moves = (error != 0) & np.isfinite(total) & np.isfinite(error) & (bits & 1 == 0)
    if not moves.any():
        return total
    step = np.where((error > 0) == (total > 0), 1, -1)
    return np.where(moves, bits + step, bits).view(np.float64)


def nudge(total: Array, error: Array, mode: str) -> Array:
    """The float64 total + error, of which `total` is the nearest, in another rounding mode."""
    if mode == "rn":
        return total
    towards = {"rz": np.zeros_like(total), "rm": np.full_like(total, -np.inf)}.get(mode)
    towards = np.full_like(total, np.inf) if towards is None else towards
    lies_there = np.where(towards > total, error > 0, error < 0) & (error != 0)
    return np.where(lies_there & np.isfinite(total), np.nextafter(total, towards), total)


def rounded_sum(a: Array, b: Array, format_name: str, mode: str) -> Array:
    """The sum rounded once."""
    if mode == "rn" and format_name in ("f32", "f64"):
        return a + b
    total, error = two_sum(a.astype(np.float64), b.astype(np.float64))
    if format_name == "f64":
        return nudge(total, error, mode)
    return narrow(to_odd(total, error), format_name, mode)


def rounded_product(a: Array, b: Array, format_name: str, mode: str) -> Array:
    """The product rounded once; in float64 only to nearest."""
    if mode == "rn" and format_name in ("f32", "f64"):
        return a * b
    return narrow(a.astype(np.float64) * b.astype(np.float64), format_name, mode)


def rounded_fma(a: Array, b: Array, c: Array, format_name: str, mode: str) -> Array:
    """The product and sum a * b + c rounded once; in float64 only to nearest."""
    if format_name == "f64":
        return fma64(a, b, c)
    product = a.astype(np.float64) * b.astype(np.float64)  # exact: 48 bits at most
    odd = to_odd(*two_sum(product, c.astype(np.float64)))
    if format_name == "f32" and mode == "rn":
        return odd.astype(np.float32)
    return narrow(odd, format_name, mode)


def fma64(a: Array, b: Array, c: Array) -> Array:
    """The fused a * b + c of float64."""
    a, b, c = np.broadcast_arrays(a, b, c)
    plain = a * b + c  # right where nothing is rounded: zeros, infinities and NaN
    magnitude_a, magnitude_b = np.abs(a), np.abs(b)
    special = ~(np.isfinite(a) & np.isfinite(b) & np.isfinite(c)) | (a == 0) | (b == 0)
    low, high = 2.0**-450, 2.0**450  # no step below over- or underflows inside
    safe = (magnitude_a > low) & (magnitude_a < high) & (magnitude_b > low) & (magnitude_b < high)
    safe &= np.abs(c) < 2.0**960
    product, product_error = two_product(a, b)
    middle, middle_error = two_sum(c, product_error)
    total, total_error = two_sum(product, middle)
    result = total + to_odd(*two_sum(middle_error, total_error))
    result = np.where(special | (result == 0), plain, result)
    for i in np.argwhere(~special & ~safe):
        at = tuple(i)
        result[at] = _fma_by_fractions(float(a[at]), float(b[at]), float(c[at]), float(plain[at]))
    return result


def _fma_by_fractions(a: float, b: float, c: float, plain: float) -> float:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return plain
    try:
        value = float(exact)
    except OverflowError:
        value = np.inf
    return float(np.copysign(value, 1 if exact > 0 else -1))


def integer_to_float(x: Array, format_name: str, mode: str) -> Array:
    """Integers of any width rounded once, in float64."""
    if x.dtype.itemsize == 8:
        low = (x & x.dtype.type(0xFFFFFFFF)).astype(np.float64)
        high = (x >> x.dtype.type(32)).astype(np.float64) * 2.0**32
        total, error = two_sum(high, low)
    else:
        total = x.astype(np.float64)
        error = np.zeros_like(total)
    if format_name == "f64":
        return nudge(total, error, mode)
    return narrow(to_odd(total, error), format_name, mode)
