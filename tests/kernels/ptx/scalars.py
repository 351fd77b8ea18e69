"""Scalar types of PTX: register bits to NumPy values, and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .rounding import narrow

Array = NDArray[Any]

UNSIGNED: dict[int, np.dtype[Any]] = {
    8: np.dtype("u1"),
    16: np.dtype("u2"),
    32: np.dtype("u4"),
    64: np.dtype("u8"),
}
_CANONICAL_NAN = {"f32": 0x7FFFFFFF, "f16": 0x7FFF, "bf16": 0x7FFF}  # float64 keeps payloads
_SMALLEST_NORMAL = {"f16": 2.0**-14, "bf16": 2.0**-126, "f32": 2.0**-126, "f64": 2.0**-1022}


class PtxError(Exception):
    """The program does something wrong, or something the interpreter does not know."""


@dataclass(frozen=True)
class ScalarType:
    """One PTX type; the packed types (f16x2, ...) have two lanes."""

    name: str
    kind: str  # "pred", "b", "u", "s", "f" or "bf"
    bits: int  # of one lane
    lanes: int = 1

    @property
    def width(self) -> int:
        """Bytes of all lanes together."""
        return self.bits * self.lanes // 8

    @property
    def is_float(self) -> bool:
        return self.kind in ("f", "bf")

    @property
    def is_signed(self) -> bool:
        return self.kind == "s"

    @property
    def element(self) -> ScalarType:
        """The type of one lane."""
        return TYPES[self.name.removesuffix("x2")]

    @cached_property
    def storage(self) -> np.dtype[Any]:
        """Unsigned integers as wide as the whole type."""
        return UNSIGNED[self.bits * self.lanes]

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """What one lane is computed in; 16-bit floats are computed in float64, then rounded."""
        if self.kind == "pred":
            return np.dtype(bool)
        if self.is_float:
            return np.dtype("f4") if self.bits == 32 else np.dtype("f8")
        return np.dtype(f"{'i' if self.is_signed else 'u'}{self.bits // 8}")

    def from_bits(self, bits: Array) -> Array:
        """Values of a register (its low bits when it is wider); packed types get an axis more."""
        if self.kind == "pred":
            return bits
        if bits.dtype != self.storage:
            bits = bits.astype(self.storage)
        if self.lanes == 2:
            bits = bits.view(UNSIGNED[self.bits]).reshape(*bits.shape, 2)
        if self.kind == "bf":
            return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        if self.name.startswith("f16"):
            return bits.view(np.float16).astype(np.float64)
        return bits.view(self.dtype)

    def to_bits(self, values: Array) -> Array:
        """The inverse of `from_bits`; floats are rounded to nearest, their NaN is the machine's."""
        if self.kind == "pred":
            return values
        if not self.is_float:
            bits = np.ascontiguousarray(values.astype(self.dtype, copy=False))
        elif self.kind == "bf":
            rounded = narrow(values.astype(np.float64), "bf16", "rn").astype(np.float32)
            bits = (rounded.view(np.uint32) >> 16).astype(np.uint16)
        elif self.bits == 16:
            bits = values.astype(np.float16)
        else:
            bits = np.ascontiguousarray(values.astype(self.dtype, copy=False))
        bits = bits.view(UNSIGNED[self.bits])
        canonical = _CANONICAL_NAN.get(self.name.removesuffix("x2"))
        if canonical is not None and (nan := np.isnan(values)).any():
            bits = np.where(nan, bits.dtype.type(canonical), bits)
        return bits.view(self.storage)[..., 0] if self.lanes == 2 else bits

    def flush(self, values: Array) -> Array:
        """Denormals become zeros of the same sign (.ftz)."""
        tiny = np.abs(values) < _SMALLEST_NORMAL[self.name.removesuffix("x2")]
        return np.where(tiny, np.copysign(values.dtype.type(0), values), values)


def _all_types() -> dict[str, ScalarType]:
    types = [ScalarType("pred", "pred", 8), ScalarType("tf32", "b", 32)]
    types += [ScalarType(f"{kind}{bits}", kind, bits) for kind in "bus" for bits in UNSIGNED]
    types += [ScalarType(f"f{bits}", "f", bits) for bits in (16, 32, 64)]
    types += [ScalarType("bf16", "bf", 16), ScalarType("bf16x2", "bf", 16, 2)]
    types += [ScalarType("f16x2", "f", 16, 2), ScalarType("f32x2", "f", 32, 2)]
    types += [ScalarType("u16x2", "u", 16, 2), ScalarType("s16x2", "s", 16, 2)]
    return {t.name: t for t in types}


TYPES = _all_types()


def bits_type(width: int) -> ScalarType:
    """The untyped bits of `width` bytes."""
    return TYPES[f"b{8 * width}"]


def immediate(text: str, scalar: ScalarType) -> Array:
    """The bits of a literal as an array of one."""
    if scalar.kind == "pred":
        return np.array([int(text, 0) != 0])
    prefix = text[:2].lower()
    if prefix in ("0f", "0d"):
        source = TYPES["f32" if prefix == "0f" else "f64"]
        bits = np.array([int(text[2:], 16)], source.storage)
        if scalar.width == source.width or not scalar.is_float:
            return bits.astype(scalar.storage)
        return scalar.to_bits(source.from_bits(bits))
    try:
        value = int(text.rstrip("Uu"), 0)
    except ValueError:
        if not scalar.is_float:
            raise PtxError(f"{text!r} is no literal of type {scalar.name}") from None
        return scalar.to_bits(np.array([float(text)]))
    if scalar.is_float and scalar.bits > 16 and value != 0:
        raise PtxError(f"the integer {text} where a {scalar.name} is due")
    return np.array([value & ((1 << 8 * scalar.width) - 1)], scalar.storage)
