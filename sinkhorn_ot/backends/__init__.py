"""The backends, in the order in which ``backend="auto"`` tries them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from sinkhorn_ot.arrays import Array, Needs, Reading
from sinkhorn_ot.backends import cpu, cuda, reference, triton
from sinkhorn_ot.problem import Problem


class Sketch(Protocol):
    """A stand-in for the matrix: some rows, and of these the entries that matter.

    It holds ``e_ik = exp((logits_ik + g_k - c_i) / epsilon)`` at the g at which it was read, c_i
    being about the maximum of row i; a `delta` of (K,) numbers then moves g to g + epsilon * delta.
    """

    def expect(self, move: Array, reach: float) -> None:
        """Say which entries matter: those that may come within `reach` of the largest of their row.

        And this while each g_k moves by up to ``move_k``, both in epsilon. Until it is said, all
        matter; a row of which half the entries matter is kept whole.
        """

    @property
    def rows(self) -> int:
        """How many rows it holds; each stands for those that were passed over."""

    @property
    def words(self) -> int:
        """How much it holds: 4 bytes for each entry of a dense row, 8 for one of a sparse row."""

    def mass(self, delta: Array) -> tuple[Array, Array]:
        """Return column masses and second moments, (K,) each, for a total mass of 1.

        With p_i the probabilities of row i these are ``sum_i a_i p_i`` and ``sum_i a_i p_i**2``;
        they may be good to about 1e-7 of themselves only.
        """

    def second_moment(self, v: Array) -> Array:
        """Return ``sum_i a_i p_i <p_i, v>`` at the delta of the last `mass`: (K,)."""


class Passes(Protocol):
    """What a backend does: reads of the rows with a (K,) vector in hand.

    Vectors are float64 and live where the backend puts them.
    """

    @property
    def reads(self) -> float:
        """Reads of the matrix so far, in units of its bytes."""

    @property
    def may_wait(self) -> bool:
        """Whether numbers may be looked at: not while a CUDA graph is recorded."""

    def number(self, x: Array) -> float:
        """Bring a number to the host; a device is waited for."""

    def first_bad_row(self) -> int | None:
        """The least bad row that a read met and did not raise `BadRow` for: its masses are NaN."""

    def read(
        self,
        g: Array,
        *,
        exact: bool = False,
        stride: int = 1,
        assign: bool = False,
        sketch: Any = None,
    ) -> Reading:
        """Read the rows once, or one of each `stride` rows; may raise `BadRow`.

        Without `exact` a backend may use float32 exponentials (masses good to about 1e-7 of
        themselves). `assign` also makes labels and f. A `sketch` is filled on the way.
        """

    def sketch(self, words: int) -> Sketch:
        """Return an empty sketch with room for that many words of 4 bytes."""


@dataclass(frozen=True)
class Backend:
    """One way to run the passes."""

    name: str
    devices: tuple[str, ...]  # for whose tensors "auto" takes it; NumPy arrays are on "cpu"
    why_not: Callable[[Array | None], str | None]
    passes: Callable[[Problem], Passes]
    needs: Callable[[Array, int], Needs]  # what a sketch of so many rows like these takes


BACKENDS: tuple[Backend, ...] = (
    Backend("cuda", ("cuda",), cuda.why_not, cuda.passes, cuda.needs),
    Backend("triton", ("cuda",), triton.why_not, triton.passes, triton.needs),
    Backend("cpu", ("cpu",), cpu.why_not, cpu.CpuPasses, cpu.needs),
    Backend(
        "reference",
        ("cpu", "cuda"),
        reference.why_not,
        reference.ReferencePasses,
        reference.needs,
    ),
)
