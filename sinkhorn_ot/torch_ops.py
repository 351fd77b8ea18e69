"""`equipartition_labels` as an operator: what `torch.compile` puts into its graphs.

torch is imported here and so this module is imported only where there is a tensor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sinkhorn_ot.checks import Options
from sinkhorn_ot.exact.balanced import exact_labels
from sinkhorn_ot.solve import labels_of


def labels(
    logits: torch.Tensor,
    b: torch.Tensor | None,
    epsilon: float,
    tol: float,
    max_iter: int,
    g_init: torch.Tensor | None,
    method: str,
    memory_limit: int | None,
    backend: str,
    rounding: str,
) -> torch.Tensor:
    """Balanced labels of a matrix or of a stack of heads; see `api.equipartition_labels`."""
    found: torch.Tensor = (labels_of if rounding == "argmax" else exact_labels)(
        logits,
        Options(None, b, epsilon, tol, max_iter, g_init, method, memory_limit, backend, None, None),
    )
    return found


def as_vector(v: Any, name: str, logits: Any) -> torch.Tensor | None:
    """Return what was passed beside the logits as a tensor like them; a NumPy array is refused."""
    if isinstance(v, np.ndarray):
        raise TypeError(f"{name} is a ndarray but logits is a Tensor; pass both from one library")
    if v is None or isinstance(v, torch.Tensor):
        return v
    return torch.as_tensor(v, dtype=torch.float64, device=logits.device)


def shape_of_labels(logits: torch.Tensor, *options: object) -> torch.Tensor:
    """What is known of the labels before there are values."""
    return logits.new_empty(logits.shape[:-1], dtype=torch.int64)


# the schema is written out: it is the operator's public face, and annotations above are strings
equipartition_labels = torch.library.custom_op(
    "sinkhorn_ot::equipartition_labels",
    labels,
    mutates_args=(),
    tags=(torch.Tag.cudagraph_unsafe,),  # a solve looks at its violation
    schema="(Tensor logits, Tensor? b, float epsilon, float tol, int max_iter, Tensor? g_init, "
    "str method, int? memory_limit, str backend, str rounding) -> Tensor",
)
equipartition_labels.register_fake(shape_of_labels)
