"""Segmentation of Pascal VOC: a fully convolutional head on a run's convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.fcn import FCNHead

from selfsup.evaluation.frame import Evaluation, Protocol, Row
from selfsup.evaluation.layers import known_layers
from selfsup.evaluation.stages import absorbed, map_shapes, stages
from selfsup.evaluation.voc.data import CLASSES, VOID, VocImages
from selfsup.evaluation.voc.loop import Batch, VocTraining, fit
from selfsup.evaluation.voc.precision import confusion, intersection_over_union
from selfsup.models import Network
from selfsup.seeds import seeded


@dataclass(frozen=True)
class VocSegmentationSettings(VocTraining):
    """Trained on the training images of VOC2012, tested on its validation images."""

    year: Literal["2007", "2008", "2009", "2010", "2011", "2012"] = "2012"
    train: Literal["train", "trainval", "val"] = "train"
    test: Literal["train", "trainval", "val", "test"] = "val"
    steps: int = 30_000
    batch: int = 8
    lr: float = 0.01
    drops: tuple[int, ...] = (20_000, 27_000)


class Segmenter(nn.Module):
    """A fully convolutional network: copies of all stages, batch normalisation absorbed, a head.

    Parameters
    ----------
    network : Network
        Whose stages are copied.
    frozen : bool
        Leave them as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, frozen: bool) -> None:
        super().__init__()
        parts = {name: absorbed(part) for name, part in stages(network.trunk).items()}
        *_, shape = map_shapes(parts, network.mean.shape[1], 224).values()
        self.register_buffer("mean", network.mean.clone())
        self.register_buffer("std", network.std.clone())
        self.backbone = nn.Sequential(*parts.values()).requires_grad_(not frozen)
        self.head = FCNHead(shape[0], len(CLASSES) + 1)
        self.to(network.mean.device)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, 21, H, W) logits of (B, C, H, W) images in [0, 1]."""
        maps = self.head(self.backbone((images - self.mean) / self.std))
        return F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)


def padded(batch: Batch, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return images and masks as batches: smaller ones end in their mean and in no class."""
    height, width = (max(image.shape[side] for image, _ in batch) for side in (1, 2))
    images = mean.expand(len(batch), -1, height, width).clone()
    masks = torch.full((len(batch), height, width), VOID, device=mean.device)
    for i, (image, target) in enumerate(batch):
        _, h, w = image.shape
        images[i, :, :h, :w] = image
        masks[i, :h, :w] = target["mask"]
    return images, masks


def segment(evaluation: Evaluation, settings: VocSegmentationSettings) -> list[Row]:
    """Train a head; return the mean intersection over union of test pixels, and their accuracy."""
    channels = evaluation.train.channels
    images, test = (
        VocImages(settings, part, channels, masks=True) for part in (settings.train, settings.test)
    )
    with seeded(evaluation.seed):
        model = Segmenter(evaluation.network, settings.frozen)

    def loss(batch: Batch) -> Tensor:
        shown, masks = padded(batch, model.mean)
        return F.cross_entropy(model(shown), masks, ignore_index=VOID)

    folder = evaluation.scratch("voc-segmentation", settings)
    fit(model, images, loss, settings, evaluation, folder)
    counts = torch.zeros((len(CLASSES) + 1,) * 2, dtype=torch.int64)
    with torch.no_grad():
        for i in range(len(test)):
            image, target = test[i]
            predicted = model(image[None].to(evaluation.device))[0].argmax(0).cpu()
            counts += confusion(predicted, target["mask"], len(counts))
    each = intersection_over_union(counts)
    named = dict(zip(("background", *CLASSES), each.tolist(), strict=True))
    return [
        {
            "training": "frozen" if settings.frozen else "fine-tuned",
            "images": len(test),
            "mIoU": float(each.nanmean()),
            "pixel_accuracy": float(counts.diag().sum() / counts.sum()),
            "IoU": named,
        }
    ]


VOC_SEGMENTATION = Protocol(
    "voc-segmentation",
    "a fully convolutional head on Pascal VOC (--voc-segmentation.data DIR)",
    segment,
    needs=(known_layers,),
)
