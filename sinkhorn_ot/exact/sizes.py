"""The class sizes that a user asks for, as bounds of whole numbers; or what is wrong with them."""

from __future__ import annotations

import math

import numpy as np

from sinkhorn_ot.arrays import (
    Array,
    Place,
    check_masses,
    dtype_name,
    normalised,
    rounding_of,
)
from sinkhorn_ot.exact.certificate import as_numpy
from sinkhorn_ot.exact.repair import Sizes

#: N * b_k this near to a whole number is that number: what a float64 quotient is off by, and more.
WHOLE = 1e-9
#: What rounding to a dtype changes a number by, at most; 16-bit ones are in `rounding_of`.
ROUNDING = {"float32": 2.0**-23}


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
    masses = check_masses(as_numpy(b), "b", k, Place(np))
    off = rounding_of(b)
    exact = n * normalised(masses, "b", math.fsum(masses), tolerance=off)
    given = dtype_name(b) if hasattr(b, "dtype") else "float64"
    rounding = 4 * (off or ROUNDING.get(given, 2.0**-52))
    near = np.round(exact)
    whole = np.abs(exact - near) <= max(WHOLE, rounding) * np.maximum(near, 1)
    low = np.where(whole, near, np.floor(exact)).astype(np.int64)
    high = np.where(whole, near, np.ceil(exact)).astype(np.int64)
    if not low.sum() <= n <= high.sum():  # many were rounded the same way
        low, high = np.floor(exact).astype(np.int64), np.ceil(exact).astype(np.int64)
    return Sizes(low, high)


def _given(n: int, k: int, sizes: Array) -> Sizes:
    given = _whole_numbers(sizes, "sizes", k)
    if sum(given) != n:
        raise ValueError(
            f"sizes must add up to the {n} samples, got a sum of {sum(given)}; for sizes that may "
            "vary pass sizes_min and sizes_max"
        )
    return Sizes(np.array(given), np.array(given))


def _between(n: int, k: int, least: Array | None, most: Array | None) -> Sizes:
    low = [0] * k if least is None else _whole_numbers(least, "sizes_min", k)
    high = [n] * k if most is None else _whole_numbers(most, "sizes_max", k)
    for number, (lowest, highest) in enumerate(zip(low, high, strict=True)):
        if lowest > highest:
            raise ValueError(
                f"sizes_min must not exceed sizes_max, but for class {number} they are {lowest} "
                f"and {highest}"
            )
    if sum(low) > n:
        raise ValueError(
            f"sizes_min add up to {sum(low)}, which is more than the {n} samples; lower them"
        )
    high = [min(size, n) for size in high]
    if sum(high) < n:
        raise ValueError(
            f"sizes_max add up to {sum(high)}, which is less than the {n} samples; raise them"
        )
    return Sizes(np.array(low), np.array(high))


def _whole_numbers(x: Array, name: str, k: int) -> list[int]:
    """Non-negative integers of Python, which do not wrap."""
    vector = as_numpy(x)
    if vector.ndim == 0:
        vector = np.full(k, vector)
    if vector.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got dtype {vector.dtype}")
    if vector.shape != (k,):
        raise ValueError(f"{name} must have shape ({k},), got {vector.shape}")
    numbers: list[int] = vector.tolist()
    if min(numbers) < 0:
        first = next(i for i, number in enumerate(numbers) if number < 0)
        raise ValueError(f"{name} must be non-negative, but {name}[{first}] is {numbers[first]}")
    return numbers
