"""All protocols, and their settings: a new one is a line in each."""

from __future__ import annotations

from dataclasses import dataclass, field

from selfsup.evaluation.finetune import FINETUNE, FinetuneSettings
from selfsup.evaluation.frame import Protocol
from selfsup.evaluation.knn import KNN, KnnSettings
from selfsup.evaluation.layers import LAYERS, LayersSettings
from selfsup.evaluation.voc.classification import VOC_CLASSIFICATION, VocClassificationSettings
from selfsup.evaluation.voc.detection import VOC_DETECTION, VocDetectionSettings
from selfsup.evaluation.voc.segmentation import VOC_SEGMENTATION, VocSegmentationSettings


@dataclass(frozen=True)
class Settings:
    """Settings of protocols, by name; on the command line as --NAME.FIELD."""

    knn: KnnSettings = field(default_factory=KnnSettings)
    layers: LayersSettings = field(default_factory=LayersSettings)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    voc_classification: VocClassificationSettings = field(default_factory=VocClassificationSettings)
    voc_detection: VocDetectionSettings = field(default_factory=VocDetectionSettings)
    voc_segmentation: VocSegmentationSettings = field(default_factory=VocSegmentationSettings)

    def of(self, protocol: Protocol) -> object:
        """Return the settings of a protocol; None if it has none."""
        return getattr(self, protocol.name.replace("-", "_"), None)


#: In the order in which they are run.
PROTOCOLS: tuple[Protocol, ...] = (
    KNN, LAYERS, FINETUNE, VOC_CLASSIFICATION, VOC_DETECTION, VOC_SEGMENTATION,
)  # fmt: skip
