"""`equipartition_labels` as an operator: what `torch.compile` puts into its graphs.

torch is imported here and so this module is imported only where there is a tensor.
"""

from __future__ import annotations

import torch

from sinkhorn_ot import api


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
) -> torch.Tensor:
    """Balanced labels of a matrix or of a stack of heads; see `api.equipartition_labels`."""
    found: torch.Tensor = api.equipartition_labels(
        logits,
        b=b,
        epsilon=epsilon,
        tol=tol,
        max_iter=max_iter,
        g_init=g_init,
        method=method,
        memory_limit=memory_limit,
        backend=backend,
    )
    return found


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
    "str method, int? memory_limit, str backend) -> Tensor",
)
equipartition_labels.register_fake(shape_of_labels)
