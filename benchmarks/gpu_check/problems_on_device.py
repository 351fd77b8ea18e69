"""The problems of benchmarks/problems.py made on the device, with its own random numbers."""

from __future__ import annotations

import torch
from problems import BLOCK, CLUSTERED, DIM, EPSILON, IID


def make_logits(
    family: str, n: int, k: int, device: str, dtype: torch.dtype = torch.float32, seed: int = 0
) -> torch.Tensor:
    """Return (n, k) logits of a family; `problems.make_logits` says what the families are."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    logits = torch.empty((n, k), dtype=dtype, device=device)
    blocks = logits.split(BLOCK)
    if family in IID:
        for block in blocks:
            block.copy_(normal(*block.shape).mul_(IID[family] * EPSILON))
        return logits
    centres = normal(max(2, k // 2), DIM)
    size = torch.arange(1, len(centres) + 1, device=device) ** -0.8
    prototypes, bias = normal(DIM, k), 0.3 * normal(k)
    scale = CLUSTERED[family] * EPSILON / (1 + 0.3**2) ** 0.5
    for block in blocks:
        centre = torch.multinomial(size, len(block), replacement=True, generator=generator)
        features = centres[centre] + 0.7 * normal(len(block), DIM)
        features = torch.nn.functional.normalize(features, dim=1)
        block.copy_((features @ prototypes + bias).mul_(scale))
    return logits


def true_violation(logits: torch.Tensor, g: torch.Tensor) -> float:
    """Return ``||m(g) - 1/K||_1`` in float64, for the potential g that a solver returned."""
    n, k = logits.shape
    mass = torch.zeros(k, dtype=torch.float64, device=logits.device)
    for rows in logits.split(BLOCK):
        mass += torch.softmax((rows.double() + g.double()) / EPSILON, 1).sum(0)
    return float((mass / n - 1 / k).abs().sum())
