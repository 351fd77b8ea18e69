"""Small square pictures of images, many of them in one JPEG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from selfsup.data import ImageSet, TensorImages

#: Side of a picture.
TILE = 64


def tiles_of(images: ImageSet, shown: NDArray[np.int64], files: bool) -> list[NDArray[np.uint8]]:
    """Return (h, w, C) pictures: with `files`, of the files where there are any."""
    if files and isinstance(images, TensorImages) and images.origin is not None:
        located = [images.locate(i) for i in shown.tolist()]
        images = images.origin if all(x is not None and x.is_file() for x in located) else images
    return images.thumbnails(torch.from_numpy(shown), TILE)


def data_url(tiles: Sequence[NDArray[np.uint8]], columns: int) -> str:
    """Return the pictures in rows of `columns`, the middle of each, as the data URL of a JPEG."""
    sheet = Image.new("RGB", (columns * TILE, -(-len(tiles) // columns) * TILE), "white")
    for position, tile in enumerate(tiles):
        picture = Image.fromarray(tile if tile.shape[2] == 3 else tile[:, :, 0])
        side = min(picture.size)
        left, top = ((edge - side) // 2 for edge in picture.size)
        square = picture.crop((left, top, left + side, top + side)).resize((TILE, TILE))
        sheet.paste(square, (position % columns * TILE, position // columns * TILE))
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
