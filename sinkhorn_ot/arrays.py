"""The arrays that can be passed, and the little that NumPy and torch do differently.

An error says what was received, where, and what to do.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
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


class Place(NamedTuple):
    """Where an array lives: all that decides which backends can read it."""

    xp: ModuleType  # numpy or torch: the module whose functions work on it
    device: Any = None  # a torch.device; None for NumPy, whose arrays are in host memory

    @property
    def kind(self) -> str:
        """The kind of device: "cpu" or "cuda"."""
        return "cpu" if self.device is None else str(self.device.type)

    @property
    def may_look(self) -> bool:
        """Whether the host may look at numbers there: not while a CUDA graph is recorded."""
        return self.kind == "cpu" or not self.xp.cuda.is_current_stream_capturing()

    def float64(self, x: object) -> Array:
        """`x` as a float64 array of this library on this device."""
        where = {} if self.device is None else {"device": self.device}
        return self.xp.asarray(x, dtype=self.xp.float64, **where)

    def filled(self, length: int, value: float) -> Array:
        """A float64 vector of one value; it is made here, and nothing is copied to the device."""
        where = {} if self.device is None else {"device": self.device}
        return self.xp.full((length,), value, dtype=self.xp.float64, **where)


def is_torch(x: object) -> bool:
    """Whether `x` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def place_of(x: Array) -> Place:
    """Where an array or a tensor lives."""
    return Place(sys.modules["torch"], x.device) if is_torch(x) else Place(np)


def namespace(x: Array) -> ModuleType:
    """`numpy` or `torch`: the module whose functions work on `x`."""
    return sys.modules["torch"] if is_torch(x) else np


def on_host(x: Array) -> bool:
    """Whether a number of `x` can be looked at without waiting for a device."""
    return not is_torch(x) or x.device.type == "cpu"


def float64(x: Array, like: Array) -> Array:
    """`x` as float64 in the library and on the device of `like`."""
    return place_of(like).float64(x)


def cast_like(x: Array, like: Array) -> Array:
    """`x` in the dtype of `like`."""
    return x.to(like.dtype) if is_torch(like) else x.astype(like.dtype, copy=False)


def dtype_name(x: Array) -> str:
    """``float32`` for both ``numpy.float32`` and ``torch.float32``."""
    if isinstance(x, np.ndarray):  # the name of its type is at hand, that of its dtype is made
        return str(x.dtype.type.__name__)
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


def check_floats(x: Array, name: str) -> None:
    """Refuse what is no plain array of floating point numbers this package can read."""
    if is_torch(x):
        if x.layout != sys.modules["torch"].strided:
            raise TypeError(f"{name} is a {x.layout} tensor; pass {name}.to_dense()")
    elif isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array; forbid pairings with -inf instead: "
            f"{name}.filled(-numpy.inf)"
        )
    elif not isinstance(x, np.ndarray):
        raise TypeError(
            f"{name} must be a numpy.ndarray or a torch.Tensor, got {type(x).__name__}; "
            f"wrap it with numpy.asarray"
        )
    elif not x.dtype.isnative:
        raise TypeError(
            f"{name} has byte-swapped dtype {x.dtype.str}; pass {name}.astype({x.dtype.name!r})"
        )
    dtype = dtype_name(x)
    if dtype not in DTYPES:
        convert = "double()" if is_torch(x) else "astype('float64')"
        convert = "real" if dtype.startswith("complex") else convert
        raise TypeError(
            f"{name} must be one of {', '.join(DTYPES)}, got {dtype}; pass {name}.{convert}"
        )


def is_aligned(x: Array) -> bool:
    """Whether the compiled core can read an array as it is: not fields of packed records."""
    return bool(x.flags.aligned) and not any(s % x.itemsize for s in x.strides)


def check_matrix(logits: Array, *, may_be_empty: bool = False) -> Array:
    """`logits` itself (a tensor detached) when it is a matrix this package can read.

    An array that is not aligned to its dtype, such as a field of packed records, is copied.
    """
    name = "logits"
    check_floats(logits, name)
    if is_torch(logits):
        if logits.device.type not in ("cpu", "cuda"):
            raise ValueError(
                f"{name} is on device {str(logits.device)!r}; there are backends for the CPU and "
                f"for CUDA: pass {name}.cpu()"
            )
        logits = logits.detach().resolve_neg()
    elif not is_aligned(logits):
        logits = logits.copy()
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


