"""The backends, in the order in which ``backend="auto"`` tries them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sinkhorn_ot.arrays import Array, is_torch
from sinkhorn_ot.backends import cpu, reference
from sinkhorn_ot.backends.gpu import cuda, triton
from sinkhorn_ot.backends.minibatch import ArrayMinibatch, Minibatch
from sinkhorn_ot.backends.minibatch_cpu import CpuMinibatch
from sinkhorn_ot.passes import Needs, Passes, Problem


@dataclass(frozen=True)
class Backend:
    """One way to read rows; a new one is a line in `BACKENDS` below."""

    name: str
    devices: tuple[str, ...]  # for whose tensors "auto" takes it; NumPy arrays are on "cpu"
    why_not: Callable[[Array | None], str | None]  # None, or why it cannot run (on these logits)
    passes: Callable[[Problem], Passes]
    needs: Callable[[Array, int], Needs]  # what kept entries of so many rows like these take
    #: A column mass (in units of the mean row's) below which entries were lost to underflow, so
    #: that a read is repeated in the log domain; 0 where the backend sees to it itself.
    underflow: float = 0.0
    #: Words of 4 bytes that a kept entry takes in a row of which all entries are kept.
    words_an_entry: int = 1
    #: Whether a read finds out how many entries there are before it keeps any.
    counts_first: bool = False
    #: How it makes the codes of minibatches, if it does.
    minibatch: Callable[[Array, float, Array | None], Minibatch] | None = None


BACKENDS: tuple[Backend, ...] = (
    Backend(
        "cuda",
        ("cuda",),
        cuda.why_not,
        cuda.passes,
        cuda.needs,
        counts_first=True,
        minibatch=cuda.minibatch,
    ),
    Backend(
        "triton",
        ("cuda",),
        triton.why_not,
        triton.passes,
        triton.needs,
        counts_first=True,
        minibatch=triton.minibatch,
    ),
    Backend(
        "cpu",
        ("cpu",),
        cpu.why_not,
        cpu.CpuPasses,
        cpu.needs,
        underflow=cpu.UNDERFLOW,
        minibatch=CpuMinibatch,
    ),
    Backend(
        "reference",
        ("cpu", "cuda"),
        reference.why_not,
        reference.ReferencePasses,
        reference.needs,
        words_an_entry=reference.WORDS,
    ),
)


def available(logits: Array | None) -> dict[str, str]:
    """Return by name "ok" or why a backend cannot run (on these logits)."""
    return {backend.name: backend.why_not(logits) or "ok" for backend in BACKENDS}


def named(name: str, logits: Array) -> Backend:
    """Return the backend of that name, or for "auto" the first that can run; else `ValueError`."""
    for backend in BACKENDS:
        if backend.name == name:
            reason = backend.why_not(logits)
            if reason:
                raise ValueError(f"backend {name!r} cannot run here: {reason}")
            return backend
    if name == "auto":
        return next(backend for backend in able(logits) if backend.why_not(logits) is None)
    known = ", ".join(["auto", *(backend.name for backend in BACKENDS)])
    raise ValueError(f"backend must be one of {known}, got {name!r}")


def able(logits: Array) -> list[Backend]:
    """Return the backends for the device of the logits."""
    device = logits.device.type if is_torch(logits) else "cpu"
    return [backend for backend in BACKENDS if device in backend.devices]


def minibatch_of(scores: Array) -> Callable[[Array, float, Array | None], Minibatch]:
    """Return the first way to make codes of these scores; array operations where there is none."""
    for backend in able(scores):
        if backend.minibatch is not None and backend.why_not(scores) is None:
            return backend.minibatch
    return ArrayMinibatch
