"""The backends, in the order in which ``backend="auto"`` tries them."""

from __future__ import annotations

from sinkhorn_ot.arrays import Place
from sinkhorn_ot.backends import cpu, reference
from sinkhorn_ot.backends.gpu import cuda, triton
from sinkhorn_ot.passes import Backend

BACKENDS: tuple[Backend, ...] = (
    Backend("cuda", ("cuda",), cuda.why_not, cuda.passes, cuda.needs, counts_first=True),
    Backend("triton", ("cuda",), triton.why_not, triton.passes, triton.needs, counts_first=True),
    Backend("cpu", ("cpu",), cpu.why_not, cpu.CpuPasses, cpu.needs, underflow=cpu.UNDERFLOW),
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
    return [backend for backend in BACKENDS if place.kind in backend.devices]
