"""What the caller asked for, checked once: a `Problem` and `Settings`, or an error.

In a group of processes all raise it.
"""

from __future__ import annotations

import hashlib
import math
import numbers
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sinkhorn_ot import backends
from sinkhorn_ot.arrays import (
    Array,
    check_marginal,
    check_masses,
    check_matrix,
    check_potential,
    dtype_name,
    is_torch,
    normalised,
    place_of,
    rounding_of,
)
from sinkhorn_ot.group import Group, Told
from sinkhorn_ot.passes import SETS, Needs, Problem, Progress, Settings

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

METHODS = ("auto", "sinkhorn", "newton")
#: The inverse of a smaller number, a denormal, is infinite.  (The compiler of torch 2.6 can read
#: this, but nothing of `sys.float_info`.)
LEAST_POSITIVE = sys.float_info.min
#: Of the bytes of the input, what a solve may add by default.
DEFAULT_LIMIT = 0.55
#: Words of kept entries that pay: of the entries of the matrix one of so many; for each number of
#: the Hessian so many, within bounds. More cost more time than the steps become better.
ONE_OF, A_PAIR, FEW_WORDS, MANY_WORDS = 8, 20, 1 << 22, 1 << 25

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
    if options.method == "newton" and not words:
        raise ValueError(
            f"method='newton' has no room to keep entries of logits of shape ({problem.n}, "
            f"{len(problem.b)}) in memory_limit={options.memory_limit}; raise it, or pass "
            "method='auto' to take textbook steps then"
        )
    asks = (lambda info: group.asks(callback, info)) if asking else None
    return problem, replace(settings, words=words, asks=asks)


def _agreed(logits: Array, options: Options, group: Group) -> tuple[Problem, Settings, bool]:
    """Check in all processes; the flag says whether any of them has a callback."""
    if not place_of(logits).may_look:
        raise ValueError("a CUDA graph has no place for a process group")

    def tell(mine: tuple[Problem, Settings]) -> Told:
        problem, settings = mine
        place = place_of(problem.b)
        same = {
            "the number of columns of logits": problem.logits.shape[1],
            "the dtype of logits": dtype_name(problem.logits),
            "the library of logits": place.xp.__name__,
            "the kind of device of logits": place.kind,
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
        rounding = rounding_of(options.a)
        return same, (problem.logits.shape[0], mass, rounding, options.callback is not None)

    (problem, settings), everyone = group.agree(
        lambda: _check_here(logits, options, alone=False), tell
    )
    counts, masses, roundings, asking = zip(*everyone, strict=True)
    if not any(counts):
        raise ValueError(
            f"logits need at least one sample, but all {len(counts)} processes of the group have "
            f"shape {tuple(problem.logits.shape)}"
        )
    a = problem.a
    if a is not None:
        total = math.fsum(masses)
        a = normalised(a, "a", total, " over all processes", max(roundings))
    first = sum(counts[: group.rank])
    return replace(problem, a=a, total=sum(counts), first=first), settings, any(asking)


def _check_here(logits: Array, options: Options, *, alone: bool) -> tuple[Problem, Settings]:
    """Check what this process was passed; what depends on the others is left open."""
    logits = check_matrix(logits, may_be_empty=not alone)
    place = place_of(logits)
    epsilon = check_number(options.epsilon, "epsilon", positive=True)
    tol = check_number(options.tol, "tol", positive=False)
    max_iter = check_integer(options.max_iter, "max_iter", least=1)
    if options.memory_limit is not None:
        check_integer(options.memory_limit, "memory_limit", least=0)
    method, callback = options.method, options.callback
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {type(callback).__name__}")
    if not place.may_look and (tol > 0 or method == "newton" or callback is not None):
        raise ValueError(
            "while a CUDA graph is recorded nobody can look whether the solve has converged: pass "
            f"tol=0 (got {tol:g}) with max_iter, and neither method='newton' nor a callback"
        )
    n, k = logits.shape
    b = check_marginal(options.b, "b", k, place)
    a = options.a
    if a is not None:
        a = (check_marginal if alone else check_masses)(a, "a", n, place)
    g = check_potential(options.g_init, b, place)
    backend = backends.named(options.backend, place)
    slow = None
    if options.backend == "auto" and backend.name == "reference":
        *faster, _ = backends.able(place)
        slow = "; ".join(f"{other.name}: {other.why_not(place)}" for other in faster)
    warm = options.g_init is not None
    settings = Settings(g, warm, tol, max_iter, backend, slow=slow)
    return Problem(logits, a, b, epsilon), settings


def _words_to_keep(problem: Problem, settings: Settings, options: Options) -> int:
    if options.method == "sinkhorn" or (options.method == "auto" and settings.tol == 0):
        return 0
    needs = settings.backend.needs(problem.logits, problem.n)
    return room_for_entries(problem.logits, problem.n, options.memory_limit, needs)


def room_for_entries(logits: Array, n: int, memory_limit: int | None, needs: Needs) -> int:
    """How many words of 4 bytes kept entries may take; 0 when there is no room for useful ones.

    Of all `n` rows, whichever of them are held here.
    """
    entries = n * logits.shape[1]
    default = max(int(DEFAULT_LIMIT * entries * logits.itemsize), needs.always)
    limit = default if memory_limit is None else memory_limit
    # the allocator's pages and the threads' stacks are within the limit too
    room = int(0.95 * limit - needs.besides - (SETS - 1) * needs.held) // 4
    pay = min(max(A_PAIR * logits.shape[1] ** 2, FEW_WORDS), MANY_WORDS)
    wanted = max(min(entries // ONE_OF, pay), needs.small, SETS * needs.least)
    words = min(room, wanted, SETS * needs.everything)
    return words if words >= SETS * min(needs.least, needs.everything) else 0


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
    least = LEAST_POSITIVE if positive else 0.0
    if not least <= number < math.inf:
        raise ValueError(f"{name} must be finite and {'>' if positive else '>='} 0, got {value}")
    return number


def _summary(given: object, vector: Array) -> str | None:
    """What tells a vector from others; None where it is the default."""
    if given is None:
        return None
    values = (vector.cpu() if is_torch(vector) else vector).tolist()
    digest = hashlib.sha256(repr(values).encode()).hexdigest()
    return f"a vector of digest {digest[:8]}"
