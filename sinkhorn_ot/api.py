"""The public functions: check the input, choose a backend, solve, say how it went."""

from __future__ import annotations

import functools
import math
import numbers
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sinkhorn_ot.arrays import (
    Array,
    BadRow,
    EmptyColumn,
    Problem,
    check_marginal,
    check_matrix,
    check_potential,
    check_vector,
    digest,
    dtype_name,
    explain_bad_row,
    explain_empty_column,
    float64,
    heads_of,
    is_torch,
    may_look,
    namespace,
)
from sinkhorn_ot.backends import BACKENDS, Backend, Passes
from sinkhorn_ot.result import SinkhornResult, SinkhornWarning
from sinkhorn_ot.sharding import Description, Shard, ShardedPasses, meet
from sinkhorn_ot.sketching import sketch_words
from sinkhorn_ot.solver import Callback, solve

METHODS = ("auto", "sinkhorn", "newton")


def sinkhorn(
    logits: Array | Iterator[Array],
    *,
    a: Array | None = None,
    b: Array | None = None,
    epsilon: float = 0.04,
    tol: float = 1e-3,
    max_iter: int = 1000,
    g_init: Array | None = None,
    method: str = "auto",
    memory_limit: int | None = None,
    backend: str = "auto",
    process_group: Any = None,
    callback: Callback | None = None,
) -> Any:
    """Entropic optimal transport of N samples to K clusters of given masses.

    Maximises ``<P, logits> + epsilon * H(P)`` over plans P >= 0 with row sums `a` and column sums
    `b`.  With the defaults this is SeLa's equipartition (Asano et al., ICLR 2020, eq. 6), where
    lambda = 1 / epsilon; in the terms of optimal transport, cost = -logits and reg = epsilon
    (Cuturi, NeurIPS 2013).

    Parameters
    ----------
    logits : (N, K) numpy.ndarray or torch.Tensor
        float64, float32, float16 or bfloat16, larger is better; log-probabilities are the same
        input.  -inf forbids a pairing.  Any strides; read in place and never changed (only a buffer
        that is not aligned to its dtype is copied).  A (T, N, K) stack, or an iterator of (N, K)
        arrays, is solved head by head; of an iterator one head is in memory at a time.
    a : (N,), optional
        Mass of each sample; 1 / N each by default.
    b : (K,), optional
        Mass of each cluster; 1 / K each by default.  0 leaves a cluster unused.
    epsilon : float
        Weight of the entropy, in units of the logits.
    tol : float
        Stop when ``||column masses - b||_1 <= tol``.  0 runs exactly `max_iter` textbook iterations
        (or those of the `method` that is named), in float64, without a warning.
    max_iter : int
        At most this many updates of g, each one read of the matrix.
    g_init : (K,), optional
        Potential to start from, such as `SinkhornResult.g` of a similar problem: a re-solve after
        few labels moved then costs two to four reads.  (T, K) for T heads.
    method : {"auto", "sinkhorn", "newton"}
        "sinkhorn" is the textbook iteration.  "newton" solves a small sketch of the matrix between
        two reads, and takes textbook steps whenever that does not lower the violation; it raises
        where there is no room for a sketch.
        "auto" is "newton" where there is room for a sketch and `tol` > 0.
    memory_limit : int, optional
        Bytes that the call may add to the input and the returned arrays; by default 0.55 of the
        input, or 1 MB if that is more (of large inputs it takes about 0.05).  A sketch takes 4
        or 8 bytes an entry and 12 a row; without room for a useful one the original rows are all
        there is, as with ``method="sinkhorn"``, which adds about 2 KB for each cluster.  On a GPU
        it is 48 bytes an entry and 64 a row, and rows of more than 4096 entries have no sketch.
    backend : {"auto", "cuda", "triton", "cpu", "reference"}
        "auto" takes the first of `available_backends` that can run on the device of the logits.
        A named one runs or raises.
    process_group : torch.distributed.ProcessGroup, optional
        Each process of the group passes its rows (and its part of `a`), in the order of ranks, as
        many as it has, or none: (0, K).  All else must be the same.  Each gets labels and f of its
        rows, and the same g.  With NumPy arrays and CPU tensors the group needs gloo, and labels
        and g are those of one process with all the rows, but for rounding; on GPUs samples and
        sketches differ, and so g within `tol`.  `memory_limit` is for each process; only rank 0
        warns.  One all-reduce of about K numbers a read.
    callback : callable, optional
        Gets a `Progress` (n_passes, marginal_violation, seconds) at each iteration; a true
        return value stops the solve (of that head), from any process of a group.

    Returns
    -------
    SinkhornResult
        Labels, potentials and what the solve did; a list of them for T heads.

    Warns
    -----
    SinkhornWarning
        When `tol` was not reached; the result of the least violation seen is still returned.

    Raises
    ------
    TypeError
        Unsupported array type or dtype, or NumPy and torch mixed.
    ValueError
        NaN or +inf, a row or a needed column that is -inf everywhere, wrong shapes, a marginal
        that is negative or does not sum to 1 (within 1e-6; it is then normalised), a parameter
        out of range, an unknown or unusable backend.

    Notes
    -----
    The violation is exact to about 1e-8, labels are the float64 argmax.  f of float32 and 16-bit
    logits comes from float32 exponentials unless `tol` is below 5e-7: rows of the plan then sum to
    `a` within about 1e-6 of it.  With float64 logits both are of float64 arithmetic.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.array([[4.0, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    >>> sinkhorn(logits).labels
    array([0, 0, 1, 1])
    """
    options = Options(
        a, b, epsilon, tol, max_iter, g_init, method, memory_limit, backend, process_group, callback
    )
    heads = heads_of(logits)
    if heads is None:
        return _solve(logits, options)
    results = []  # no comprehension: a warning is to point at the caller
    for head, one in _each_head(heads, options):
        with _naming(one.head):
            results.append(_solve(head, one))
    return results


