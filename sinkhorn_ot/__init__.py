"""Balanced labels for millions of samples, by optimal transport.

``equipartition_labels(logits)`` gives every row a label such that all classes receive the same
mass; ``sinkhorn(logits)`` also returns the potentials, the soft plan and what the solve did.
"""

from sinkhorn_ot.api import available_backends, equipartition_labels, sinkhorn
from sinkhorn_ot.exact.balanced import balanced_labels
from sinkhorn_ot.exact.result import BalancedProgress, BalancedResult
from sinkhorn_ot.result import Progress, SinkhornResult, SinkhornWarning

__version__ = "0.1.0"

__all__ = [
    "BalancedProgress",
    "BalancedResult",
    "Progress",
    "SinkhornResult",
    "SinkhornWarning",
    "available_backends",
    "balanced_labels",
    "equipartition_labels",
    "sinkhorn",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
