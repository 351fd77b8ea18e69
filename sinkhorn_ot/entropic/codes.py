"""The step of SwAV and DINOv2: soft codes of a minibatch by a few iterations of Sinkhorn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sinkhorn_ot.arrays import (
    Array,
    check_floats,
    dtype_name,
    is_torch,
    namespace,
    on_host,
    place_of,
)
from sinkhorn_ot.backends import minibatch_of
from sinkhorn_ot.backends.minibatch import TINY
from sinkhorn_ot.entropic.checks import check_integer, check_number
from sinkhorn_ot.group import Group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

#: The least epsilon that float32 holds.
LEAST_EPSILON = float(np.finfo(np.float32).tiny)


def solve_codes(
    scores: Array,
    epsilon: float,
    n_iter: int,
    n_valid: Array | int | None,
    out: Array,
    process_group: ProcessGroup | None = None,
) -> None:
    """Write the codes of scores that were checked; only here is it known where they lie."""
    group = Group(process_group)
    _check_memory(scores, out)
    if is_torch(scores):
        scores = scores.resolve_neg()
    if scores.ndim == 2:
        scores, out = scores[None], out[None]
    if n_valid is not None:
        counts = namespace(scores).broadcast_to(n_valid, scores.shape[:1])
        if on_host(counts) and len(counts):
            values = counts.tolist()  # torch finds no minimum of unsigned integers
            _check_range(min(values), max(values), scores.shape[1])
        n_valid = counts
    step = minibatch_of(place_of(scores))(scores, epsilon, n_valid)
    masses, largest = step.first()
    xp = namespace(masses)
    if not group.alone:
        agreed = group.max(largest)
        with np.errstate(invalid="ignore"):  # -inf - -inf, where no process has a row
            scale = xp.exp((largest - agreed) / epsilon)
        masses = masses * xp.where(largest == agreed, 1.0, scale)[:, None]
    for turn in range(n_iter):
        if turn:
            masses = step.next(masses)
        masses = group.sum(masses)
        # v absorbs it; an iteration makes the masses about B / K times what they were
        masses = masses / xp.amax(masses, -1, keepdims=True).clip(TINY)
    step.last(masses, out)


def check_codes(
    scores: Array, epsilon: float, n_iter: int, n_valid: Array | int | None, out: Array | None
) -> tuple[float, int]:
    """Refuse what cannot be; return epsilon and n_iter as numbers of Python."""
    check_floats(scores, "scores")
    if scores.ndim not in (2, 3) or scores.shape[-1] == 0:
        raise ValueError(
            f"scores must be (B, K) or (batches, B, K), with K >= 1, got {tuple(scores.shape)}"
        )
    epsilon = check_number(epsilon, "epsilon", positive=True)
    if epsilon < LEAST_EPSILON and dtype_name(scores) != "float64":
        raise ValueError(
            f"epsilon must be >= {LEAST_EPSILON} for {dtype_name(scores)} scores, or its inverse "
            f"is infinite in float32, got {epsilon}; pass scores in float64"
        )
    n_iter = check_integer(n_iter, "n_iter", least=1)
    if n_valid is not None:
        _check_count(n_valid, scores)
    if out is not None:
        _check_out(out, scores)
    return epsilon, n_iter


def _check_count(n_valid: Array | int, scores: Array) -> None:
    if isinstance(n_valid, int) and not isinstance(n_valid, bool):
        _check_range(n_valid, n_valid, scores.shape[-2])
        return
    counts = namespace(scores).asarray(n_valid)
    shape, batches = tuple(counts.shape), tuple(scores.shape[:-2])
    if shape not in ((), batches or (1,)):
        raise ValueError(
            f"n_valid must be one number, or one for each of the {math.prod(batches)} batches, got "
            f"shape {shape}"
        )
    if not dtype_name(counts).startswith(("int", "uint", "longlong", "ulonglong")):
        raise TypeError(f"n_valid must be an integer or integers, got {dtype_name(counts)}")


def _check_range(least: int, most: int, rows: int) -> None:
    if least < 0 or most > rows:
        raise ValueError(
            f"n_valid must be between 0 and the {rows} rows of a batch of scores, got "
            f"{least if least < 0 else most}"
        )


def _check_out(out: Array, scores: Array) -> None:
    check_floats(out, "out")
    if is_torch(out) != is_torch(scores):
        raise TypeError(
            f"out is a {type(out).__name__} but scores is a {type(scores).__name__}; pass both "
            "from one library"
        )
    if out.shape != scores.shape or out.dtype != scores.dtype:
        raise ValueError(
            f"out must be like scores, {tuple(scores.shape)} of {dtype_name(scores)}, got "
            f"{tuple(out.shape)} of {dtype_name(out)}"
        )
    if is_torch(out):
        if out.device != scores.device:
            raise ValueError(f"out is on {out.device}, scores are on {scores.device}")
    elif not out.flags.writeable:
        raise ValueError(
            "out is a read-only array; pass one that can be written, such as numpy.empty_like("
            "scores)"
        )


def _check_memory(scores: Array, out: Array) -> None:
    """Refuse an `out` that lies in itself, or in the scores without being the scores."""
    if 0 in out.shape:
        return
    (first, last, steps), (to_first, to_last, to_steps) = _memory(scores), _memory(out)
    reach = 0
    for step, size in sorted((abs(step), size) for step, size in to_steps):
        if step < reach + out.itemsize:
            raise ValueError(
                f"out overlaps itself: its shape is {tuple(out.shape)}, its strides in bytes "
                f"{tuple(step for step, _ in to_steps)}; pass an array whose entries are apart"
            )
        reach += step * (size - 1)
    same = (first, last, steps) == (to_first, to_last, to_steps)
    if not same and first < to_last and to_first < last:
        raise ValueError(
            "out overlaps the scores; pass the scores themselves to be overwritten, or an array of "
            "its own memory"
        )


def _memory(x: Array) -> tuple[int, int, list[tuple[int, int]]]:
    """First byte, byte after the last, and of each axis longer than 1 its step and length."""
    if is_torch(x):
        first, strides, unit = x.data_ptr(), x.stride(), x.itemsize
    else:
        first, strides, unit = x.ctypes.data, x.strides, 1
    last, steps = first + x.itemsize, []
    for stride, size in zip(strides, x.shape, strict=True):
        if size > 1:
            step = stride * unit
            steps.append((step, size))
            if step < 0:
                first += step * (size - 1)
            else:
                last += step * (size - 1)
    return first, last, steps