def _check_vector(v: object, name: str, length: int, place: Place) -> Array:
    """A float64 vector in the place of the logits."""
    if is_torch(v):
        v = v.detach()  # type: ignore[attr-defined]
    if is_torch(v) or isinstance(v, np.ndarray):
        own = place_of(v)
        if own.xp is not place.xp:
            logits = "ndarray" if place.xp is np else "Tensor"
            raise TypeError(
                f"{name} is a {type(v).__name__} but logits is a {logits}; "
                "pass both from one library"
            )
        if own.device != place.device:
            raise ValueError(f"{name} is on {own.device}, logits on {place.device}")
    try:
        vector = place.float64(v)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a vector of {length} numbers: {error}") from error
    if tuple(vector.shape) != (length,):
        raise ValueError(f"{name} must have shape ({length},), got {tuple(vector.shape)}")
    return vector


def check_marginal(v: object, name: str, length: int, place: Place) -> Array:
    """A float64 probability vector; uniform for None."""
    if v is None:
        return place.filled(length, 1.0 / length)
    vector = check_masses(v, name, length, place)
    if not place.may_look:
        return vector / vector.sum()
    return normalised(vector, name, float(vector.sum()), tolerance=rounding_of(v))


def rounding_of(v: object) -> float:
    """What a sum of such masses may be off by."""
    return ROUNDING.get(dtype_name(v), 0.0) if hasattr(v, "dtype") else 0.0


def check_masses(v: object, name: str, length: int, place: Place) -> Array:
    """A float64 vector of non-negative numbers."""
    vector = _check_vector(v, name, length, place)
    if not place.may_look:
        return vector
    ok = vector >= 0
    if not bool(ok.all()):
        first = int(place.xp.nonzero(~ok)[0][0])
        raise ValueError(
            f"{name} must be non-negative, but {name}[{first}] is {float(vector[first])}"
        )
    return vector


def normalised(
    vector: Array, name: str, total: float, over: str = "", tolerance: float = 0.0
) -> Array:
    """A vector of masses over their `total`, which must be about 1."""
    if not abs(total - 1) <= max(SUM_TOLERANCE, tolerance):
        sizes = ", or pass class sizes to balanced_labels as sizes=" if name == "b" else ""
        raise ValueError(
            f"{name} must sum to 1{over}, got {total}; divide it by its sum{over}{sizes}"
        )
    return vector / total


def check_potential(g: object, b: Array, place: Place) -> Array:
    """The starting potential: float64, finite where b > 0; zeros for None."""
    xp = place.xp
    if g is None:
        vector = xp.zeros_like(b)
    else:
        vector = _check_vector(g, "g_init", len(b), place)
        bad = ~xp.isfinite(vector) & (b > 0)
        if place.may_look and bool(bad.any()):
            first = int(xp.nonzero(bad)[0][0])
            raise ValueError(
                f"g_init must be finite where b > 0, but g_init[{first}] is {float(vector[first])}"
            )
    return xp.where(b > 0, vector, -math.inf)


def what_is_bad(values: Array, row: int) -> str:
    """What to say of a row that cannot be labelled, given its values in float64."""
    xp = namespace(values)
    wrong = xp.isnan(values) | (values == math.inf)
    if bool(wrong.any()):
        column = int(xp.nonzero(wrong)[0][0])
        return (
            f"logits[{row}, {column}] is {float(values[column])} (the first bad row is {row}); "
            "logits must be finite, or -inf to forbid a pairing: look for a diverged network "
            "or an unnormalised input"
        )
    where = "" if bool((values == -math.inf).all()) else " among the clusters with b > 0"
    return (
        f"row {row} of logits is -inf everywhere{where}, so sample {row} can go nowhere; allow "
        "at least one cluster or drop the sample"
    )
