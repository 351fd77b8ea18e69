"""Random views: every image of a batch draws its own parameters.

The order is fixed: crop, rotation and the like, and flip in one resampling; then grey, brightness,
contrast, saturation, hue; then blur; then a hole. docs/differences.md tells why no library does it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import rgb_to_grayscale

from selfsup.config import AugmentConfig

CROP_ATTEMPTS = 10
BLOCK = 1 << 17
"""Numbers in the images whose colours change at once."""
BLUR_SIZE = 224
"""Side of the images that `AugmentConfig.blur_sigma` is for."""


@torch.no_grad()
def random_views(
    images: Tensor,
    augment: AugmentConfig,
    generator: torch.Generator,
    size: int,
    extents: Tensor | None = None,
) -> Tensor:
    """Return one random (size, size) view of each of (B, C, H, W) float32 images in [0, 1].

    A CPU generator alone decides the outcome, on any device. Colour that needs three channels is
    left out for others. Random crops are sampled bilinearly, without a filter: images much larger
    than `size` should be made smaller before. Where (B, 2) int64 `extents` are passed, the images
    are the upper left corners of these heights and widths, continued by their edges.
    """
    views = _resampled(images, augment, generator, size, extents)
    views = _coloured(views, augment, generator)
    if augment.blur:
        views = _blurred(views, augment, generator)
    return _with_holes(views, augment.erase, generator) if augment.erase else views


def crop_boxes(extents: Tensor, augment: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Return (n, 4) float32 boxes (top, left, height, width) of crops of (n, 2) large images.

    Random ones follow torchvision's ``RandomResizedCrop``: up to ten draws of area and ratio until
    a box of whole pixels fits, else the largest central box of a ratio in the range. With
    ``augment.crop_grid`` the pixels are those of an image enlarged to that shorter side first.
    """
    height, width = extents.float().unbind(1)
    shorter = torch.minimum(height, width)
    if augment.crop == (1.0, 1.0):
        side = (augment.centre * shorter).round().clamp_min(1)
        down, across = augment.place
        corner = [((height - side) * down).round(), ((width - side) * across).round()]
        return torch.stack([*corner, side, side], 1)
    zoom = augment.crop_grid / shorter if augment.crop_grid else torch.ones_like(shorter)
    height, width = (height * zoom).round(), (width * zoom).round()
    low, high = augment.crop_ratio
    shape = (len(extents), CROP_ATTEMPTS)
    area = _uniform(shape, *augment.crop, generator) * (height * width)[:, None]
    ratio = torch.exp(_uniform(shape, math.log(low), math.log(high), generator))
    w, h = torch.sqrt(area * ratio).round(), torch.sqrt(area / ratio).round()
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    first = fits.int().argmax(1, keepdim=True)
    w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]
    places = _uniform((2, len(extents)), 0, 1, generator)
    top, left = (places[0] * (height - h + 1)).floor(), (places[1] * (width - w + 1)).floor()
    boxes = torch.stack([top, left, h, w], 1)

    rest_w = torch.minimum(width, (height * high).round().clamp_min(1))
    rest_h = torch.minimum(height, (width / low).round().clamp_min(1))
    rest = [((height - rest_h) / 2).floor(), ((width - rest_w) / 2).floor(), rest_h, rest_w]
    boxes = torch.where(fits.any(1, keepdim=True), boxes, torch.stack(rest, 1))
    return boxes / zoom[:, None]


def _uniform(
    shape: int | tuple[int, ...], low: float, high: float, generator: torch.Generator
) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


def _chance(n: int, probability: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) < probability


