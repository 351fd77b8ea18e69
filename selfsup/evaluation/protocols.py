"""All protocols, and their settings: a new one is a line in each."""

from __future__ import annotations

from dataclasses import dataclass, field

from selfsup.evaluation.clusters import CLUSTERS
from selfsup.evaluation.finetune import FINETUNE, FinetuneSettings
from selfsup.evaluation.frame import Protocol
from selfsup.evaluation.knn import KNN, KnnSettings
from selfsup.evaluation.layers import LAYERS, LayersSettings
from selfsup.evaluation.linear import LINEAR, LinearSettings
from selfsup.evaluation.linear_sgd import LINEAR_SGD, LinearSgdSettings
from selfsup.evaluation.unlabelled import UNLABELLED, UnlabelledSettings
from selfsup.evaluation.voc.classification import VOC_CLASSIFICATION, VocClassificationSettings
from selfsup.evaluation.voc.detection import VOC_DETECTION, VocDetectionSettings
from selfsup.evaluation.voc.segmentation import VOC_SEGMENTATION, VocSegmentationSettings


@dataclass(frozen=True)
class Settings:
    """Settings of protocols, by name; on the command line as --NAME.FIELD."""

    knn: KnnSettings = field(default_factory=KnnSettings)
    linear: LinearSettings = field(default_factory=LinearSettings)
    linear_sgd: LinearSgdSettings = field(default_factory=LinearSgdSettings)
    unlabelled: UnlabelledSettings = field(default_factory=UnlabelledSettings)
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
    KNN, LINEAR, CLUSTERS, UNLABELLED, LINEAR_SGD, LAYERS, FINETUNE, VOC_CLASSIFICATION,
    VOC_DETECTION, VOC_SEGMENTATION,
)  # fmt: skip
