"""The backends, in the order in which ``backend="auto"`` tries them."""

from __future__ import annotations

from collections.abc import Callable

from sinkhorn_ot.arrays import Array, Place
from sinkhorn_ot.backends import cpu, reference
from sinkhorn_ot.backends.gpu import cuda, triton
from sinkhorn_ot.backends.minibatch import ArrayMinibatch
from sinkhorn_ot.backends.minibatch_cpu import CpuMinibatch
from sinkhorn_ot.passes import Backend, Minibatch

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


def available(place: Place | None) -> dict[str, str]:
    """Return by name "ok" or why a backend cannot run (on arrays there)."""
    return {backend.name: backend.why_not(place) or "ok" for backend in BACKENDS}


def named(name: str, place: Place) -> Backend:
    """Return the backend of that name, or for "auto" the first that can run; else `ValueError`."""
    if name == "auto":
        return next(backend for backend in able(place) if backend.why_not(place) is None)
    for backend in BACKENDS:
        if backend.name == name:
            reason = backend.why_not(place)
            if reason:
                raise ValueError(f"backend {name!r} cannot run here: {reason}")
            return backend
    known = ", ".join(["auto", *(backend.name for backend in BACKENDS)])
    raise ValueError(f"backend must be one of {known}, got {name!r}")


def able(place: Place) -> list[Backend]:
    """Return the backends for the kind of device, the fastest first."""
    kind = place.kind
    return [backend for backend in BACKENDS if kind in backend.devices]


def minibatch_of(place: Place) -> Callable[[Array, float, Array | None], Minibatch]:
    """Return the first way to make codes of such scores; array operations where there is none."""
    for backend in able(place):
        if backend.minibatch is not None and backend.why_not(place) is None:
            return backend.minibatch
    return ArrayMinibatch
