"""Balanced labels for millions of samples, by optimal transport.

``equipartition_labels(logits)`` gives every row a label such that all classes receive the same
mass; ``sinkhorn(logits)`` also returns the potentials, the soft plan and what the solve did.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sinkhorn_ot.api import (
    available_backends,
    equipartition_labels,
    sinkhorn,
    sinkhorn_codes,
)
from sinkhorn_ot.entropic.result import Progress, SinkhornResult, SinkhornWarning
from sinkhorn_ot.exact.balanced import balanced_labels
from sinkhorn_ot.exact.result import BalancedProgress, BalancedResult

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sinkhorn_ot.estimators import BalancedKMeans as BalancedKMeans

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
    "sinkhorn_codes",
]


def __getattr__(name: str) -> Any:
    """Import `BalancedKMeans` when it is asked for: it alone needs scikit-learn."""
    if name != "BalancedKMeans":
        raise AttributeError(f"module 'sinkhorn_ot' has no attribute {name!r}")
    try:
        return import_module("sinkhorn_ot.estimators").BalancedKMeans
    except ModuleNotFoundError as error:
        raise ImportError(
            f"BalancedKMeans needs scikit-learn ({error}); pip install 'scikit-learn>=1.6'"
        ) from error


def __dir__() -> list[str]:
    return ["BalancedKMeans", *__all__, "__version__"]
