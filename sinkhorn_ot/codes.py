"""The step of SwAV and DINOv2: soft codes of a minibatch by a few iterations of Sinkhorn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sinkhorn_ot.arrays import DTYPES, Array, dtype_name, is_torch, namespace, place_of
from sinkhorn_ot.backends import minibatch_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch.distributed import ProcessGroup

    OneArray = TypeVar("OneArray", NDArray[Any], torch.Tensor)


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
        How many of the first rows count, one number or one for each batch; it may be a tensor on
        the device.  Other rows get codes of 0.
    out : array like `scores`, optional
        Where the codes go.

    Returns
    -------
    array of the shape and dtype of `scores`
        Rows sum to 1.

    Raises
    ------
    TypeError, ValueError
        A dtype, shape or number that is none of these.

    Notes
    -----
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
    _check(scores, epsilon, n_iter, n_valid, out)
    return _codes(scores, epsilon, n_iter, n_valid, out, process_group)  # type: ignore[no-any-return]


def _codes(
    scores: Array,
    epsilon: float,
    n_iter: int,
    n_valid: Array | int | None,
    out: Array | None,
    process_group: ProcessGroup | None,
) -> Array:
    """The same for either library."""
    if is_torch(scores):
        from sinkhorn_ot.torch_ops import codes_of

        return codes_of(scores, epsilon, n_iter, n_valid, out, process_group)
    codes = np.empty(scores.shape, scores.dtype) if out is None else out
    solve_codes(scores, epsilon, n_iter, n_valid, codes, process_group)
    return codes


def solve_codes(
    scores: Array,
    epsilon: float,
    n_iter: int,
    n_valid: Array | int | None,
    out: Array,
    process_group: ProcessGroup | None = None,
) -> None:
    """Write the codes of scores that were checked."""
    if is_torch(scores):
        scores = scores.resolve_neg()
    if scores.ndim == 2:
        scores, out = scores[None], out[None]
    if n_valid is not None:
        n_valid = namespace(scores).broadcast_to(n_valid, scores.shape[:1])
    step = minibatch_of(place_of(scores))(scores, epsilon, n_valid)
    masses, largest = step.first()
    if process_group is not None:
        _refer_to_largest(masses, largest, epsilon, process_group)
    for turn in range(n_iter):
        if turn:
            masses = step.next(masses)
        if process_group is not None:
            _reduce(masses, "SUM", process_group)
    step.last(masses, out)


def _refer_to_largest(
    masses: Array, largest: Array, epsilon: float, process_group: ProcessGroup
) -> None:
    """Make the first masses what they are relative to the largest score of all processes."""
    import torch

    here = torch.as_tensor(largest)
    agreed = here.clone()
    _reduce(agreed, "MAX", process_group)
    scale = torch.where(here == agreed, 1.0, torch.exp((here - agreed) / epsilon))
    torch.as_tensor(masses).mul_(scale[:, None])


def _reduce(x: Array, how: str, process_group: ProcessGroup) -> None:
    """Put the sum or maximum over processes in the place of x."""
    import torch
    from torch import distributed

    of = getattr(distributed.ReduceOp, how)
    distributed.all_reduce(torch.as_tensor(x), of, group=process_group)


def _check(
    scores: Array, epsilon: float, n_iter: int, n_valid: Array | int | None, out: Array | None
) -> None:
    if not hasattr(scores, "dtype") or not hasattr(scores, "ndim"):
        raise TypeError(
            f"scores must be a numpy.ndarray or a torch.Tensor, got {type(scores).__name__}"
        )
    if is_torch(scores) and scores.is_sparse:
        raise TypeError(f"scores is a {scores.layout} tensor; pass scores.to_dense()")
    if dtype_name(scores) not in DTYPES:
        raise TypeError(f"scores must be floating point numbers, got {dtype_name(scores)}")
    if scores.ndim not in (2, 3) or 0 in tuple(scores.shape)[-1:]:
        raise ValueError(
            f"scores must be (B, K) or (batches, B, K), with K >= 1, got {tuple(scores.shape)}"
        )
    if not 0 < epsilon < float("inf"):
        raise ValueError(f"epsilon must be finite and > 0, got {epsilon}")
    if isinstance(n_iter, bool) or not isinstance(n_iter, int) or n_iter < 1:
        raise ValueError(f"n_iter must be an integer >= 1, got {n_iter!r}")
    if n_valid is not None:
        _check_count(n_valid, scores)
    if out is None:
        return
    if out.shape != scores.shape or out.dtype != scores.dtype:
        raise ValueError(
            f"out must be like scores, {tuple(scores.shape)} of {dtype_name(scores)}, got "
            f"{tuple(out.shape)} of {dtype_name(out)}"
        )
    if is_torch(scores) and out.device != scores.device:
        raise ValueError(f"out is on {out.device}, scores are on {scores.device}")


def _check_count(n_valid: Array | int, scores: Array) -> None:
    shape = tuple(getattr(n_valid, "shape", ()))
    batches = tuple(scores.shape[:-2])
    if shape not in ((), batches or (1,)):
        raise ValueError(
            f"n_valid must be one number, or one for each of the {math.prod(batches)} batches, got "
            f"shape {shape}"
        )
    kind = dtype_name(n_valid) if hasattr(n_valid, "dtype") else type(n_valid).__name__
    if not kind.startswith(("int", "uint")):
        raise TypeError(f"n_valid must be an integer or integers, got {kind}")
