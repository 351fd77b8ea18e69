"""What can be passed: matrices, marginals, potentials, numbers; or an error.

An error says what was received, where, and what to do.
"""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Iterator

import numpy as np

from sinkhorn_ot.arrays import Array, dtype_name, float64, is_torch, may_look, namespace

DTYPES = ("float64", "float32", "float16", "bfloat16")
SUM_TOLERANCE = 1e-6
#: What a sum of masses may be off by, because they were rounded to 16 bits.
ROUNDING = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def heads_of(logits: object) -> Iterator[Array] | None:
    """The (N, K) matrices of a (T, N, K) stack or an iterator; None for a single matrix."""
    if isinstance(logits, Iterator):
        return logits
    stack = isinstance(logits, np.ndarray) or is_torch(logits)
    return iter(logits) if stack and logits.ndim == 3 else None  # type: ignore[attr-defined, call-overload]


def first_head(logits: Array | None) -> Array | None:
    """The first of the matrices, checked; None for None."""
    if logits is None:
        return None
    stack = (isinstance(logits, np.ndarray) or is_torch(logits)) and logits.ndim == 3
    return check_matrix(logits[0] if stack and len(logits) else logits)


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


def _check_vector(v: object, name: str, length: int, like: Array) -> Array:
    """A float64 vector in the library and on the device of `like`, the logits or b."""
    if is_torch(v) != is_torch(like) and (is_torch(v) or isinstance(v, np.ndarray)):
        raise TypeError(
            f"{name} is a {type(v).__name__} but logits is a {type(like).__name__}; "
            "pass both from one library"
        )
    if is_torch(v) and v.device != like.device:  # type: ignore[attr-defined]
        raise ValueError(
            f"{name} is on {v.device}, logits on {like.device}"  # type: ignore[attr-defined]
        )
    if is_torch(v):
        v = v.detach()  # type: ignore[attr-defined]
    try:
        vector = float64(v, like)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a vector of {length} numbers: {error}") from error
    if tuple(vector.shape) != (length,):
        raise ValueError(f"{name} must have shape ({length},), got {tuple(vector.shape)}")
    return vector


def check_marginal(v: object, name: str, length: int, like: Array) -> Array:
    """A float64 probability vector; uniform for None."""
    if v is None:  # made where it is used: nothing is copied to the device
        xp = namespace(like)
        where = {"device": like.device} if is_torch(like) else {}
        return xp.full((length,), 1.0 / length, dtype=xp.float64, **where)
    vector = check_masses(v, name, length, like)
    if not may_look(vector):
        return vector / vector.sum()
    return normalised(vector, name, float(vector.sum()), tolerance=rounding_of(v))


def rounding_of(v: object) -> float:
    """What a sum of such masses may be off by."""
    return ROUNDING.get(dtype_name(v), 0.0) if hasattr(v, "dtype") else 0.0


def check_masses(v: object, name: str, length: int, like: Array) -> Array:
    """A float64 vector of non-negative numbers."""
    vector = _check_vector(v, name, length, like)
    if not may_look(vector):
        return vector
    ok = vector >= 0
    if not bool(ok.all()):
        first = int(namespace(vector).nonzero(~ok)[0][0])
        raise ValueError(
            f"{name} must be non-negative, but {name}[{first}] is {float(vector[first])}"
        )
    return vector


def normalised(
    vector: Array, name: str, total: float, over: str = "", tolerance: float = 0.0
) -> Array:
    """A vector of masses over their `total`, which must be about 1."""
    if not abs(total - 1) <= max(SUM_TOLERANCE, tolerance):
        raise ValueError(f"{name} must sum to 1{over}, got {total}; divide it by its sum{over}")
    return vector / total


def check_potential(g: object, b: Array) -> Array:
    """The starting potential: float64, finite where b > 0; zeros for None."""
    xp = namespace(b)
    if g is None:
        vector = xp.zeros_like(b)
    else:
        vector = _check_vector(g, "g_init", len(b), b)
        bad = ~xp.isfinite(vector) & (b > 0)
        if may_look(vector) and bool(bad.any()):
            first = int(xp.nonzero(bad)[0][0])
            raise ValueError(
                f"g_init must be finite where b > 0, but g_init[{first}] is {float(vector[first])}"
            )
    return xp.where(b > 0, vector, -math.inf)


def check_integer(value: int, name: str, *, least: int) -> int:
    """An integer that is not less than `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


def check_number(value: float, name: str, *, positive: bool) -> float:
    """A finite number that is not negative, or if `positive` above 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = float(value)
    least = sys.float_info.min if positive else 0.0  # the inverse of a denormal is infinite
    if not math.isfinite(number) or number < least:
        raise ValueError(f"{name} must be finite and {'>' if positive else '>='} 0, got {value}")
    return number
