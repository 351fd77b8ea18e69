"""Pascal VOC on disk, as torchvision reads it: DIR/VOCdevkit/VOC2007/{Annotations, ...}."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import ParseError, parse

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import VOCDetection, VOCSegmentation

from selfsup.data import FileImages
from selfsup.data.decode import converted
from selfsup.data.sources import UNREADABLE, Files
from selfsup.errors import DataError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
#: A pixel of no class, in masks.
VOID = 255
Target = dict[str, Tensor]


@dataclass(frozen=True)
class VocSettings:
    """Which part of Pascal VOC is trained on, and which is for tests."""

    data: str = ""
    """Folder with VOCdevkit in it."""
    year: Literal["2007", "2008", "2009", "2010", "2011", "2012"] = "2007"
    train: Literal["train", "trainval", "val"] = "trainval"
    test: Literal["train", "trainval", "val", "test"] = "test"
    frozen: bool = True
    """Leave the convolutions before the new layers as they are; otherwise fine-tune them. Detection
    trains what boxes go on through in any case: fc6 and fc7 of AlexNet, the last stage of a ResNet.
    """
    workers: int = 0
    """Processes that decode images."""

    def files(self, part: str, kind: type[Any]) -> Any:
        """Return torchvision's data set of a part, whose files are known to be there."""
        if not self.data:
            raise DataError(
                "no folder of Pascal VOC is named; it has VOCdevkit/VOC2007 in it: for instance "
                "--voc-detection.data DIR"
            )
        try:
            found = kind(self.data, self.year, part)
        except (RuntimeError, OSError, ValueError) as error:
            raise DataError(
                f"{self.data}: no {part} images of VOC{self.year} here ({error}); it should hold "
                f"VOCdevkit/VOC{self.year}/{{JPEGImages,Annotations,ImageSets}}, unpacked from "
                "http://host.robots.ox.ac.uk/pascal/VOC"
            ) from error
        missing = [path for path in (*found.images, *found.targets) if not Path(path).is_file()]
        if missing or not len(found):
            raise DataError(f"{self.data}: of the {len(found)} {part} images of VOC{self.year}, "
                            f"{len(missing)} files are missing, such as {missing[:1]}")  # fmt: skip
        return found


def objects(path: str) -> Target:
    """Read an annotation: boxes (n, 4) float32, labels (n,) int64 from 1, difficult (n,) bool.

    Boxes are (left, top, right, bottom) in pixels, with the right and the bottom edge outside:
    the files count from 1 and name the last pixel, so that their 1 to 10 becomes 0 to 10.
    """
    try:
        found = parse(path).getroot().findall("object")
        boxes = [
            [float(one.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
            for one in found
        ]
        names = [CLASSES.index(one.findtext("name", "")) + 1 for one in found]
    except (ParseError, ValueError, OSError) as error:
        raise DataError(f"{path}: not an annotation of Pascal VOC ({error})") from error
    difficult = [one.findtext("difficult", "0").strip() == "1" for one in found]
    corners = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    corners[:, :2] -= 1
    labels = torch.tensor(names, dtype=torch.int64)
    return {
        "boxes": corners,
        "labels": labels,
        "difficult": torch.tensor(difficult, dtype=torch.bool),
    }


def presence(settings: VocSettings, part: str, channels: int) -> tuple[FileImages, Tensor]:
    """Return the images of a part, and (n, 20) int64: 1 shows the class, 0 not, -1 difficult."""
    found = settings.files(part, VOCDetection)
    present = torch.zeros((len(found), len(CLASSES)), dtype=torch.int64)
    for row, path in zip(present, found.targets, strict=True):
        target = objects(path)
        for difficult in (True, False):  # one that is not difficult decides
            row[target["labels"][target["difficult"] == difficult] - 1] = -1 if difficult else 1
    names = tuple(Path(path).name for path in found.images)
    source = Files(Path(found.images[0]).parent)
    unknown = torch.full((len(names),), -1)
    return FileImages(source, unknown, (), names, channels, settings.workers), present


@dataclass(frozen=True)
class VocImages(Dataset[tuple[Tensor, Target]]):
    """Whole images with what is on them: (C, H, W) float32 in [0, 1], and a target.

    The target is that of :func:`objects`, or for masks {"mask": (H, W) int64 of classes, 0 for the
    background, 255 for none}.
    """

    settings: VocSettings
    part: str
    channels: int
    masks: bool = False
    files: Any = field(init=False)

    def __post_init__(self) -> None:
        """Find the files."""
        kind = VOCSegmentation if self.masks else VOCDetection
        object.__setattr__(self, "files", self.settings.files(self.part, kind))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, Target]:
        """Read an image and its target."""
        path = self.files.images[i]
        try:
            with Image.open(path) as file:
                pixels = np.asarray(converted(file, self.channels)).copy()
            if self.masks:
                with Image.open(self.files.targets[i]) as file:  # a palette: indices are classes
                    mask = torch.from_numpy(np.asarray(file).astype(np.int64))
        except UNREADABLE as error:
            raise DataError(f"{path} or its mask cannot be read ({error})") from error
        image = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
        target = {"mask": mask} if self.masks else objects(self.files.targets[i])
        return image.float() / 255, target


def mirrored(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Return an image and its target as in a mirror."""
    flipped = dict(target)
    if "mask" in target:
        flipped["mask"] = target["mask"].flip(1)
    if "boxes" in target:
        left, top, right, bottom = target["boxes"].unbind(1)
        width = image.shape[2]
        flipped["boxes"] = torch.stack([width - right, top, width - left, bottom], 1)
    return image.flip(2), flipped
