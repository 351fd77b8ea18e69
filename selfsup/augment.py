"""Random views: every image of a batch draws its own parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from selfsup.config import AugmentConfig

LUMA = (0.299, 0.587, 0.114)


def random_views(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Return one random view of every image.

    Parameters
    ----------
    images : Tensor
        (B, C, H, W) float in [0, 1].
    config : AugmentConfig
        The ranges.
    generator : torch.Generator
        A CPU generator; it alone decides the outcome.
    """
    views = _affine(images, config, generator)
    views = _colour(views, config, generator)
    return _erase(views, config, generator) if config.erase else views


def _uniform(n: int, low: float, high: float, like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.rand(n, generator=generator) * (high - low) + low).to(like.device)


def _affine(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    n = len(images)
    angle = _uniform(n, -1, 1, images, generator) * math.radians(config.rotate)
    zoom = _uniform(n, *config.scale, images, generator)
    stretch = torch.exp(_uniform(n, -0.5, 0.5, images, generator) * config.stretch)
    shift = _uniform(2 * n, -2, 2, images, generator).view(n, 2) * config.shift
    mirror = torch.ones_like(angle)
    if config.flip:
        mirror = torch.where(_uniform(n, 0, 1, images, generator) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = [
        torch.stack([cos * stretch * mirror, -sin / stretch, shift[:, 0]], 1),
        torch.stack([sin * stretch * mirror, cos / stretch, shift[:, 1]], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _colour(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    n = len(images)

    def factor(strength: float) -> Tensor:
        return _uniform(n, 1 - strength, 1 + strength, images, generator).view(n, 1, 1, 1)

    if config.brightness:
        images = images * factor(config.brightness)
    if config.contrast:
        mean = images.mean((1, 2, 3), keepdim=True)
        images = mean + (images - mean) * factor(config.contrast)
    if images.shape[1] == 3 and (config.saturation or config.grey):
        weights = torch.tensor(LUMA, device=images.device).view(1, 3, 1, 1)
        grey = (images * weights).sum(1, keepdim=True)
        keep = factor(config.saturation)
        drop = _uniform(n, 0, 1, images, generator).view(n, 1, 1, 1) < config.grey
        images = grey + (images - grey) * torch.where(drop, 0.0, keep)
    return images.clamp(0, 1)


def _erase(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    n, _, height, width = images.shape
    chosen = _uniform(n, 0, 1, images, generator).view(n, 1, 1) < config.erase
    box = _uniform(2 * n, 0.15, 0.4, images, generator).view(n, 2)
    centre = _uniform(2 * n, 0, 1, images, generator).view(n, 2)
    y = (torch.arange(height, device=images.device) + 0.5) / height
    x = (torch.arange(width, device=images.device) + 0.5) / width
    inside_y = (y - centre[:, :1]).abs() < box[:, :1] / 2
    inside_x = (x - centre[:, 1:]).abs() < box[:, 1:] / 2
    hole = inside_y[:, :, None] & inside_x[:, None, :] & chosen
    mean = images.mean((2, 3), keepdim=True)
    return torch.where(hole[:, None], mean, images)
