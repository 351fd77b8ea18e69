"""Coloured shapes on plain grounds, laid out as Pascal VOC lays out its images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

#: Classes of Pascal VOC that stand for colours here.
COLOURS = {"bus": (220, 40, 40), "car": (40, 200, 60), "cat": (50, 80, 230)}
NUMBERS = {"bus": 6, "car": 7, "cat": 8}
SIDE = 64


def make_voc(root: Path, train: int = 24, test: int = 16, seed: int = 0) -> Path:
    """Write images of one or two squares; return `root`, with VOCdevkit/VOC2007 in it."""
    rng, place = np.random.default_rng(seed), root / "VOCdevkit/VOC2007"
    for folder in ("Annotations", "JPEGImages", "SegmentationClass", "ImageSets/Main",
                   "ImageSets/Segmentation"):  # fmt: skip
        (place / folder).mkdir(parents=True)
    names = [f"{i:06d}" for i in range(train + test)]
    parts = {"trainval": names[:train], "train": names[:train], "test": names[train:],
             "val": names[train:]}  # fmt: skip
    for part, some in parts.items():
        for kind in ("Main", "Segmentation"):
            (place / f"ImageSets/{kind}/{part}.txt").write_text("\n".join(some) + "\n")
    palette = list(rng.integers(0, 256, 768).tolist())
    for name in names:
        pixels = np.full((SIDE, SIDE, 3), 128.0) + rng.normal(0, 8, (SIDE, SIDE, 3))
        mask, found = np.zeros((SIDE, SIDE), np.uint8), ""
        for half in range(int(rng.integers(1, 3))):  # in the left half, perhaps in the right one
            kind = str(rng.choice(list(COLOURS)))
            w, h = (int(side) for side in rng.integers(16, 29, 2))
            left = int(rng.integers(0, SIDE // 2 - w + 1)) + half * SIDE // 2
            top = int(rng.integers(0, SIDE - h + 1))
            pixels[top : top + h, left : left + w] = COLOURS[kind]
            mask[top : top + h, left : left + w] = NUMBERS[kind]
            corners = {"xmin": left + 1, "ymin": top + 1, "xmax": left + w, "ymax": top + h}
            box = "".join(f"<{side}>{value}</{side}>" for side, value in corners.items())
            found += f"<object><name>{kind}</name><bndbox>{box}</bndbox></object>"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
            place / f"JPEGImages/{name}.jpg", quality=95
        )
        segments = Image.fromarray(mask, mode="P")
        segments.putpalette(palette)
        segments.save(place / f"SegmentationClass/{name}.png")
        (place / f"Annotations/{name}.xml").write_text(f"<annotation>{found}</annotation>")
    return root
