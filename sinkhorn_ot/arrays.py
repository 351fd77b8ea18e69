"""The little that NumPy and torch do differently, and the checks of what the user passed."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

#: numpy.ndarray or torch.Tensor; torch is not imported here, so there is no narrower name.
Array: TypeAlias = Any

DTYPES = ("float64", "float32", "float16", "bfloat16")
SUM_TOLERANCE = 1e-6
#: What a sum of masses may be off by, because they were rounded to 16 bits.
ROUNDING = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
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
    return x.to(like.dtype) if is_torch(like) else x.astype(like.dtype)


def dtype_name(x: Array) -> str:
    """``float32`` for both ``numpy.float32`` and ``torch.float32``."""
    return str(x.dtype).removeprefix("torch.")


def row_blocks(n: int, k: int) -> list[slice]:
    """Slices that cover `n` rows of `k` entries in blocks that stay small in float64."""
    step = max(1, BLOCK_ENTRIES // k)
    return [slice(i, min(i + step, n)) for i in range(0, max(n, 1), step)]


def heads_of(logits: object) -> Iterator[Array] | None:
    """The (N, K) matrices of a (T, N, K) stack or an iterator; None for a single matrix."""
    if isinstance(logits, Iterator):
        return logits
    stack = isinstance(logits, np.ndarray) or is_torch(logits)
    return iter(logits) if stack and logits.ndim == 3 else None  # type: ignore[attr-defined, call-overload]


def check_matrix(logits: Array, *, may_be_empty: bool = False) -> Array:
    """`logits` itself (a tensor detached) when it is a matrix this package can read."""
    name = "logits"
    if is_torch(logits):
        if logits.layout != sys.modules["torch"].strided:
            raise TypeError(f"{name} is a {logits.layout} tensor; pass {name}.to_dense()")
        if logits.device.type not in ("cpu", "cuda"):
            raise ValueError(
                f"{name} is on device {str(logits.device)!r}; there are backends for the CPU and "
                f"for CUDA: pass {name}.cpu()"
            )
        logits = logits.detach().resolve_neg()
    elif isinstance(logits, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array; forbid pairings with -inf instead: "
            f"{name}.filled(-numpy.inf)"
        )
    elif not isinstance(logits, np.ndarray):
        raise TypeError(
            f"{name} must be a numpy.ndarray or a torch.Tensor, got {type(logits).__name__}; "
            f"wrap it with numpy.asarray"
        )
    elif not logits.dtype.isnative:
        raise TypeError(
            f"{name} has byte-swapped dtype {logits.dtype.str}; pass "
            f"{name}.astype({logits.dtype.name!r})"
        )
    if dtype_name(logits) not in DTYPES:
        raise TypeError(
            f"{name} must be one of {', '.join(DTYPES)}, got {dtype_name(logits)}; "
            "convert it to a floating dtype first"
        )
    if logits.ndim != 2:
        raise ValueError(
            f"{name} must be a matrix (N samples, K clusters) or a (T, N, K) stack of heads, "
            f"got shape {tuple(logits.shape)}"
        )
    if logits.shape[1] == 0 or (logits.shape[0] == 0 and not may_be_empty):
        raise ValueError(
            f"{name} needs at least one sample and one cluster, got shape {tuple(logits.shape)}"
        )
    return logits


def _check_vector(v: object, name: str, length: int, logits: Array) -> Array:
    if is_torch(v) != is_torch(logits) and (is_torch(v) or isinstance(v, np.ndarray)):
        raise TypeError(
            f"{name} is a {type(v).__name__} but logits is a {type(logits).__name__}; "
            "pass both from one library"
        )
    if is_torch(v) and v.device != logits.device:  # type: ignore[attr-defined]
        raise ValueError(
            f"{name} is on {v.device}, logits on {logits.device}"  # type: ignore[attr-defined]
        )
    if is_torch(v):
        v = v.detach()  # type: ignore[attr-defined]
    try:
        vector = float64(v, logits)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a vector of {length} numbers: {error}") from error
    if tuple(vector.shape) != (length,):
        raise ValueError(f"{name} must have shape ({length},), got {tuple(vector.shape)}")
    return vector


def check_marginal(v: object, name: str, length: int, logits: Array) -> Array:
    """A float64 probability vector; uniform for None."""
    if v is None:  # made where it is used: nothing is copied to the device
        xp = namespace(logits)
        where = {"device": logits.device} if is_torch(logits) else {}
        return xp.full((length,), 1.0 / length, dtype=xp.float64, **where)
    vector = check_masses(v, name, length, logits)
    if not may_look(vector):
        return vector / vector.sum()
    given = ROUNDING.get(dtype_name(v), 0.0) if hasattr(v, "dtype") else 0.0
    return normalised(vector, name, exact_parts(vector, 2.0), tolerance=given)


def check_masses(v: object, name: str, length: int, logits: Array) -> Array:
    """A float64 vector of non-negative numbers."""
    vector = _check_vector(v, name, length, logits)
    if not may_look(vector):
        return vector
    ok = vector >= 0
    if not bool(ok.all()):
        first = int(namespace(vector).nonzero(~ok)[0][0])
        raise ValueError(
            f"{name} must be non-negative, but {name}[{first}] is {float(vector[first])}"
        )
    return vector


def exact_parts(x: Array, bound: float) -> Array:
    """The sum along the first axis as two numbers that come out the same in any order.

    `bound` is one on the sum of the absolute values. See csrc/cpu/exact.hpp; here the
    fine parts may be of more numbers.
    """
    xp = namespace(x)
    coarse = math.ldexp(1.5, math.frexp(bound)[1] + 1)
    fine = math.ldexp(coarse, -16)
    high = (x + coarse) - coarse
    return xp.stack((high.sum(0), (((x - high) + fine) - fine).sum(0)))


def normalised(
    vector: Array, name: str, parts: Array, over: str = "", tolerance: float = 0.0
) -> Array:
    """A vector of masses whose sum is 1, if that of these `parts` is about 1."""
    total = float(parts[0] + parts[1])
    if not abs(total - 1) <= max(SUM_TOLERANCE, tolerance):
        raise ValueError(f"{name} must sum to 1{over}, got {total}; divide it by its sum{over}")
    return vector / total


def check_potential(g: object, length: int, logits: Array, b: Array) -> Array:
    """The starting potential: float64, finite where b > 0; zeros for None."""
    xp = namespace(logits)
    if g is None:
        vector = xp.zeros_like(b)
    else:
        vector = _check_vector(g, "g_init", length, logits)
        bad = ~xp.isfinite(vector) & (b > 0)
        if may_look(vector) and bool(bad.any()):
            first = int(xp.nonzero(bad)[0][0])
            raise ValueError(
                f"g_init must be finite where b > 0, but g_init[{first}] is {float(vector[first])}"
            )
    return xp.where(b > 0, vector, -math.inf)


class Reading(NamedTuple):
    """What a pass over the rows found; all of it belongs to the g of that pass."""

    log_mass: Array  # (K,) float64
    f: Array | None = None  # (N,) float64
    labels: Array | None = None  # (N,) int64


@dataclass(frozen=True)
class Needs:
    """What a sketch takes in a backend."""

    besides: int  # bytes that do not go to its entries, while it is filled
    held: int  # and afterwards
    least: int  # words of 4 bytes below which it is no use
    everything: int  # words that hold all of the matrix
    small: int = 1 << 19  # words that are worth it however small the matrix
    always: int = 64 << 20  # bytes that are granted however small the matrix


class BadRow(Exception):
    """A pass met a row without a finite maximum."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


class EmptyColumn(Exception):
    """A cluster that must receive mass is forbidden to every row."""

    def __init__(self, column: int) -> None:
        super().__init__(column)
        self.column = column
