"""Detection on Pascal VOC: torchvision's Faster R-CNN on a run's convolutions."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from selfsup.evaluation.frame import Evaluation, Protocol, Row
from selfsup.evaluation.layers import known_layers
from selfsup.evaluation.stages import absorbed, map_shapes, stages
from selfsup.evaluation.voc.data import CLASSES, Target, VocImages, objects
from selfsup.evaluation.voc.loop import Batch, VocTraining, fit
from selfsup.evaluation.voc.precision import (
    RULES,
    average_precision,
    detection_hits,
    mean_precision,
)
from selfsup.models import AlexNet, Network
from selfsup.seeds import seeded


@dataclass(frozen=True)
class VocDetectionSettings(VocTraining):
    """The usual ones of Fast R-CNN with AlexNet on VOC2007."""

    shorter: int = 600
    """Shorter side of the images, in pixels; the longer one is at most 5/3 of it."""
    anchors: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Sides of the boxes that are asked about, in pixels."""
    proposals: int = 2000
    """Boxes that are considered in each image of a training step; half as many in a test."""
    boxes: int = 128
    """Boxes of each image that a training step learns to name."""


def maps_of(trunk: nn.Module) -> dict[str, nn.Module]:
    """Return the stages whose last maps proposals are made on: of a ResNet all but the last."""
    parts = stages(trunk)
    if not isinstance(trunk, AlexNet):
        parts.popitem()
    return parts


def detector(network: Network, settings: VocDetectionSettings, seed: int) -> FasterRCNN:
    """Return a Faster R-CNN on copies of a network's layers, with batch normalisation absorbed.

    AlexNet: proposals and boxes on conv5, boxes go on through its fc6 and fc7. ResNets: on the last
    stage but one, boxes go on through the last stage and are pooled. Frozen or not, what boxes go
    on through is trained.
    """
    trunk, channels = network.trunk, network.mean.shape[1]
    parts = {name: absorbed(part) for name, part in maps_of(trunk).items()}
    if isinstance(trunk, AlexNet):
        side, head = 6, nn.Sequential(nn.Flatten(), copy.deepcopy(trunk.classifier))
    else:
        last = absorbed(list(stages(trunk).values())[-1])
        side, head = 14, nn.Sequential(last, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone = nn.Sequential(*parts.values()).requires_grad_(not settings.frozen)
    *_, shape = map_shapes(parts, channels, 224).values()
    backbone.out_channels = shape[0]  # type: ignore[assignment]
    with seeded(seed):
        model = FasterRCNN(
            backbone,
            min_size=settings.shorter,
            max_size=settings.shorter * 5 // 3,
            image_mean=network.mean.flatten().tolist(),
            image_std=network.std.flatten().tolist(),
            rpn_anchor_generator=AnchorGenerator((settings.anchors,), ((0.5, 1.0, 2.0),)),
            box_roi_pool=MultiScaleRoIAlign(["0"], side, 2),
            rpn_pre_nms_top_n_train=settings.proposals,
            rpn_post_nms_top_n_train=settings.proposals,
            rpn_pre_nms_top_n_test=settings.proposals // 2,
            rpn_post_nms_top_n_test=settings.proposals // 2,
            box_batch_size_per_image=settings.boxes,
            box_head=head.requires_grad_(True),
            box_predictor=FastRCNNPredictor(network.dim, len(CLASSES) + 1),
        )
    return model.to(network.mean.device)


@torch.no_grad()
def detections(model: FasterRCNN, images: VocImages, device: torch.device) -> list[Target]:
    """Return what is found in each image: boxes, labels and scores, on the CPU."""
    model.eval()
    found = []
    for i in range(len(images)):
        (one,) = model([images[i][0].to(device)])
        found.append({name: value.cpu() for name, value in one.items()})
    return found


def average_precisions(found: list[Target], truths: list[Target]) -> Row:
    """Return the mean average precision by each rule, and that of each class."""
    row: Row = {f"AP_{rule}": {} for rule in RULES}
    for label, name in enumerate(CLASSES, start=1):
        judged = detection_hits(found, truths, label)
        for rule in RULES:
            row[f"AP_{rule}"][name] = average_precision(*judged, rule)
    return {f"mAP_{rule}": mean_precision(row[f"AP_{rule}"]) for rule in RULES} | row


def detect(evaluation: Evaluation, settings: VocDetectionSettings) -> list[Row]:
    """Train a detector; return its mean average precision on the test images."""
    channels = evaluation.train.channels
    images, test = (VocImages(settings, part, channels) for part in (settings.train, settings.test))
    model = detector(evaluation.network, settings, evaluation.seed)

    def loss(batch: Batch) -> Tensor:
        shown, truths = zip(*batch, strict=True)
        easy = [
            {name: target[name][~target["difficult"]] for name in ("boxes", "labels")}
            for target in truths
        ]
        return sum(model(list(shown), easy).values())  # type: ignore[no-any-return]

    folder = evaluation.scratch("voc-detection", settings)
    fit(model, images, loss, settings, evaluation, folder)
    found = detections(model, test, evaluation.device)
    truths = [objects(path) for path in test.files.targets]
    *_, layer = maps_of(evaluation.network.trunk)
    training = f"frozen up to {layer}" if settings.frozen else "fine-tuned"
    return [{"training": training, "images": len(test), **average_precisions(found, truths)}]


VOC_DETECTION = Protocol(
    "voc-detection",
    "Faster R-CNN on Pascal VOC with the run's convolutions (--voc-detection.data DIR)",
    detect,
    needs=(known_layers,),
)
