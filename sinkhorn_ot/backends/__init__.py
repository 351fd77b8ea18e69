"""The backends, in the order in which ``backend="auto"`` tries them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sinkhorn_ot.arrays import Array, Problem
from sinkhorn_ot.backends import cpu, reference


class Passes(Protocol):
    """What a backend does: reads of the rows with a (K,) vector in hand.

    Every method may raise `BadRow`.  Vectors are float64 and live where the backend puts them.
    """

    @property
    def reads(self) -> float:
        """Reads of the matrix so far."""

    def log_mass(self, g: Array, *, exact: bool) -> Array:
        """Return the (K,) logarithms of the column masses of P(g).

        Without `exact` a backend may use float32 exponentials (a violation good to about 1e-6).
        """

    def assign(self, g: Array) -> tuple[Array, Array, Array]:
        """Return (N,) int64 labels, (N,) float64 f and the exact log mass, all of this g."""


@dataclass(frozen=True)
class Backend:
    """One way to run the passes."""

    name: str
    why_not: Callable[[Array | None], str | None]
    passes: Callable[[Problem], Passes]


BACKENDS: tuple[Backend, ...] = (
    Backend("cpu", cpu.why_not, cpu.CpuPasses),
    Backend("reference", reference.why_not, reference.ReferencePasses),
)