def _resampled(
    images: Tensor, augment: AugmentConfig, generator: torch.Generator, size: int,
    extents: Tensor | None,
) -> Tensor:  # fmt: skip
    n, _, height, width = images.shape
    whole = torch.tensor([[height, width]]).expand(n, 2)
    boxes = crop_boxes(whole if extents is None else extents, augment, generator)
    mirrored = _chance(n, 0.5 if augment.flip else 0.0, generator)
    warped = augment.rotate or augment.stretch or augment.shift or augment.scale != (1.0, 1.0)
    if extents is None and not warped and augment.crop == (1.0, 1.0):
        top, left, h, w = boxes[0].int().tolist() if n else (0, 0, height, width)
        views = images[:, :, top : top + h, left : left + w]
        if (h, w) != (size, size):
            views = F.interpolate(views, (size, size), mode="bilinear", antialias=True)
        if augment.flip:
            views = torch.where(mirrored.view(n, 1, 1, 1).to(views.device), views.flip(3), views)
        return views

    # The matrix takes places in the view to places in the image, both from -1 to 1.
    angle = _uniform(n, -1, 1, generator) * math.radians(augment.rotate)
    zoom = _uniform(n, *augment.scale, generator)
    stretch = torch.exp(_uniform(n, -0.5, 0.5, generator) * augment.stretch)
    shift = _uniform((n, 2), -2, 2, generator) * augment.shift
    mirror = 1 - 2 * mirrored.float()
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = (cos * stretch * mirror, -sin / stretch), (sin * stretch * mirror, cos / stretch)
    inner = torch.stack([torch.stack([*rows[i], shift[:, i]], 1) for i in (0, 1)], 1)
    corner, extent = boxes[:, :2].flip(1), boxes[:, 2:].flip(1)
    sides = torch.tensor([float(width), float(height)])
    theta = inner * (extent / sides)[:, :, None]
    theta[:, :, 2] += (2 * corner + extent) / sides - 1
    grid = F.affine_grid(theta.to(images.device), [n, 1, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _coloured(images: Tensor, augment: AugmentConfig, generator: torch.Generator) -> Tensor:
    n, colour = len(images), images.shape[1] == 3
    changed = _chance(n, augment.jitter, generator)

    def drawn(low: float, high: float, still: float) -> Tensor:
        return torch.where(changed, _uniform(n, low, high, generator), still)

    changes: list[tuple[Callable[[Tensor, Tensor], Tensor], Tensor]] = []
    if augment.grey and colour:
        changes.append((make_grey, _chance(n, augment.grey, generator)))
    turns = drawn(-augment.hue, augment.hue, 0.0) if augment.hue and colour else None
    for adjust, strength in (
        (adjust_brightness, augment.brightness),
        (adjust_contrast, augment.contrast),
        (adjust_saturation, augment.saturation * colour),
    ):
        if strength:
            changes.append((adjust, drawn(max(0.0, 1 - strength), 1 + strength, 1.0)))
    if turns is not None:
        changes.append((adjust_hue, turns))
    if not changes:
        return images
    wanted = [(change, x.view(n, 1, 1, 1).to(images.device)) for change, x in changes]
    # On a CPU a few images at a time, as fresh memory costs more than the arithmetic.
    step = max(1, BLOCK // images.shape[1:].numel()) if images.device.type == "cpu" else max(1, n)
    views = torch.empty_like(images)
    for start in range(0, n, step):
        some = slice(start, start + step)
        part = images[some]
        for change, values in wanted:
            part = change(part, values[some])
        views[some] = part
    return views


def make_grey(images: Tensor, chosen: Tensor) -> Tensor:
    """Make those of (B, C, H, W) images grey that the (B, 1, 1, 1) bools choose."""
    return torch.where(chosen, rgb_to_grayscale(images), images)


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply (B, C, H, W) images by (B, 1, 1, 1) factors."""
    return (images * factors).clamp_(0, 1)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance of (B, C, H, W) images to their mean grey by (B, 1, 1, 1) factors."""
    mean = rgb_to_grayscale(images.mean((2, 3), keepdim=True))
    return (images * factors).add_(mean * (1 - factors)).clamp_(0, 1)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance of (B, 3, H, W) images to their grey by (B, 1, 1, 1) factors."""
    return torch.lerp(rgb_to_grayscale(images), images, factors).clamp_(0, 1)


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of (B, 3, H, W) images by (B, 1, 1, 1) parts of the colour circle."""
    red, green, blue = images.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    chroma = high - torch.minimum(torch.minimum(red, green), blue)
    scale = chroma.clamp_min(1e-12).reciprocal_().div_(6)
    to_blue = (red - green).mul_(scale).add_(2 / 3)
    to_green = (blue - red).mul_(scale).add_(1 / 3)
    hue = torch.where(high == green, to_green, to_blue)
    hue = torch.where(high == red, (green - blue).mul_(scale), hue).add_(turns[:, 0])
    # A channel falls from `high` by up to `chroma`, as its hue is less than a third of a turn from
    # the opposite one.
    views = torch.empty_like(images)
    for channel, opposite in enumerate((1 / 2, -1 / 6, 1 / 6)):
        away = hue - opposite
        away.sub_(away.round()).abs_()
        fall = away.mul_(-6).add_(2).clamp_(0, 1).mul_(chroma)
        torch.sub(high, fall, out=views[:, channel])
    return views


def _blurred(images: Tensor, augment: AugmentConfig, generator: torch.Generator) -> Tensor:
    n, size = len(images), images.shape[-1]
    chosen = _chance(n, augment.blur, generator).nonzero()[:, 0]
    sigma = _uniform(n, *augment.blur_sigma, generator)[chosen] * (size / BLUR_SIZE)
    radius = min(size - 1, math.ceil(3 * augment.blur_sigma[1] * size / BLUR_SIZE))
    if not len(chosen) or not radius:
        return images
    chosen = chosen.to(images.device)
    views = images.clone()
    views[chosen] = gaussian_blur(images[chosen], sigma.to(images.device), radius)
    return views


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur (B, C, H, W) images with Gaussians of (B,) `sigma` pixels, cut off at `radius`."""
    b, c, height, width = images.shape
    x = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-((x / sigma[:, None]) ** 2) / 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)
    rows = F.pad(images, (radius,) * 4, mode="reflect").view(1, b * c, -1, width + 2 * radius)
    rows = F.conv2d(rows, kernel[:, None, None, :], groups=b * c)
    columns = F.conv2d(rows, kernel[:, None, :, None], groups=b * c)
    return columns.view(b, c, height, width).clamp(0, 1)


def _with_holes(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    n = len(images)
    chosen = _chance(n, probability, generator)
    box, centre = _uniform((n, 2), 0.15, 0.4, generator), _uniform((n, 2), 0, 1, generator)
    rows, columns = (
        ((torch.arange(side) + 0.5) / side - centre[:, i, None]).abs() < box[:, i, None] / 2
        for i, side in enumerate(images.shape[2:])
    )
    hole = rows[:, None, :, None] & columns[:, None, None, :] & chosen.view(n, 1, 1, 1)
    return torch.where(hole.to(images.device), images.mean((2, 3), keepdim=True), images)
