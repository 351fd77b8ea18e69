"""The public functions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict, TypeVar, Unpack, overload

import numpy as np

from sinkhorn_ot import backends
from sinkhorn_ot.arrays import Array, check_matrix, is_torch, place_of
from sinkhorn_ot.entropic.checks import Callback, Options
from sinkhorn_ot.entropic.codes import check_codes, solve_codes
from sinkhorn_ot.entropic.heads import labels_of, results_of
from sinkhorn_ot.entropic.result import SinkhornResult
from sinkhorn_ot.exact.balanced import exact_labels

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch.distributed import ProcessGroup

    OneArray = TypeVar("OneArray", NDArray[Any], torch.Tensor)

#: What other packages call our keywords.
ELSEWHERE = {
    **dict.fromkeys(("reg", "eps", "blur"), "epsilon"),
    **dict.fromkeys(("lam", "lamb", "lambd"), "epsilon = 1 / lambda"),
    **dict.fromkeys(("numItermax", "max_iters", "n_iter", "n_iters"), "max_iter"),
    **dict.fromkeys(("stopThr", "threshold"), "tol"),
    **dict.fromkeys(("M", "C", "cost"), "logits, which is the negative of the cost"),
    "warmstart": "g_init",
    **dict.fromkeys(("sizes", "sizes_min", "sizes_max"), "a keyword of balanced_labels"),
    **dict.fromkeys(("k", "n_clusters"), "the number of columns of logits"),
    "a": "a keyword of sinkhorn",
}


class LabelOptions(TypedDict, total=False):
    """The keywords of `equipartition_labels`."""

    rounding: str
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


class SinkhornOptions(LabelOptions, total=False):
    """The keywords of `sinkhorn`."""

    a: Array | None


# An array is typed as a matrix; of a (T, N, K) stack the functions return what they do of an
# iterator, which types cannot tell.
@overload
def sinkhorn(
    logits: Iterator[NDArray[Any]] | Iterator[torch.Tensor], **options: Unpack[SinkhornOptions]
) -> list[SinkhornResult]: ...
@overload
def sinkhorn(
    logits: NDArray[Any] | torch.Tensor, **options: Unpack[SinkhornOptions]
) -> SinkhornResult: ...
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
    **others: Any,
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
        At most this many updates of g, each one read of the matrix; samples, and reads that only
        keep entries anew, come on top.
    g_init : (K,), optional
        Potential to start from, such as `SinkhornResult.g` of a similar problem: a re-solve after
        few labels moved then costs few reads.  With it no larger epsilon is solved before the
        first step.
        (T, K) for T heads.
    method : {"auto", "sinkhorn", "newton"}
        "sinkhorn" is the textbook iteration.  "newton" keeps large entries of the rows while it
        reads them, and takes steps between Newton's and Sinkhorn's with what they tell of the
        curvature (docs/algorithm.md); it raises where there is no room for them.
        "auto" is "newton" where there is room and `tol` > 0.
    memory_limit : int, optional
        Bytes that the call may add to the input and the returned arrays; by default 0.55 of the
        input, or 67 MB (on a GPU 168 MB) if that is more; large inputs take far less.
        Kept entries take 4 or 8 bytes each and 32 a row; without room for a useful part of them
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
        same for all but for `n_passes`, which is that of the rows held here.  On the CPU the
        labels are those of one process with all rows, and g to about 1e-7, as sums of float32
        round otherwise where rows are cut ("reference": 1e-9); on a GPU every process samples and
        keeps rows of its own, and results agree within `tol`.  About 2 K numbers are reduced for
        each read and each operation on kept entries.  `memory_limit` is that of all processes
        together.
    callback : callable, optional
        Gets a `Progress` (n_passes, marginal_violation, seconds) at each iteration; a true
        return value stops the solve (of that head), in a group that of any process.  While a
        larger epsilon is solved first, the violation is that of its plan; `history` has none of
        these, and after a true value the matrix is read once more, at `epsilon`.
    **others
        There are none: a keyword of another package, such as `reg`, raises TypeError with the name
        that it has here.

    Returns
    -------
    SinkhornResult
        Labels, potentials and what the solve did; a list of them for T heads.

    Raises
    ------
    TypeError
        Unsupported array type or dtype, or NumPy and torch mixed.
    ValueError
        NaN or +inf, a row or a needed column that is -inf everywhere, wrong shapes, a marginal
        that is negative or does not sum to 1 (within 1e-6; it is then normalised), a parameter
        out of range, an unknown or unusable backend.  In a group all processes raise when one has
        an error, or when what is to be the same is not.

    Warns
    -----
    SinkhornWarning
        When `tol` was not reached; the result of the least violation seen is still returned.
        In a group every process warns: made an error, it is one in all.

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
    if others:
        _explain_keywords("sinkhorn", others)
    options = Options(
        a, b, epsilon, tol, max_iter, g_init, method, memory_limit, backend, process_group, callback
    )
    if _is_compiling():  # one graph break: there is nothing to trace in a solve
        return sys.modules["torch"].compiler.disable(results_of)(logits, options)
    return results_of(logits, options)


@overload
def equipartition_labels(
    logits: Iterator[OneArray], **options: Unpack[LabelOptions]
) -> OneArray: ...
@overload
def equipartition_labels(logits: OneArray, **options: Unpack[LabelOptions]) -> OneArray: ...
def equipartition_labels(
    logits: Array | Iterator[Array],
    *,
    rounding: str = "argmax",
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
    **others: Any,
) -> Any:
    """Balanced labels: the argmax of the entropic plan in which every cluster gets equal mass.

    ``sinkhorn(logits, ...).labels``; see `sinkhorn` for the parameters, warnings and errors.
    Masses are balanced to `tol`; class sizes are so nearly, and `SinkhornResult.counts` tells.

    Parameters
    ----------
    logits : (N, K) numpy.ndarray or torch.Tensor
        Larger is better; float64, float32, float16 or bfloat16.  Or a (T, N, K) stack, or an
        iterator of (N, K) arrays: T heads.
    rounding : {"argmax", "exact"}
        "argmax" takes the largest entry of each row of the plan: class sizes are nearly balanced,
        and a warning says where they are far from it.  "exact" gives every class floor or ceil of
        ``N * b_k`` samples and the largest sum of logits there is, by `balanced_labels`.  It uses
        `b`, `g_init`, `memory_limit` and `backend`; `epsilon`, `tol`, `max_iter` and `method` are
        checked, but change nothing; a `callback` or a `process_group` is an error.
    b, epsilon, tol, max_iter, g_init, method, memory_limit, backend, process_group, callback : any
        As in `sinkhorn`.  In a group of processes the labels are those of the rows passed here.
    **others
        There are none, as in `sinkhorn`.

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
    if others:
        _explain_keywords("equipartition_labels", others)
    if rounding not in ("argmax", "exact"):
        raise ValueError(f"rounding must be 'argmax' or 'exact', got {rounding!r}")
    options = Options(
        None, b, epsilon, tol, max_iter, g_init, method, memory_limit, backend, process_group,
        callback,
    )  # fmt: skip
    if not _is_compiling():
        return (labels_of if rounding == "argmax" else exact_labels)(logits, options)
    for name, value in {"callback": callback, "process group": process_group}.items():
        if value is not None:
            raise TypeError(f"a compiled graph has no place for a {name}; call it outside")
    from sinkhorn_ot.torch_ops import as_vector
    from sinkhorn_ot.torch_ops import equipartition_labels as operator

    b, g_init = (as_vector(v, name, logits) for name, v in (("b", b), ("g_init", g_init)))
    return operator(
        logits, b, epsilon, tol, max_iter, g_init, method, memory_limit, backend, rounding
    )


