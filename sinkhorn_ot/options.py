"""What the caller asked for: checked, and in a group of processes agreed upon."""

from __future__ import annotations

import functools
import hashlib
import math
import numbers
import sys
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sinkhorn_ot.arrays import (
    Array,
    check_marginal,
    check_masses,
    check_matrix,
    check_potential,
    dtype_name,
    exact_parts,
    is_torch,
    may_look,
    namespace,
    normalised,
    on_host,
)
from sinkhorn_ot.backends import BACKENDS, Backend
from sinkhorn_ot.problem import Problem
from sinkhorn_ot.sharding import Peers, Shard, Told
from sinkhorn_ot.solvers.model import room_for_entries
from sinkhorn_ot.solvers.watch import Callback

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

METHODS = ("auto", "sinkhorn", "newton")


@dataclass(frozen=True)
class Options:
    """What the caller asked for, unchecked."""

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
    head: int | None = None  # of a stack or an iterator


@dataclass(frozen=True)
class Checked:
    """The same, checked; of the rows that this process holds."""

    logits: Array
    a: Array | None
    b: Array
    g: Array
    epsilon: float
    tol: float
    max_iter: int
    method: str
    memory_limit: int | None
    backend: Backend

    def problem(self, shard: Shard) -> Problem:
        """Return what the solver works from."""
        return Problem(self.logits, self.a, self.b, self.epsilon, shard)


def check(logits: Array, options: Options) -> Checked:
    """Check what one process was asked; in a group `a` need not sum to 1 yet."""
    shared = options.process_group is not None
    logits = check_matrix(logits, may_be_empty=shared)
    epsilon = _check_number(options.epsilon, "epsilon", positive=True)
    tol = _check_number(options.tol, "tol", positive=False)
    max_iter = _check_integer(options.max_iter, "max_iter", least=1)
    limit = options.memory_limit
    if limit is not None:
        limit = _check_integer(limit, "memory_limit", least=0)
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
        a = (check_masses if shared else check_marginal)(a, "a", n, logits)
    g = check_potential(options.g_init, k, logits, b)
    backend = _choose_backend(options.backend, logits)
    return Checked(logits, a, b, g, epsilon, tol, max_iter, method, limit, backend)


def agreed(peers: Peers, logits: Array, options: Options) -> tuple[Checked, Shard]:
    """Check what all processes were asked, and that it is one thing."""

    def tell(mine: Checked) -> Told:
        same = {
            "the number of columns of logits": mine.logits.shape[1],
            "the dtype of logits": dtype_name(mine.logits),
            "the library of logits": namespace(mine.logits).__name__,
            "the kind of device of logits": "cpu" if on_host(mine.logits) else "cuda",
            "whether there is an a": mine.a is not None,
            "b": _summary(options.b, mine.b),
            "g_init": _summary(options.g_init, mine.g),
            "epsilon": mine.epsilon,
            "tol": mine.tol,
            "max_iter": mine.max_iter,
            "method": mine.method,
            "memory_limit": mine.memory_limit,
            "backend": mine.backend.name,
        }
        total = None if mine.a is None else exact_parts(mine.a, 2.0).tolist()
        return same, (mine.logits.shape[0], total, options.callback is not None)

    checked, everyone = peers.agree(lambda: check(logits, options), tell)
    counts, masses, asking = zip(*everyone, strict=True)
    if not any(counts):
        raise ValueError(
            f"logits need at least one sample, but all {len(counts)} processes of the group have "
            f"shape {tuple(checked.logits.shape)}"
        )
    if checked.a is not None:
        a = normalised(checked.a, "a", np.sum(masses, 0), over=" over all processes")
        checked = replace(checked, a=a)
    return checked, Shard(counts, peers, asks=any(asking))


def words_to_keep(checked: Checked, problem: Problem) -> int:
    """Return how many words kept entries may take; 0 for textbook steps alone."""
    method, limit, (_, k) = checked.method, checked.memory_limit, checked.logits.shape
    if method == "sinkhorn" or (method == "auto" and checked.tol == 0):
        return 0
    needs = checked.backend.needs(checked.logits, problem.n)
    words = room_for_entries(checked.logits, problem.n, limit, needs)
    words = problem.shard.min(words)  # GPUs of several kinds have room for other numbers of blocks
    if method == "newton" and not words:
        raise ValueError(
            f"method='newton' has no room to keep entries of logits of shape ({problem.n}, {k}) in "
            f"memory_limit={limit}; raise it, or pass method='auto' to take textbook steps then"
        )
    return words


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


def _choose_backend(name: str, logits: Array) -> Backend:
    if name == "auto":
        return _first_usable(logits)
    for backend in BACKENDS:
        if backend.name == name:
            reason = backend.why_not(logits)
            if reason:
                raise ValueError(f"backend {name!r} cannot run here: {reason}")
            return backend
    known = ", ".join(["auto", *(backend.name for backend in BACKENDS)])
    raise ValueError(f"backend must be one of {known}, got {name!r}")


def _first_usable(logits: Array) -> Backend:
    device = logits.device.type if is_torch(logits) else "cpu"
    able = [backend for backend in BACKENDS if device in backend.devices]
    backend = next(backend for backend in able if backend.why_not(logits) is None)
    if backend.name == "reference":
        _warn_slow("; ".join(f"{other.name}: {other.why_not(logits)}" for other in able[:-1]))
    return backend


@functools.cache
def _warn_slow(reasons: str) -> None:
    """Say once that the slow backend runs, and why."""
    warnings.warn(
        f"sinkhorn_ot uses its slow float64 reference backend ({reasons})",
        RuntimeWarning,
        stacklevel=5,
    )
