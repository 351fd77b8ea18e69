"""What `balanced_labels` returns, and what it tells on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sinkhorn_ot.arrays import Array


class BalancedProgress(NamedTuple):
    """What a callback of `balanced_labels` receives.

    Attributes
    ----------
    n_passes : float
        Reads of the matrix so far.
    to_repair : int or None
        Samples by which classes are still too large; None while potentials are sought.
    seconds : float
        Wall time since the call.
    """

    n_passes: float
    to_repair: int | None
    seconds: float


@dataclass(frozen=True, eq=False, repr=False)
class BalancedResult:
    """Labels of exactly balanced classes, and potentials that prove how good they are.

    Arrays are of the library and on the device of the logits.

    Attributes
    ----------
    labels : (N,) int64
        ``argmax_k (logits_ik + g_k)`` up to rounding, where ties are shared out such that the
        classes have their sizes.
    g : (K,) float64
        Potentials of the classes (prices); -inf for a class that may hold nothing.
    counts : (K,) int64
        Size of each class.
    objective : float
        ``sum_i logits[i, labels[i]]``, in units of the logits.
    upper_bound : float
        No labels of admissible sizes have a larger objective: `g` proves it
        (`sinkhorn_ot.exact.certificate`).
    gap : float
        ``upper_bound - objective``: 0 up to rounding, or at most ``max_gap * abs(objective)``.
    sizes_min, sizes_max : (K,) int64
        The sizes that were admissible.
    n_passes : float
        Reads of the N x K matrix.
    n_moved : int
        How often a sample was moved to another class after the first labels.
    """

    labels: Array
    g: Array
    counts: Array
    objective: float
    upper_bound: float
    gap: float
    sizes_min: Array
    sizes_max: Array
    n_passes: float
    n_moved: int

    def __repr__(self) -> str:
        """One line; the arrays are attributes."""
        n, k = self.labels.shape[0], self.g.shape[0]
        return (
            f"BalancedResult({n} x {k}, sizes {int(self.counts.min())} to "
            f"{int(self.counts.max())}, objective={self.objective:.10g}, gap={self.gap:.3g}, "
            f"n_passes={self.n_passes:.3g}, n_moved={self.n_moved})"
        )
