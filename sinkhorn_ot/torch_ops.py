"""`equipartition_labels` and `sinkhorn_codes` as operators: what `torch.compile` puts into graphs.

torch is imported here and so this module is imported only where there is a tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sinkhorn_ot.entropic.checks import Options
from sinkhorn_ot.entropic.codes import solve_codes
from sinkhorn_ot.entropic.heads import labels_of
from sinkhorn_ot.exact.balanced import exact_labels

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


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


# a solve looks at its violation, so no CUDA graph can hold it; torch 2.6 has no way to say so
UNSAFE = hasattr(torch.Tag, "cudagraph_unsafe")
NO_CUDA_GRAPH: dict[str, Any] = {"tags": (torch.Tag.cudagraph_unsafe,)} if UNSAFE else {}
# the schema is written out: it is the operator's public face, and annotations above are strings
equipartition_labels = torch.library.custom_op(
    "sinkhorn_ot::equipartition_labels",
    labels,
    mutates_args=(),
    **NO_CUDA_GRAPH,
    schema="(Tensor logits, Tensor? b, float epsilon, float tol, int max_iter, Tensor? g_init, "
    "str method, int? memory_limit, str backend, str rounding) -> Tensor",
)
equipartition_labels.register_fake(shape_of_labels)


def codes_of(
    scores: torch.Tensor,
    epsilon: float,
    n_iter: int,
    n_valid: torch.Tensor | int | None,
    out: torch.Tensor | None,
    process_group: ProcessGroup | None,
) -> torch.Tensor:
    """Soft codes of a minibatch; see `api.sinkhorn_codes`."""
    scores = scores.detach()
    codes = torch.empty_like(scores, memory_format=torch.contiguous_format) if out is None else out
    if n_valid is not None:
        n_valid = torch.as_tensor(n_valid, device=scores.device)
    if process_group is None:
        sinkhorn_codes(scores, epsilon, n_iter, n_valid, codes)
    else:
        solve_codes(scores, epsilon, n_iter, n_valid, codes, process_group)
    return codes


def write_codes(
    scores: torch.Tensor,
    epsilon: float,
    n_iter: int,
    n_valid: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """Write codes where autograd will notice."""
    solve_codes(scores, epsilon, n_iter, n_valid, out)
    torch.autograd.graph.increment_version(out)


def no_codes(*options: object) -> None:
    """Do nothing: what is known of the codes is known of `out`."""


# `custom_op` would take three times as long to call, and minibatches can be small
CODES: Any = torch.library.Library("sinkhorn_ot", "FRAGMENT")  # type: ignore[no-untyped-call]
CODES.define(
    "sinkhorn_codes(Tensor scores, float epsilon, int n_iter, Tensor? n_valid, Tensor(a!) out)"
    " -> ()",
    tags=(torch.Tag.pt2_compliant_tag,),
)
CODES.impl("sinkhorn_codes", write_codes, "CompositeExplicitAutograd")
torch.library.register_fake("sinkhorn_ot::sinkhorn_codes", no_codes, lib=CODES)
sinkhorn_codes = torch.ops.sinkhorn_ot.sinkhorn_codes.default
