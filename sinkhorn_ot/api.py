"""The public functions: check the input, choose a backend, solve, say how it went."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sinkhorn_ot.arrays import (
    Array,
    BadRow,
    EmptyColumn,
    check_matrix,
    float64,
    heads_of,
    may_look,
    namespace,
)
from sinkhorn_ot.backends import BACKENDS
from sinkhorn_ot.options import Checked, Options, agreed, check, words_to_keep
from sinkhorn_ot.problem import Problem, explain_bad_row, explain_empty_column
from sinkhorn_ot.result import SinkhornResult, SinkhornWarning
from sinkhorn_ot.sharding import Peers, Shard, Told
from sinkhorn_ot.solvers import annealing, newton, textbook
from sinkhorn_ot.solvers.watch import Callback, Watch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


#: Reads after which a violation that has not fallen is not expected to fall any more.
RECENT = 15


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
    process_group: ProcessGroup | None = None,
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
        Weight of the entropy, in units of the logits.  What counts is how far the logits of a row
        spread over it: at 1 epsilon labels hardly follow the logits, at 2 to 50 most methods work
        (SeLa's 0.04 is meant for log-probabilities), beyond 400 the plan is nearly that of the
        unregularised problem, and larger epsilons are solved first to get there.
    tol : float
        Stop when ``||column masses - b||_1 <= tol``.  0 runs exactly `max_iter` textbook iterations
        (or those of the `method` that is named), in float64, without a warning.
    max_iter : int
        At most this many updates of g, each one read of the matrix.
    g_init : (K,), optional
        Potential to start from, such as `SinkhornResult.g` of a similar problem: a re-solve after
        few labels moved then costs two to four reads.  With it no larger epsilon is solved first.
        (T, K) for T heads.
    method : {"auto", "sinkhorn", "newton"}
        "sinkhorn" is the textbook iteration.  "newton" keeps large entries of the rows while it
        reads them, and takes steps between Newton's and Sinkhorn's with what they tell of the
        curvature (docs/algorithm.md); it raises where there is no room for them.
        "auto" is "newton" where there is room and `tol` > 0.
    memory_limit : int, optional
        Bytes that the call may add to the input and the returned arrays; by default 0.55 of the
        input, or 67 MB (on a GPU 168 MB) if that is more; of large inputs it takes about 0.05.
        Kept entries take 4 or 8 bytes each and 24 a row; without room for a useful part of them
        the original rows are all there is, as with ``method="sinkhorn"``, which adds about 2 KB
        for each cluster.  On a GPU it is 48 bytes an entry and 84 a row (for each chunk of long
        rows).
    backend : {"auto", "cuda", "triton", "cpu", "reference"}
        "auto" takes the first of `available_backends` that can run on the device of the logits.
        A named one runs or raises.
    process_group : torch.distributed.ProcessGroup, optional
        Solve one problem whose rows lie in several processes.  Each of them calls this with its
        own rows, in the order of the ranks, and their part of `a`; shards may be of any size and
        some of them empty, (0, K).  Everything else is to be the same in all processes.  Each
        gets the labels and f of its own rows (so ``counts`` is of these), and all else is the
        same for all.  Backend "cpu" gives the bits that one process with all rows gets,
        "reference" the same up to rounding; on a GPU every process keeps entries of its own rows,
        and results agree within `tol`.  About 2 K numbers are reduced for each read and each
        operation on kept entries.  `memory_limit` is then that of all processes together; besides,
        each on the CPU holds a copy of up to 1/128 of all rows (or 256 of them).
    callback : callable, optional
        Gets a `Progress` (n_passes, marginal_violation, seconds) at each iteration; a true
        return value stops the solve (of that head), in a group that of any process.  While a
        larger epsilon is solved first, the violation is that of its plan; `history` has none of
        these, and after a true value the matrix is read once more, at `epsilon`.

    Returns
    -------
    SinkhornResult
        Labels, potentials and what the solve did; a list of them for T heads.

    Warns
    -----
    SinkhornWarning
        When `tol` was not reached; the result of the least violation seen is still returned.
        In a group every process warns: made an error, it is one in all.

    Raises
    ------
    TypeError
        Unsupported array type or dtype, or NumPy and torch mixed.
    ValueError
        NaN or +inf, a row or a needed column that is -inf everywhere, wrong shapes, a marginal
        that is negative or does not sum to 1 (within 1e-6; it is then normalised), a parameter
        out of range, an unknown or unusable backend.  In a group all processes raise when one has
        an error, or when what is to be the same is not.

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
    if _is_compiling():  # one graph break: there is nothing to trace in a solve
        outside = sys.modules["torch"].compiler.disable(sinkhorn)
        return outside(
            logits, a=a, b=b, epsilon=epsilon, tol=tol, max_iter=max_iter, g_init=g_init,
            method=method, memory_limit=memory_limit, backend=backend,
            process_group=process_group, callback=callback,
        )  # fmt: skip
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
    process_group: ProcessGroup | None = None,
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
        As in `sinkhorn`.  In a group of processes the labels are those of the rows passed here.

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
        if callback is not None:
            raise TypeError("a compiled graph has no place for a callback; call it outside")
        if process_group is not None:
            raise TypeError("a compiled graph has no place for a process group; call it outside")
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


def _each_head(heads: Iterator[Array], options: Options) -> Iterator[tuple[Array, Options]]:
    """Pair each head with its options, in all processes of a group alike."""
    each = _with_options(heads, options)
    peers = _peers(options)
    if peers is None:
        yield from each
        return

    def another(pair: tuple[Array, Options] | None) -> Told:
        return {"whether logits hold another head": pair is not None}, None

    while True:
        pair, _ = peers.agree(lambda: next(each, None), another)
        if pair is None:
            return
        yield pair


def _with_options(heads: Iterator[Array], options: Options) -> Iterator[tuple[Array, Options]]:
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
    except Exception as error:
        if type(error) in (TypeError, ValueError):
            raise type(error)(f"head {head}: {error}") from error
        error.add_note(f"This was raised while head {head} was solved.")
        raise


def _peers(options: Options) -> Peers | None:
    return None if options.process_group is None else Peers(options.process_group)


def _solve(logits: Array, options: Options) -> SinkhornResult:
    peers = _peers(options)
    if peers is None:
        checked = check(logits, options)
        shard = Shard((checked.logits.shape[0],))
    else:
        if not may_look(logits):
            raise ValueError("a CUDA graph has no place for a process group")
        checked, shard = agreed(peers, logits, options)
    problem = checked.problem(shard)
    try:
        result, stopped = _iterate(problem, checked, options)
    except BadRow as error:
        raise explain_bad_row(problem, error.row) from None
    except EmptyColumn as error:
        raise explain_empty_column(error.column) from None
    if checked.tol > 0 and not result.converged and not stopped:
        where = "" if options.head is None else f" (head {options.head})"
        warnings.warn(
            f"sinkhorn{where} stopped after {result.n_iter} iterations with marginal_violation "
            f"{result.marginal_violation:.3g} > tol {checked.tol:.3g}: {_advice(result, checked)}. "
            "The best result so far is returned.",
            SinkhornWarning,
            stacklevel=3,
        )
    return result


def _advice(result: SinkhornResult, checked: Checked) -> str:
    """Return what helps a solve that has not ended: more steps, if those it had still helped."""
    recent = [entry.marginal_violation for entry in result.history[-RECENT:]]
    if len(recent) == RECENT and min(recent) > 0.99 * recent[0]:
        return (
            f"it has fallen by less than 1% in the last {RECENT} reads, so more of them will not "
            "help: -inf entries may leave no feasible plan"
        )
    return f"raise max_iter (now {checked.max_iter})"


def _iterate(problem: Problem, checked: Checked, options: Options) -> tuple[SinkhornResult, bool]:
    """Solve; the flag says whether the callback stopped it."""
    backend, words, tol = checked.backend, words_to_keep(checked, problem), checked.tol
    g, left, spent, start = checked.g, checked.max_iter, 0.0, time.perf_counter()
    warm, stopped = options.g_init is not None, False
    for epsilon in annealing.levels(problem) if words and not warm else ():
        level = replace(problem, epsilon=epsilon)
        watch = Watch(
            level, backend.passes(level), max(tol, annealing.LEVEL_TOL), options.callback,
            labels=False, spent=spent, start=start,
        )  # fmt: skip
        end, n_iter = newton.solve(watch, g, max_iter=left, words=words, warm=warm)
        g, left, spent, warm, stopped = end.g, left - n_iter, watch.reads, True, watch.stopped
        if stopped:
            left = 0
            break
    watch = Watch(
        problem, backend.passes(problem), tol, options.callback, spent=spent, start=start
    )  # fmt: skip
    if words:
        end, n_iter = newton.solve(watch, g, max_iter=left, words=words, warm=warm)
    else:
        end, n_iter = textbook.solve(watch, g, max_iter=left)
    result = watch.result(end, checked.max_iter - left + n_iter, backend.name)
    return result, stopped or watch.stopped
