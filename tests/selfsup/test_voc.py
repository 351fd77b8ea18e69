"""Pascal VOC on a set that the tests make: what is read, and that each protocol learns.

Each protocol is trained twice: with a network that sees, to a bound, and with one whose layers
give the same everywhere, which misses it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from once import once
from PIL import Image
from subjects import evaluation
from tiny_voc import NUMBERS, SIDE, make_voc
from torch import nn

from selfsup.data import DataError, TensorImages
from selfsup.evaluation.voc import loop
from selfsup.evaluation.voc.classification import (
    Presence,
    VocClassificationSettings,
    classifier,
    classify,
)
from selfsup.evaluation.voc.data import CLASSES, VocImages, VocSettings, mirrored, presence
from selfsup.evaluation.voc.detection import VocDetectionSettings, detect, detector
from selfsup.evaluation.voc.precision import RULES
from selfsup.evaluation.voc.segmentation import (
    Segmenter,
    VocSegmentationSettings,
    padded,
    segment,
)

CLASSIFICATION = {"epochs": 32, "lr": 0.05, "crop": (0.4, 1.0)}
DETECTION = {
    "steps": 130, "batch": 4, "lr": 0.05, "drops": (110,), "warmup": 20, "shorter": SIDE,
    "anchors": (12, 24, 36), "proposals": 100, "boxes": 32,
}  # fmt: skip
SEGMENTATION = {
    "year": "2007", "test": "test", "steps": 80, "lr": 0.05, "drops": (70,), "warmup": 5,
}  # fmt: skip


@pytest.fixture(scope="session")
def voc(tmp_path_factory):
    return str(once(tmp_path_factory, "voc", make_voc))


def subject(voc, folder, *, blind=False):
    """Return a random network with statistics of the images; a blind one sees no difference."""
    images = VocImages(VocSettings(data=voc), "trainval", 3)
    pixels = torch.stack([images[i][0] for i in range(len(images))])
    known = TensorImages(
        (255 * pixels).to(torch.uint8), torch.zeros(len(pixels), dtype=torch.int64), (),
        tuple(map(str, range(len(pixels)))),
    )  # fmt: skip
    made = evaluation(folder, known, side=SIDE)
    if blind:
        nn.init.zeros_(made.network.trunk.layers[0].weight)
    return made


def test_annotations_masks_and_presence_by_hand(voc, tmp_path):
    place = tmp_path / "VOCdevkit/VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main", "ImageSets/Segmentation",
                   "SegmentationClass"):  # fmt: skip
        (place / folder).mkdir(parents=True)
    for kind in ("Main", "Segmentation"):
        (place / f"ImageSets/{kind}/trainval.txt").write_text("000005\n")
    Image.new("RGB", (20, 10), (255, 0, 51)).save(place / "JPEGImages/000005.jpg", quality=100)
    mask = np.zeros((10, 20), np.uint8)
    mask[2:5, 3:7], mask[0, 0] = 12, 255
    segments = Image.fromarray(mask, mode="P")
    segments.putpalette(list(range(256)) * 3)
    segments.save(place / "SegmentationClass/000005.png")
    (place / "Annotations/000005.xml").write_text(
        "<annotation><folder>VOC2007</folder>"
        "<object><name>dog</name><difficult>0</difficult><bndbox><xmin>4</xmin><ymin>3</ymin>"
        "<xmax>7</xmax><ymax>5</ymax></bndbox><part><name>head</name></part></object>"
        "<object><name>person</name><difficult>1</difficult><bndbox><xmax>20</xmax><xmin>1</xmin>"
        "<ymin>1</ymin><ymax>10</ymax></bndbox></object></annotation>"
    )
    settings = VocSettings(data=str(tmp_path))
    image, target = VocImages(settings, "trainval", 3)[0]
    assert image.shape == (3, 10, 20)
    assert image.mean((1, 2)).tolist() == pytest.approx([1, 0, 0.2], abs=0.02)
    assert target["boxes"].tolist() == [[3, 2, 7, 5], [0, 0, 20, 10]]
    assert [CLASSES[i - 1] for i in target["labels"]] == ["dog", "person"]
    assert target["difficult"].tolist() == [False, True]
    _, masked = VocImages(settings, "trainval", 3, masks=True)[0]
    assert masked["mask"].unique(return_counts=True)[1].tolist() == [187, 12, 1]
    flipped, mirror = mirrored(image, target | masked)
    assert mirror["boxes"].tolist() == [[13, 2, 17, 5], [0, 0, 20, 10]]
    assert (mirror["mask"][2:5, 13:17] == 12).all()
    assert torch.equal(flipped[:, :, 0], image[:, :, -1])
    images, present = presence(settings, "trainval", 3)
    assert len(images) == 1
    assert present[0].nonzero()[:, 0].tolist() == [11, 14]
    assert present[0, [11, 14]].tolist() == [1, -1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no folder of Pascal VOC is named"),
        ({"data": "nowhere"}, "no trainval images of VOC2007 here"),
        ({"year": "2012"}, r"no trainval images of VOC2012 here .*unpacked from"),
    ],
)
def test_a_missing_data_set_is_told(voc, settings, message):
    with pytest.raises(DataError, match=message):
        VocImages(VocSettings(**{"data": voc, **settings} if settings else {}), "trainval", 3)


def test_an_annotation_of_an_unknown_class_is_told(tmp_path):
    make_voc(tmp_path, 1, 1)
    file = tmp_path / "VOCdevkit/VOC2007/Annotations/000000.xml"
    file.write_text("<annotation><object><name>unicorn</name></object></annotation>")
    with pytest.raises(DataError, match=r"000000\.xml: not an annotation"):
        presence(VocSettings(data=str(tmp_path)), "trainval", 3)


def test_the_loss_of_presence_by_hand():
    """Sums over the classes that are sure, a mean over images."""
    labels = Presence(torch.tensor([[1, 0, -1], [0, 0, 1]]))
    logits = torch.tensor([[2.0, 0.0, 9.0], [0.0, -1.0, 1.0]])
    softplus = nn.functional.softplus
    sure = torch.tensor([-2.0, 0.0, 0.0, -1.0, -1.0])
    loss = labels.loss([logits], torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(softplus(sure).sum().item() / 2)


@pytest.mark.parametrize("blind", [False, True])
def test_classification(voc, tmp_path, blind):
    made = subject(voc, tmp_path, blind=blind)
    (row,) = classify(made, VocClassificationSettings(data=voc, **CLASSIFICATION))
    assert {name for name, value in row["AP_area"].items() if value == value} == set(NUMBERS)
    for rule in RULES:
        assert row[f"mAP_{rule}"] < 0.65 if blind else row[f"mAP_{rule}"] > 0.8


def test_a_frozen_network_keeps_its_features(voc, tmp_path):
    made = subject(voc, tmp_path)
    settings = VocClassificationSettings(data=voc, **{**CLASSIFICATION, "epochs": 1})
    classify(made, settings)
    (run,) = tmp_path.glob("**/training/checkpoints/*.pt")
    saved = torch.load(run, weights_only=True)["network"]
    own = made.network.state_dict()
    assert torch.equal(saved["trunk.norm.module.running_mean"], own["trunk.norm.running_mean"])
    assert torch.equal(saved["trunk.layers.0.weight"], own["trunk.layers.0.weight"])
    tuned = classifier(made.network, False, 0)
    assert all(parameter.requires_grad for parameter in tuned.parameters())


@pytest.mark.parametrize("blind", [False, True])
def test_detection(voc, tmp_path, blind):
    """Boxes of the right colour; a network that sees nothing finds none."""
    made = subject(voc, tmp_path, blind=blind)
    (row,) = detect(made, VocDetectionSettings(data=voc, frozen=blind, **DETECTION))
    assert row["training"] == ("frozen up to layer2" if blind else "fine-tuned")
    for rule in RULES:
        assert row[f"mAP_{rule}"] < 0.2 if blind else row[f"mAP_{rule}"] > 0.5


def test_a_stopped_detector_goes_on_and_ends_in_the_same_bits(voc, tmp_path, monkeypatch):
    settings = VocDetectionSettings(data=voc, **{**DETECTION, "steps": 4})
    whole = subject(voc, tmp_path / "whole")
    detect(whole, settings)
    monkeypatch.setattr(loop, "SAVE_MINUTES", 0.0)
    stopped, save = subject(voc, tmp_path / "stopped"), loop._save

    def until_two(file, state, step):
        save(file, state, step)
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", until_two)
    with pytest.raises(KeyboardInterrupt):
        detect(stopped, settings)
    monkeypatch.setattr(loop, "_save", save)
    detect(stopped, settings)
    ends = [torch.load(next(made.run.glob("**/training.pt")), weights_only=True)["model"]
            for made in (whole, stopped)]  # fmt: skip
    assert all(torch.equal(ends[0][name], value) for name, value in ends[1].items())


@pytest.mark.parametrize("arch", ["alexnet", "resnet18", "preact-resnet18"])
def test_a_detector_stands_on_the_layers_of_the_run(tmp_path, arch):
    """Its maps and what it makes of a box are those of the trunk; frozen, the maps stay."""
    side = 224 if arch == "alexnet" else 64
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    images = TensorImages(pixels, torch.zeros(2, dtype=torch.int64), (), ("a", "b"))
    network = evaluation(tmp_path, images, side=side, arch=arch).network
    model = detector(network, VocDetectionSettings(frozen=True), 0).eval()
    x = (pixels.float() / 255 - network.mean) / network.std
    with torch.no_grad():
        maps = model.backbone(x)["0"] if isinstance(model.backbone(x), dict) else model.backbone(x)
        pooled = nn.functional.max_pool2d(maps, 3, 2) if arch == "alexnet" else maps
        features, truth = model.roi_heads.box_head(pooled), network.features(pixels.float() / 255)
    assert torch.allclose(features, truth, rtol=1e-3, atol=1e-3 * truth.abs().max())
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    assert all(parameter.requires_grad for parameter in model.roi_heads.parameters())
    norms = [m for m in model.train().modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(norm.training for norm in norms)


@pytest.mark.parametrize("blind", [False, True])
def test_segmentation(voc, tmp_path, blind):
    made = subject(voc, tmp_path, blind=blind)
    (row,) = segment(made, VocSegmentationSettings(data=voc, frozen=blind, **SEGMENTATION))
    assert row["mIoU"] < 0.3 if blind else row["mIoU"] > 0.45


def test_batches_of_segmentation_end_in_no_class(voc, tmp_path):
    """What was added to smaller images has no loss, and the mean of the images as pixels."""
    made = subject(voc, tmp_path)
    model = Segmenter(made.network, frozen=True)
    small = torch.ones(3, 4, 6), {"mask": torch.ones(4, 6, dtype=torch.int64)}
    large = torch.ones(3, 5, 5), {"mask": torch.ones(5, 5, dtype=torch.int64)}
    images, masks = padded([small, large], model.mean)
    assert images.shape == (2, 3, 5, 6)
    assert masks.unique(return_counts=True)[1].tolist() == [24 + 25, 60 - 49]
    assert (images[0, :, 4] == model.mean.flatten()[:, None]).all()
    assert (masks[1, :, 5] == 255).all()