def equipartition_labels(
    logits: Array | Iterator[Array],
    *,
    b: Array | None = None,
    epsilon: float = 0.04,
    tol: float = 1e-3,
    max_iter: int = 1000,
    g_init: Array | None = None,
    method: str = "auto",
    memory_limit: int | None = None,
    backend: str = "auto",
    process_group: Any = None,
    callback: Callback | None = None,
) -> Array:
    """Balanced labels: the argmax of the entropic plan in which every cluster gets equal mass.

    ``sinkhorn(logits, ...).labels``; see `sinkhorn` for the parameters, warnings and errors.
    Masses are balanced exactly, class sizes nearly: `SinkhornResult.counts` tells.

    Parameters
    ----------
    logits : (N, K) numpy.ndarray or torch.Tensor
        Larger is better; float64, float32, float16 or bfloat16.  Or a (T, N, K) stack, or an
        iterator of (N, K) arrays: T heads.
    b, epsilon, tol, max_iter, g_init, method, memory_limit, backend, process_group, callback
        As in `sinkhorn`.

    Returns
    -------
    (N,) int64 array, (T, N) for T heads
        In the library and on the device of the logits.

    Examples
    --------
    >>> import numpy as np
    >>> equipartition_labels(np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]))
    array([0, 0, 1, 1])
    """
    if _is_compiling():
        if callback is not None or process_group is not None:
            raise TypeError(
                "a compiled graph has no place for a callback or a process group; call it outside"
            )
        from sinkhorn_ot.torch_ops import equipartition_labels as operator

        b, g_init = (None if v is None else float64(v, logits) for v in (b, g_init))
        return operator(logits, b, epsilon, tol, max_iter, g_init, method, memory_limit, backend)
    options = Options(
        None, b, epsilon, tol, max_iter, g_init, method, memory_limit, backend, process_group,
        callback,
    )  # fmt: skip
    heads = heads_of(logits)
    if heads is None:
        return _solve(logits, options).labels
    # only the labels of a head are kept
    labels = []
    for head, one in _each_head(heads, options):
        with _naming(one.head):
            labels.append(_solve(head, one).labels)
    return namespace(labels[0]).stack(labels)


def _is_compiling() -> bool:
    """Whether `torch.compile` is at work, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.compiler.is_compiling())


def available_backends(logits: Array | None = None) -> dict[str, str]:
    """Which backends can run, here or on these logits.

    Parameters
    ----------
    logits : (N, K) array, optional
        When given, the reasons are about this input.

    Returns
    -------
    dict of str to str
        Backend name to "ok", or to the reason why it cannot run; in the order of "auto", which
        takes "cuda" and "triton" for CUDA tensors and "cpu" for the others.
    """
    if logits is not None:
        logits = check_matrix(logits)
    return {backend.name: backend.why_not(logits) or "ok" for backend in BACKENDS}


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
    process_group: Any
    callback: Callback | None
    head: int | None = None  # of a stack or an iterator


def _each_head(heads: Iterator[Array], options: Options) -> Iterator[tuple[Array, Options]]:
    """Pair each head with its options; complain of a number of heads that does not fit."""
    g_init, count = options.g_init, 0
    for count, head in enumerate(heads, start=1):
        if g_init is not None:
            if len(g_init) < count:
                raise ValueError(
                    f"g_init has {len(g_init)} rows, but there is a head {count}; pass one row of "
                    "K potentials for each head"
                )
            options = replace(options, g_init=g_init[count - 1])
        yield head, replace(options, head=count - 1)
    if count == 0:
        raise ValueError("logits hold no head: pass at least one (N, K) matrix")
    if g_init is not None and len(g_init) != count:
        raise ValueError(f"g_init has {len(g_init)} rows for {count} heads; pass one for each")


@contextmanager
def _naming(head: int | None) -> Iterator[None]:
    """Put the number of the head before the errors that it raises."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"head {head}: {error}") from error


