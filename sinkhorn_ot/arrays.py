"""The little that NumPy and torch do differently, and the choice of rows that both make alike."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

#: numpy.ndarray or torch.Tensor; torch is not imported here, so there is no narrower name.
Array: TypeAlias = Any

#: Rows are worked on in Python in blocks of about this many entries (32 MB of float64).
BLOCK_ENTRIES = 1 << 22


def is_torch(x: object) -> bool:
    """Whether `x` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def namespace(x: Array) -> ModuleType:
    """`numpy` or `torch`: the module whose functions work on `x`."""
    return sys.modules["torch"] if is_torch(x) else np


def on_host(x: Array) -> bool:
    """Whether a number of `x` can be looked at without waiting for a device."""
    return not is_torch(x) or x.device.type == "cpu"


def may_look(x: Array) -> bool:
    """Whether the host may look at numbers of `x`: not while a CUDA graph is recorded."""
    return on_host(x) or not sys.modules["torch"].cuda.is_current_stream_capturing()


def float64(x: Array, like: Array) -> Array:
    """`x` as float64 in the library and on the device of `like`."""
    xp = namespace(like)
    return xp.asarray(x, dtype=xp.float64, **({"device": like.device} if xp is not np else {}))


def cast_like(x: Array, like: Array) -> Array:
    """`x` in the dtype of `like`."""
    return x.to(like.dtype) if is_torch(like) else x.astype(like.dtype, copy=False)


def dtype_name(x: Array) -> str:
    """``float32`` for both ``numpy.float32`` and ``torch.float32``."""
    return str(x.dtype).removeprefix("torch.")


def row_blocks(n: int, k: int) -> list[slice]:
    """Slices that cover `n` rows of `k` entries in blocks that stay small in float64."""
    step = max(1, BLOCK_ENTRIES // k)
    return [slice(i, min(i + step, n)) for i in range(0, max(n, 1), step)]


def hashed(j: Any) -> Any:
    """Fibonacci hashing of non-negative integers (numbers, arrays or tensors) to 32 bits.

    The upper half of ``j * 0x9E3779B97F4A7C15 mod 2**64``, in halves as int64 has no unsigned
    product.  Consecutive numbers are spread evenly, and without a period.
    """
    return (j * 0x9E3779B9 + (j * 0x7F4A7C15 >> 32)) & 0xFFFFFFFF


def sampled_row(j: Any, stride: int) -> Any:
    """Row number j of a sample of one row in each `stride`."""
    return j * stride + hashed(j) % stride if stride > 1 else j


def sampled_here(n: int, first: int, count: int, stride: int) -> tuple[int, int]:
    """Which numbers of a sample are of `count` rows from `first` on: from one to before another.

    The sample is of n rows, of which a process may hold a part.
    """

    def number(row: int) -> int:
        j = row // stride
        if sampled_row(j, stride) < row:
            j += 1
        return min(j, n // stride)

    return number(first), number(first + count)
