"""Which of the 20 classes of Pascal VOC an image shows, told by a run's features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from selfsup.config import AugmentConfig, OptimiserConfig
from selfsup.evaluation.finetune import with_new_head
from selfsup.evaluation.frame import Evaluation, Protocol, Row
from selfsup.evaluation.stages import fix_norms
from selfsup.evaluation.training import drops, mean_logits, train
from selfsup.evaluation.voc.data import CLASSES, VocSettings, presence
from selfsup.evaluation.voc.precision import RULES, average_precision, mean_precision
from selfsup.models import AlexNet, Network
from selfsup.models.alexnet import initialise
from selfsup.seeds import seeded
from selfsup.sela import SelfLabels

#: The published rates for new layers alone, and for the whole network.
RATES = {True: 0.003, False: 0.001}
#: Largest norm of the gradient.
CLIP = 10.0
#: Random crops whose outputs are added up in a test.
CROPS = 10


@dataclass(frozen=True)
class VocClassificationSettings(VocSettings):
    """Those of DeepCluster's code, which the authors used."""

    epochs: int = 256
    """80,000 steps of 16 of VOC2007's 5,011 images."""
    batch: int = 16
    lr: float | None = None
    """It halves every sixteenth of the epochs; without it as published."""
    weight_decay: float = 1e-6
    crop: tuple[float, float] = (0.1, 0.5)
    """Share of the area of a random square crop, in training and in tests."""


def classifier(source: Network, frozen: bool, seed: int) -> Network:
    """Return a copy of a network with an output for each class, and fixed batch statistics.

    Frozen, AlexNet learns fc6 and fc7 anew besides the new layer (fc8); others, whose features are
    pooled maps, the new layer alone.
    """
    network = with_new_head(source, len(CLASSES), seed)
    trunk = network.trunk.requires_grad_(not frozen)
    if isinstance(trunk, AlexNet):
        with seeded(seed):
            trunk.classifier.apply(initialise)
        trunk.classifier.requires_grad_(True)
    fix_norms(trunk)
    return network


class Presence(SelfLabels):
    """(n, 20) int64 of what images show, with the sum of the binary cross-entropies as the loss.

    Of difficult ones, -1, nothing is learned.
    """

    def __init__(self, present: Tensor) -> None:
        super().__init__(len(present), (present.shape[1],), times=())
        self.present = present

    def loss(self, outputs: Sequence[Tensor], index: Tensor) -> Tensor:
        """Return the loss of one (B, 20) output on the images at `index`."""
        wanted = self.present[index.cpu()].to(outputs[0].device)
        losses = F.binary_cross_entropy_with_logits(
            outputs[0], wanted.clamp_min(0).to(outputs[0].dtype), reduction="none"
        )
        return losses[wanted >= 0].sum() / len(index)


def classify(evaluation: Evaluation, settings: VocClassificationSettings) -> list[Row]:
    """Return the mean average precision over the classes."""
    channels = evaluation.train.channels
    images, present = presence(settings, settings.train, channels)
    network = classifier(evaluation.network, settings.frozen, evaluation.seed)
    augment = AugmentConfig(crop=settings.crop, crop_ratio=(1.0, 1.0), flip=True)
    optimiser = OptimiserConfig(
        settings.epochs, settings.batch, lr=settings.lr or RATES[settings.frozen],
        lr_drops=drops(settings.epochs, *(i / 16 for i in range(1, 16))), lr_fall=0.5,
        weight_decay=settings.weight_decay, augment=augment, clip=CLIP,
    )  # fmt: skip
    folder = evaluation.scratch("voc-classification", settings)
    train(evaluation, images, network, Presence(present), optimiser, folder)

    images, present = presence(settings, settings.test, channels)
    (logits,) = mean_logits(evaluation, network, images, [augment] * CROPS)
    row: Row = {"training": "frozen" if settings.frozen else "fine-tuned", "images": len(images)}
    for rule in RULES:
        each = {}
        for name, score, truth in zip(CLASSES, logits.T, present.T, strict=True):
            counts = truth >= 0
            positives = int((truth == 1).sum())
            each[name] = average_precision(score[counts], truth[counts] == 1, positives, rule)
        row |= {f"mAP_{rule}": mean_precision(each), f"AP_{rule}": each}
    return [row]


VOC_CLASSIFICATION = Protocol(
    "voc-classification",
    "the classes of Pascal VOC on frozen or fine-tuned features (--voc-classification.data DIR)",
    classify,
)
