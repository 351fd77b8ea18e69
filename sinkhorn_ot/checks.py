"""What the caller passed, checked once: a `Problem` and `Settings`, or an error.

An error says what was received, where, and what to do.  In a group of processes all raise it.
"""

from __future__ import annotations

import hashlib
import math
import numbers
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sinkhorn_ot import backends
from sinkhorn_ot.arrays import (
    Array,
    dtype_name,
    float64,
    is_torch,
    may_look,
    namespace,
    on_host,
    sampled_row,
)
from sinkhorn_ot.backends import Backend
from sinkhorn_ot.group import Group, Told
from sinkhorn_ot.passes import Needs, Problem
from sinkhorn_ot.solvers.model import SETS
from sinkhorn_ot.solvers.watch import Progress

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

METHODS = ("auto", "sinkhorn", "newton")
DTYPES = ("float64", "float32", "float16", "bfloat16")
SUM_TOLERANCE = 1e-6
#: What a sum of masses may be off by, because they were rounded to 16 bits.
ROUNDING = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
#: Of the bytes of the input, what a solve may add by default. Of the entries of the matrix, one of
#: so many is worth a word, and so many words are worth it at most.
DEFAULT_LIMIT, ONE_OF, MOST_WORDS = 0.55, 8, 1 << 25
#: The spread of the logits is that of so many rows, or where they are short of so many entries.
SPREAD_ROWS, SPREAD_ENTRIES = 8, 1 << 12

Callback = Callable[[Progress], object]


@dataclass(frozen=True)
class Options:
    """What the caller asked for, unchecked; see `api.sinkhorn`."""

    a: Array | None
    b: Array | None
    epsilon: float
    tol: float
    max_iter: int
    g_init: Array | None
    method: str
    memory_limit: int | None
    backend: str
    process_group: ProcessGroup | None
    callback: Callback | None


@dataclass(frozen=True)
class Settings:
    """How a `Problem` is to be solved."""

    g: Array  # (K,) float64, where to start
    warm: bool  # whether the caller knows that this is near
    tol: float
    max_iter: int
    words: int  # that kept entries may take; 0 for textbook steps alone
    backend: Backend
    asks: Callable[[Progress], bool] | None  # whether to stop; None if nobody is to be asked


def check(logits: Array, options: Options, group: Group) -> tuple[Problem, Settings]:
    """Check one matrix and what is asked of it; in a group of processes, that it is one thing."""
    callback = options.callback
    if group.alone:
        problem, settings = _check_here(logits, options, alone=True)
        asking = callback is not None
    else:
        problem, settings, asking = _agreed(logits, options, group)
    # GPUs of several kinds have room for other numbers of blocks
    words = group.min(_words_to_keep(problem, settings, options))
    asks = (lambda info: group.asks(callback, info)) if asking else None
    return problem, replace(settings, words=words, asks=asks)


def _agreed(logits: Array, options: Options, group: Group) -> tuple[Problem, Settings, bool]:
    """Check in all processes; the flag says whether any of them has a callback."""
    if not may_look(logits):
        raise ValueError("a CUDA graph has no place for a process group")

    def tell(mine: tuple[Problem, Settings]) -> Told:
        problem, settings = mine
        same = {
            "the number of columns of logits": problem.logits.shape[1],
            "the dtype of logits": dtype_name(problem.logits),
            "the library of logits": namespace(problem.logits).__name__,
            "the kind of device of logits": "cpu" if on_host(problem.logits) else "cuda",
            "whether there is an a": problem.a is not None,
            "b": _summary(options.b, problem.b),
            "g_init": _summary(options.g_init, settings.g),
            "epsilon": problem.epsilon,
            "tol": settings.tol,
            "max_iter": settings.max_iter,
            "method": options.method,
            "memory_limit": options.memory_limit,
            "backend": settings.backend.name,
        }
        mass = None if problem.a is None else float(problem.a.sum())
        return same, (problem.logits.shape[0], mass, options.callback is not None)

    (problem, settings), everyone = group.agree(
        lambda: _check_here(logits, options, alone=False), tell
    )
    counts, masses, asking = zip(*everyone, strict=True)
    if not any(counts):
        raise ValueError(
            f"logits need at least one sample, but all {len(counts)} processes of the group have "
            f"shape {tuple(problem.logits.shape)}"
        )
    a = problem.a
    if a is not None:
        a = normalised(a, "a", math.fsum(masses), over=" over all processes")
    first = sum(counts[: group.rank])
    return replace(problem, a=a, total=sum(counts), first=first), settings, any(asking)