@dataclass(frozen=True)
class Checked:
    """What can be told of a call before its rows are read; `a` and `b` are not yet normalised."""

    logits: Array
    epsilon: float
    tol: float
    max_iter: int
    memory_limit: int | None
    b: Array
    g: Array
    backend: Backend

    @classmethod
    def of(cls, logits: Array, options: Options) -> Checked:
        """Check the arguments of one process."""
        shared = options.process_group is not None
        logits = check_matrix(logits, may_be_empty=shared)
        epsilon = _check_number(options.epsilon, "epsilon", positive=True)
        tol = _check_number(options.tol, "tol", positive=False)
        max_iter = _check_integer(options.max_iter, "max_iter", least=1)
        limit, method, callback = options.memory_limit, options.method, options.callback
        if limit is not None:
            limit = _check_integer(limit, "memory_limit", least=0)
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable, got {type(callback).__name__}")
        if not may_look(logits) and (
            tol > 0 or method == "newton" or callback is not None or shared
        ):
            raise ValueError(
                "while a CUDA graph is recorded nobody can look whether the solve has converged: "
                f"pass tol=0 (got {tol:g}) with max_iter, and no method='newton', callback or "
                "process_group"
            )
        n, k = logits.shape
        b = check_marginal(options.b, "b", k, logits)
        if options.a is not None:
            check_vector(options.a, "a", n, logits)
        g = check_potential(options.g_init, k, logits, b)
        backend = _choose_backend(options.backend, logits)
        return cls(logits, epsilon, tol, max_iter, limit, b, g, backend)

    def describe(self, options: Options) -> Description:
        """Return the number of rows, and what all processes of a group must have in common."""
        common = {
            "the number of columns of logits": int(self.logits.shape[1]),
            "the dtype of logits": dtype_name(self.logits),
            "epsilon": self.epsilon,
            "tol": self.tol,
            "max_iter": self.max_iter,
            "method": options.method,
            "memory_limit": self.memory_limit,
            "the backend": self.backend.name,
            "whether a is given": options.a is not None,
            "whether g_init is given": options.g_init is not None,
            "the sum of b * index": digest(self.b),
            "the sum of g_init * index": digest(self.g),
        }
        return int(self.logits.shape[0]), common


def _solve(logits: Array, options: Options) -> SinkhornResult:
    if options.process_group is None:
        return _solve_checked(Checked.of(logits, options), options, None)
    seen: list[Checked] = []

    def describe() -> Description:
        seen.append(Checked.of(logits, options))
        return seen[0].describe(options)

    shard = meet(options.process_group, describe, options.callback is not None)
    if shard.watched:
        mine = options.callback
        options = replace(options, callback=lambda p: shard.any(bool(mine is not None and mine(p))))
    return _solve_checked(seen[0], options, shard)


def _solve_checked(checked: Checked, options: Options, shard: Shard | None) -> SinkhornResult:
    logits, epsilon, tol, b = checked.logits, checked.epsilon, checked.tol, checked.b
    n, k = logits.shape
    a = options.a
    if a is not None:
        a = check_marginal(a, "a", n, logits, shard=shard)
    problem = Problem(logits=logits, a=a, b=b, epsilon=epsilon, shard=shard)
    backend, method = checked.backend, options.method
    accelerated = method == "newton" or (method == "auto" and tol > 0)
    words = 0
    if accelerated:
        needs = backend.needs(logits, problem.rows)
        words = sketch_words(logits, problem.rows, checked.memory_limit, needs)
    if method == "newton" and not words:
        raise ValueError(
            f"method='newton' has no room for a sketch of logits of shape ({problem.rows}, {k}) in "
            f"memory_limit={checked.memory_limit}; raise it, or pass method='auto' to take "
            "textbook steps then"
        )
    passes: Passes
    passes = backend.passes(problem) if shard is None else ShardedPasses(problem, backend)
    try:
        result, stopped = solve(
            problem,
            passes,
            checked.g,
            tol=tol,
            max_iter=checked.max_iter,
            sketch_words=words,
            warm=options.g_init is not None,
            callback=options.callback,
            backend=backend.name,
        )
    except BadRow as error:
        raise explain_bad_row(problem, error.row) from None
    except EmptyColumn as error:
        raise explain_empty_column(error.column) from None
    speaks = shard is None or shard.rank == 0
    if tol > 0 and not result.converged and not stopped and speaks:
        where = "" if options.head is None else f" (head {options.head})"
        warnings.warn(
            f"sinkhorn{where} stopped after {result.n_iter} iterations with marginal_violation "
            f"{result.marginal_violation:.3g} > tol {tol:.3g}: raise max_iter or epsilon "
            f"(now {epsilon:g}), or accept a larger tol; if it no longer falls, the -inf entries "
            "may leave no feasible plan. The best result so far is returned.",
            SinkhornWarning,
            stacklevel=4,
        )
    return result


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
        stacklevel=6,
    )
