"""From images of any kind to pixels: upright, in 8 bits, cropped and never squeezed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

MODES = {1: "L", 3: "RGB"}
ORIENTATION = 0x0112
#: A JPEG may be decoded at a fraction of its size if that leaves so many pixels for every one of
#: the view; PIL's own thumbnails are made so, and differ by less than one part in 255 on average.
DRAFT_GAP = 2.0
#: In memory the longer side is cut to so many times the shorter one, as in most photographs.
LONGEST = 1.5


def converted(image: Image.Image, channels: int) -> Image.Image:
    """Return an image upright as its camera held it, in 8 bits, with clear parts white."""
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == MODES[channels]:
        return image
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert(MODES[channels])


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale integers or floats; numbers that no scale is known for are a ValueError."""
    values = np.asarray(image)
    top = float(values.max(initial=0))
    if values.min(initial=0) < 0 or not top <= 65535:
        raise ValueError(f"values from {values.min()} to {top} in mode {image.mode}: save 16 bits")
    if image.mode == "F":  # a float TIFF: shares, bytes or 16 bits
        values = values * (65535.0 if top <= 1 else 257.0 if top <= 255 else 1.0)
    return Image.fromarray(np.rint(values / 257.0).astype(np.uint8))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (height, width) of an image once it is upright."""
    width, height = image.size
    turned = image.getexif().get(ORIENTATION, 1) >= 5
    return (width, height) if turned else (height, width)


def resized(
    image: Image.Image, channels: int, box: Sequence[float], height: int, width: int
) -> NDArray[np.uint8]:
    """Return (height, width, C) pixels of the box (top, left, height, width) of an upright image.

    JPEGs are decoded at a fraction of their size where that is enough.
    """
    size = image.size
    turned = upright_size(image) != size[::-1]
    wanted = DRAFT_GAP * max(height / box[2], width / box[3])
    wanted_size = (math.ceil(size[0] * wanted), math.ceil(size[1] * wanted))
    drafted = image.draft(MODES[channels], wanted_size)  # of JPEGs alone
    x, y = (1.0, 1.0) if drafted is None else (drafted[1][2] / size[0], drafted[1][3] / size[1])
    if turned:
        x, y = y, x
    image = converted(image, channels)
    top, left, h, w = box[0] * y, box[1] * x, box[2] * y, box[3] * x
    edges = (left, top, min(left + w, image.size[0]), min(top + h, image.size[1]))
    image = image.resize((width, height), Image.Resampling.BILINEAR, box=edges)
    return np.asarray(image).reshape(height, width, channels)


def kept(image: Image.Image, channels: int, side: int) -> NDArray[np.uint8]:
    """Return (h, w, C) pixels whose shorter side is at most `side`, with a longer one of 1.5 of it.

    The middle of longer images is kept; small images are not enlarged.
    """
    height, width = upright_size(image)
    limit = LONGEST * min(height, width)
    h, w = min(height, limit), min(width, limit)
    zoom = min(1.0, side / min(height, width))
    box = (round((height - h) / 2), round((width - w) / 2), h, w)
    return resized(image, channels, box, round(h * zoom), round(w * zoom))
