"""What to say of logits that cannot be labelled with the wanted sizes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sinkhorn_ot.arrays import Array, float64, what_is_bad
from sinkhorn_ot.exact.repair import Infeasible, Sizes


def explain_row(logits: Array, row: int) -> ValueError:
    """The error for the first row that cannot be labelled."""
    return ValueError(what_is_bad(float64(logits[row], logits), row))


def explain_conflict(error: Infeasible, sizes: Sizes, n: int) -> ValueError:
    """The error for sizes that forbidden pairings rule out: Hall's condition fails."""
    reached, pool = error.reached[:-1], bool(error.reached[-1])
    inside = int(reached[error.labels].sum())
    if pool:
        others = np.flatnonzero(~reached & (sizes.high > 0))
        return ValueError(
            f"no labels have these sizes: {_names(others)} must hold at least "
            f"{sizes.low[others].sum()} samples, but -inf forbids them to all but {n - inside}; "
            "allow more pairings or lower these sizes"
        )
    classes = np.flatnonzero(reached)
    return ValueError(
        f"no labels have these sizes: -inf leaves {inside} samples (such as sample "
        f"{int(reached[error.labels].argmax())}) only {_names(classes)}, which may hold at "
        f"most {sizes.high[classes].sum()}; allow more pairings or raise these sizes"
    )


def _names(classes: NDArray[np.int64]) -> str:
    shown = ", ".join(map(str, classes[:8]))
    if len(classes) == 1:
        return f"class {shown}"
    return f"the {len(classes)} classes {shown}{', ...' if len(classes) > 8 else ''}"