def _is_compiling() -> bool:
    """Whether `torch.compile` is at work, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.compiler.is_compiling())


def _explain_keywords(function: str, others: dict[str, Any]) -> NoReturn:
    name = next(iter(others))
    known = ELSEWHERE.get(name)
    raise TypeError(
        f"{function}() got an unexpected keyword argument {name!r}"
        + (f"; here it is {known}" if known else "; help(sinkhorn_ot.sinkhorn) lists them")
    )


def available_backends(logits: Array | None = None) -> dict[str, str]:
    """Which backends can run, here or on these logits.

    Parameters
    ----------
    logits : (N, K) or (T, N, K) array, optional
        When given, the reasons are about this input.

    Returns
    -------
    dict of str to str
        Backend name to "ok", or to the reason why it cannot run; in the order of "auto", which
        takes "cuda" and "triton" for CUDA tensors and "cpu" for the others.
    """
    if logits is None:
        return backends.available(None)
    stack = getattr(logits, "ndim", 2) == 3 and len(logits) > 0
    return backends.available(place_of(check_matrix(logits[0] if stack else logits)))


def sinkhorn_codes(
    scores: OneArray,
    epsilon: float = 0.05,
    n_iter: int = 3,
    *,
    process_group: ProcessGroup | None = None,
    n_valid: Array | int | None = None,
    out: OneArray | None = None,
) -> OneArray:
    """Soft codes of a minibatch after `n_iter` iterations, iterate for iterate as published.

    The loop of SwAV (Caron et al., NeurIPS 2020, appendix A), DINOv2 and iBOT normalises
    ``Q = exp(scores / epsilon)`` by columns and rows in turn.  All its iterates are of the form
    ``diag(v) Q diag(u)``, so only u and v are renewed here: an iteration reads the scores and
    writes nothing.  A shift of all scores by a constant changes nothing, and none is too large;
    a shift of one row does, as in the published loops.

    Parameters
    ----------
    scores : (B, K) or (batches, B, K) numpy.ndarray or torch.Tensor
        float64, float32, float16 or bfloat16; 16 bits are computed in float32.
    epsilon : float
        Temperature, above 0.
    n_iter : int
        Iterations, 1 at least.
    process_group : torch.distributed.ProcessGroup, optional
        The minibatch is spread over its processes, in parts of any size.  K numbers (of each batch)
        are summed in each iteration, and one largest score is agreed upon before.
    n_valid : int or integer array, optional
        How many of the first rows count, from 0 to B, one number or one for each batch.  Other rows
        get codes of 0.  It may be a tensor on the device, whose numbers are not looked at: above B
        they count as B.
    out : array like `scores`, optional
        Where the codes go, of the shape, dtype and device of `scores`, with any strides.  It is
        `scores` itself, which is then overwritten, or an array whose range of memory does not
        overlap with theirs.

    Returns
    -------
    array of the shape and dtype of `scores`
        Rows sum to 1.

    Raises
    ------
    TypeError, ValueError
        A dtype, shape or number that is none of these, such as more valid rows than there are; an
        `out` that is read-only or overlaps with itself or the scores; a process group this process
        is no member of.

    Notes
    -----
    Codes have no gradient: the scores are detached.  NaN in a row, or nothing but -inf, makes all
    codes of its batch NaN: to complain of it would be to wait for the device.

    Nothing waits for a device, and without a process group `torch.compile` makes one operator of
    it, for all batch sizes.  In an iteration the scores are read once on CPUs, twice on GPUs, by
    the Triton kernels once where K is at most 4096.  Where no kernels are, on other devices, these
    are operations of torch that keep a matrix like the scores.  docs/same_numbers.md shows the
    published loops beside this.

    Examples
    --------
    >>> import numpy as np
    >>> sinkhorn_codes(np.array([[1.0, 0.9], [0.8, 0.1]])).round(2)
    array([[0.17, 0.83],
           [1.  , 0.  ]])
    """
    epsilon, n_iter = check_codes(scores, epsilon, n_iter, n_valid, out)
    if is_torch(scores):
        from sinkhorn_ot.torch_ops import codes_of

        return codes_of(scores, epsilon, n_iter, n_valid, out, process_group)  # type: ignore
    codes: Any = np.empty(scores.shape, scores.dtype) if out is None else out
    solve_codes(scores, epsilon, n_iter, n_valid, codes, process_group)
    return codes  # type: ignore[no-any-return]
