"""Soft codes of a minibatch beside the loops that people write: three iterations, epsilon 0.05.

DINOv2 and SwAV are written here from their papers: Q of K rows and B columns, normalised in place
in turn. Megatron's Sinkhorn, also from its mathematics, is another problem (both marginals, columns
last) on the same kernel. Its quantile balancing makes hard assignments, no codes, and is left out.
lightly's function is called where lightly is installed (pip install --no-deps lightly
lightly_utils aenum is enough).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from solvers import installed

from sinkhorn_ot import sinkhorn_codes

#: Prototypes as in SwAV, and as in DINOv2.
SIZES = ((4096, 3000), (16, 3000), (2048, 65_536))
EPSILON, ITERATIONS = 0.05, 3


def dinov2(scores: torch.Tensor) -> torch.Tensor:
    """The loop of DINOv2: sums, and divisions in place."""
    q = torch.exp(scores / EPSILON).t()
    k, b = q.shape
    q /= torch.sum(q)
    for _ in range(ITERATIONS):
        q /= torch.sum(q, dim=1, keepdim=True)
        q /= k
        q /= torch.sum(q, dim=0, keepdim=True)
        q /= b
    q *= b
    return q.t()


def swav(scores: torch.Tensor) -> torch.Tensor:
    """The loop of SwAV: marginals over sums, as factors in place."""
    q = torch.exp(scores / EPSILON).t()
    q /= q.sum()
    rows, columns = (torch.ones(n) / n for n in q.shape)
    for _ in range(ITERATIONS):
        q *= (rows / q.sum(dim=1)).unsqueeze(1)
        q *= (columns / q.sum(dim=0)).unsqueeze(0)
    return (q / q.sum(dim=0, keepdim=True)).t()


def megatron(scores: torch.Tensor) -> torch.Tensor:
    """The scalings of Megatron's routers, of rows first, and the plan."""
    cost = torch.exp(scores / EPSILON)
    n, k = cost.shape
    d1 = torch.ones(k)
    for _ in range(ITERATIONS):
        d0 = (1 / n) / (torch.sum(d1 * cost, 1) + 1e-8)
        d1 = (1 / k) / (torch.sum(d0.unsqueeze(1) * cost, 0) + 1e-8)
    return d1 * cost * d0.unsqueeze(1)


def lightly(scores: torch.Tensor) -> torch.Tensor:
    """The function of lightly."""
    from lightly.loss.swav_loss import sinkhorn

    return sinkhorn(scores, ITERATIONS, EPSILON)


LOOPS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "DINOv2": dinov2, "SwAV": swav, "Megatron": megatron, "lightly": lightly
}  # fmt: skip
HERE = [name for name in LOOPS if name != "lightly" or installed(["lightly"])]


@functools.lru_cache(maxsize=1)
def cosines(b: int, k: int) -> torch.Tensor:
    """Scores: cosine similarities of random features and prototypes."""
    generator = torch.Generator().manual_seed(0)
    features, prototypes = (
        torch.nn.functional.normalize(torch.randn(n, 128, generator=generator)) for n in (b, k)
    )
    return features @ prototypes.T


@pytest.mark.parametrize("solver", ["sinkhorn_codes", "sinkhorn_codes with out", *HERE])
def test_codes(size: tuple[int, int], solver: str, measured: Any) -> None:
    """The loops of DINOv2, SwAV and lightly find the same codes."""
    scores = cosines(*size)
    out = torch.empty_like(scores)
    ours = functools.partial(sinkhorn_codes, scores, EPSILON, ITERATIONS)
    runs: dict[str, Callable[[], torch.Tensor]] = {
        "sinkhorn_codes": ours, "sinkhorn_codes with out": functools.partial(ours, out=out)
    }  # fmt: skip
    codes = measured(
        runs.get(solver) or functools.partial(LOOPS[solver], scores),
        scores.numpy(),
        group=f"codes, {size[0]:,} x {size[1]:,}",
        solver=solver,
        role="ours" if solver in runs else "yardstick" if solver == "SwAV" else "peer",
        packages=["torch" if solver != "lightly" else "lightly"],
    )
    if solver != "Megatron":
        masses = codes.sum(0, dtype=torch.float64) * size[1] / size[0]
        measured.info["violation"] = float((masses - 1).abs().mean())  # of K masses of 1/K: the sum
        torch.testing.assert_close(codes, ours(), rtol=1e-4, atol=1e-6)
