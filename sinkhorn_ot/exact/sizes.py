"""The class sizes that a user asks for, as bounds of whole numbers; or what is wrong with them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sinkhorn_ot.arrays import Array, is_torch
from sinkhorn_ot.exact.repair import Sizes

#: N * b_k this near to a whole number is that number: what a float64 quotient is off by, and more.
WHOLE = 1e-9
#: What the masses may add up to besides 1, as for `sinkhorn`.
SUM_TOLERANCE = 1e-6


def class_sizes(
    n: int, k: int, b: Array | None, sizes: Array | None, least: Array | None, most: Array | None
) -> Sizes:
    """Return the bounds that the arguments of `balanced_labels` mean for N samples."""
    bounds = least is not None or most is not None
    if (b is not None) + (sizes is not None) + bounds > 1:
        raise ValueError(
            "b, sizes and the pair sizes_min, sizes_max are three ways to say one thing; pass one"
        )
    if sizes is not None:
        return _given(n, k, sizes)
    if bounds:
        return _between(n, k, least, most)
    return _of_masses(n, k, b)


def _of_masses(n: int, k: int, b: Array | None) -> Sizes:
    """Sizes of floor or ceil of N * b_k each."""
    if b is None:
        return Sizes(np.full(k, n // k), np.full(k, -(-n // k)))
    masses, rounding = _vector(b, "b", k)
    masses = masses.astype(np.float64)
    bad = ~(masses >= 0)
    if bad.any():
        first = int(bad.argmax())
        raise ValueError(f"b must be non-negative, but b[{first}] is {masses[first]}")
    total = math.fsum(masses)
    if not abs(total - 1) <= max(SUM_TOLERANCE, rounding):
        raise ValueError(f"b must sum to 1, got {total}; divide it by its sum")
    exact = n * (masses / total)
    near = np.round(exact)
    whole = np.abs(exact - near) <= max(WHOLE, rounding) * np.maximum(near, 1)
    low = np.where(whole, near, np.floor(exact)).astype(np.int64)
    high = np.where(whole, near, np.ceil(exact)).astype(np.int64)
    if not low.sum() <= n <= high.sum():  # many were rounded the same way
        low, high = np.floor(exact).astype(np.int64), np.ceil(exact).astype(np.int64)
    return Sizes(low, high)


def _given(n: int, k: int, sizes: Array) -> Sizes:
    given = _whole_numbers(sizes, "sizes", k)
    if given.sum() != n:
        raise ValueError(
            f"sizes must add up to the {n} samples, got a sum of {given.sum()}; for sizes that may "
            "vary pass sizes_min and sizes_max"
        )
    return Sizes(given, given)


def _between(n: int, k: int, least: Array | None, most: Array | None) -> Sizes:
    low = np.zeros(k, np.int64) if least is None else _whole_numbers(least, "sizes_min", k)
    high = np.full(k, n) if most is None else _whole_numbers(most, "sizes_max", k)
    wrong = low > high
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"sizes_min must not exceed sizes_max, but for class {first} they are {low[first]} and "
            f"{high[first]}"
        )
    if low.sum() > n:
        raise ValueError(
            f"sizes_min add up to {low.sum()}, which is more than the {n} samples; lower them"
        )
    high = np.minimum(high, n)
    if high.sum() < n:
        raise ValueError(
            f"sizes_max add up to {high.sum()}, which is less than the {n} samples; raise them"
        )
    return Sizes(low, high)


def _whole_numbers(x: Array, name: str, k: int) -> NDArray[np.int64]:
    vector, _ = _vector(x, name, k, scalar=True)
    if vector.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got dtype {vector.dtype}")
    if (vector < 0).any():
        first = int((vector < 0).argmax())
        raise ValueError(f"{name} must be non-negative, but {name}[{first}] is {vector[first]}")
    return vector.astype(np.int64)


def _vector(x: Array, name: str, k: int, *, scalar: bool = False) -> tuple[NDArray[Any], float]:
    """Return K numbers on the host, and what rounding to their dtype may have changed them by."""
    vector = np.asarray(x.detach().cpu().numpy() if is_torch(x) else x)
    if scalar and vector.ndim == 0:
        vector = np.full(k, vector)
    if vector.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be a vector of {k} numbers, got dtype {vector.dtype}")
    if vector.shape != (k,):
        raise ValueError(f"{name} must have shape ({k},), got {vector.shape}")
    exact = vector.dtype.kind != "f"
    return vector, 0.0 if exact else 4 * float(np.finfo(vector.dtype).eps)
