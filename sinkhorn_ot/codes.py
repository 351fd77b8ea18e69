"""The step of SwAV and DINOv2: soft codes of a minibatch by a few iterations of Sinkhorn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from sinkhorn_ot.arrays import Array, cast_like, dtype_name, is_torch, namespace

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch.distributed import ProcessGroup

    OneArray = TypeVar("OneArray", NDArray[Any], torch.Tensor)

#: Sums of nothing (clusters no row belongs to, rows that do not count) are divided by as this: what
#: is multiplied by the inverse is 0.
TINY = 1e-37


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
    ``Q = exp(scores / epsilon).T`` by rows and columns in turn.  All its iterates are of the form
    ``diag(u) Q diag(v)``, so only u and v are renewed here: each iteration reads the matrix twice
    and writes nothing.  A shift of all scores by a constant changes nothing, and none is too large;
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
    Nothing waits for a device, and without a process group the function is traced by
    `torch.compile` without a graph break.

    Examples
    --------
    >>> import numpy as np
    >>> sinkhorn_codes(np.array([[1.0, 0.9], [0.8, 0.1]])).round(2)
    array([[0.17, 0.83],
           [1.  , 0.  ]])
    """
    _check(scores, epsilon, n_iter, out)
    xp = namespace(scores)
    kernel = _scaled(scores, epsilon)
    top = xp.amax(kernel, axis=-1, keepdims=True)
    kernel -= top
    xp.exp(kernel, out=kernel)
    if n_valid is not None:
        kernel *= _valid(scores, n_valid, kernel)
    largest = xp.amax(top, axis=(-2, -1), keepdims=True)
    if process_group is not None:
        largest = _reduced(largest, "MAX", process_group)
    v = xp.exp(top - largest)  # (..., B, 1); the row maxima, which the kernel leaves out
    for _ in range(n_iter):
        masses = xp.matmul(kernel.swapaxes(-1, -2), v)  # (..., K, 1)
        if process_group is not None:
            masses = _reduced(masses, "SUM", process_group)
        u = 1.0 / masses.clip(TINY)
        v = 1.0 / xp.matmul(kernel, u).clip(TINY)
    kernel *= u.swapaxes(-1, -2)
    kernel *= v
    if out is None:
        return cast_like(kernel, scores)  # type: ignore[no-any-return]
    out[...] = kernel
    return out


def _scaled(scores: Array, epsilon: float) -> Array:
    """Scores over epsilon, in float32 at least."""
    xp = namespace(scores)
    wide = xp.float64 if dtype_name(scores) == "float64" else xp.float32
    x = scores.detach().to(wide) if is_torch(scores) else scores.astype(wide)
    return x / epsilon


def _valid(scores: Array, n_valid: Array | int, kernel: Array) -> Array:
    """1 for the rows that count, 0 for others: (..., B, 1)."""
    xp = namespace(scores)
    where = {"device": scores.device} if is_torch(scores) else {}
    rows = xp.arange(scores.shape[-2], **where)[:, None]
    count = xp.asarray(n_valid, **where)
    if count.ndim:
        count = count[:, None, None]
    one = xp.ones_like(kernel[..., :1])
    return xp.where(rows < count, one, 0.0 * one)


def _reduced(x: Array, how: str, process_group: ProcessGroup) -> Array:
    """The sum or maximum over processes."""
    import torch
    from torch import distributed

    tensor = x if is_torch(x) else torch.from_numpy(x)
    distributed.all_reduce(tensor, getattr(distributed.ReduceOp, how), group=process_group)
    return tensor if is_torch(x) else tensor.numpy()


def _check(scores: Array, epsilon: float, n_iter: int, out: Array | None) -> None:
    if not hasattr(scores, "dtype") or not hasattr(scores, "ndim"):
        raise TypeError(
            f"scores must be a numpy.ndarray or a torch.Tensor, got {type(scores).__name__}"
        )
    if dtype_name(scores) not in ("float64", "float32", "float16", "bfloat16"):
        raise TypeError(f"scores must be floating point numbers, got {dtype_name(scores)}")
    if scores.ndim not in (2, 3) or 0 in tuple(scores.shape)[-1:]:
        raise ValueError(
            f"scores must be (B, K) or (batches, B, K), with K >= 1, got {tuple(scores.shape)}"
        )
    if not 0 < epsilon < float("inf"):
        raise ValueError(f"epsilon must be finite and > 0, got {epsilon}")
    if isinstance(n_iter, bool) or not isinstance(n_iter, int) or n_iter < 1:
        raise ValueError(f"n_iter must be an integer >= 1, got {n_iter!r}")
    if out is not None and (out.shape != scores.shape or out.dtype != scores.dtype):
        raise ValueError(
            f"out must be like scores, {tuple(scores.shape)} of {dtype_name(scores)}, got "
            f"{tuple(out.shape)} of {dtype_name(out)}"
        )