def _check_here(logits: Array, options: Options, *, alone: bool) -> tuple[Problem, Settings]:
    """Check what this process was passed; what depends on the others is left open."""
    logits = check_matrix(logits, may_be_empty=not alone)
    epsilon = _check_number(options.epsilon, "epsilon", positive=True)
    tol = _check_number(options.tol, "tol", positive=False)
    max_iter = _check_integer(options.max_iter, "max_iter", least=1)
    if options.memory_limit is not None:
        _check_integer(options.memory_limit, "memory_limit", least=0)
    method, callback = options.method, options.callback
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {type(callback).__name__}")
    if not may_look(logits) and (tol > 0 or method == "newton" or callback is not None):
        raise ValueError(
            "while a CUDA graph is recorded nobody can look whether the solve has converged: pass "
            f"tol=0 (got {tol:g}) with max_iter, and neither method='newton' nor a callback"
        )
    n, k = logits.shape
    b = check_marginal(options.b, "b", k, logits)
    a = options.a
    if a is not None:
        a = (check_marginal if alone else check_masses)(a, "a", n, logits)
    g = check_potential(options.g_init, k, logits, b)
    backend = backends.named(options.backend, logits)
    warm = options.g_init is not None
    return Problem(logits, a, b, epsilon), Settings(g, warm, tol, max_iter, 0, backend, None)


def _words_to_keep(problem: Problem, settings: Settings, options: Options) -> int:
    method, limit, k = options.method, options.memory_limit, len(problem.b)
    if method == "sinkhorn" or (method == "auto" and settings.tol == 0):
        return 0
    needs = settings.backend.needs(problem.logits, problem.n)
    words = room_for_entries(problem.logits, problem.n, limit, needs)
    if method == "newton" and not words:
        raise ValueError(
            f"method='newton' has no room to keep entries of logits of shape ({problem.n}, {k}) in "
            f"memory_limit={limit}; raise it, or pass method='auto' to take textbook steps then"
        )
    return words


def room_for_entries(logits: Array, n: int, memory_limit: int | None, needs: Needs) -> int:
    """How many words of 4 bytes kept entries may take; 0 when there is no room for useful ones.

    Of all `n` rows, whichever of them are held here.
    """
    entries = n * logits.shape[1]
    default = max(int(DEFAULT_LIMIT * entries * logits.itemsize), needs.always)
    limit = default if memory_limit is None else memory_limit
    # the allocator's pages and the threads' stacks are within the limit too
    room = int(0.95 * limit - needs.besides - (SETS - 1) * needs.held) // 4
    wanted = max(min(max(entries // ONE_OF, needs.small), MOST_WORDS), SETS * needs.least)
    words = min(room, wanted, SETS * needs.everything)
    return words if words >= SETS * min(needs.least, needs.everything) else 0


def spread(problem: Problem, group: Group) -> float:
    """Return the standard deviation of the logits within their rows; waits for all processes.

    Of some of the rows of all processes, and in units of the logits; forbidden pairings do not
    count.
    """
    b, k = problem.b, len(problem.b)
    xp = namespace(b)
    stride = max(problem.n // max(SPREAD_ROWS, SPREAD_ENTRIES // k), 1)
    rows = [sampled_row(j, stride) - problem.first for j in range(problem.n // stride)]
    rows = [row for row in rows if 0 <= row < problem.logits.shape[0]]
    some = float64(problem.logits[rows], b)
    allowed = (some > -math.inf) & (some < math.inf) & (b > 0)
    count = xp.where(allowed, 1.0, 0.0).sum(1).clip(1.0)
    mean = xp.where(allowed, some, 0.0).sum(1) / count
    squares = xp.where(allowed, some - mean[:, None], 0.0) ** 2
    sums = group.sum(xp.stack(((squares.sum(1) / count).sum(), xp.ones_like(count).sum())))
    return math.sqrt(float(sums[0] / sums[1]))


def explain_bad_row(problem: Problem, group: Group, row: int) -> ValueError:
    """The error for the first row that cannot be labelled; the process that holds it tells all."""
    at = row - problem.first
    here = 0 <= at < problem.logits.shape[0]
    return ValueError(group.hear(_what_is_bad(problem, at, row) if here else None))


def _what_is_bad(problem: Problem, at: int, row: int) -> str:
    values = float64(problem.logits[at], problem.b)
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


def explain_empty_column(column: int) -> ValueError:
    """The error for a cluster that no sample may join."""
    return ValueError(
        f"column {column} of logits is -inf for every sample (with a > 0), so cluster {column} "
        f"can receive nothing although b[{column}] > 0; set b[{column}] = 0 or drop the column"
    )


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
    return normalised(vector, name, float(vector.sum()), tolerance=given)


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


def normalised(
    vector: Array, name: str, total: float, over: str = "", tolerance: float = 0.0
) -> Array:
    """A vector of masses over their `total`, which must be about 1."""
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


def _summary(given: object, vector: Array) -> str | None:
    """What tells a vector from others; None where it is the default."""
    if given is None:
        return None
    values = (vector.cpu() if is_torch(vector) else vector).tolist()
    digest = hashlib.sha256(repr(values).encode()).hexdigest()
    return f"a vector of digest {digest[:8]}"


def _check_integer(value: int, name: str, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


def _check_number(value: float, name: str, *, positive: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = float(value)
    least = sys.float_info.min if positive else 0.0  # the inverse of a denormal is infinite
    if not math.isfinite(number) or number < least:
        raise ValueError(f"{name} must be finite and {'>' if positive else '>='} 0, got {value}")
    return number
