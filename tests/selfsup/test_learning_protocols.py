"""Protocols that train: probes on layers, fine-tuning, ten crops, transfer."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from subjects import coloured, evaluation, write_folders
from torch import nn
from torchvision.transforms import v2

from selfsup.cli import main
from selfsup.config import AugmentConfig, ModelConfig, OptimiserConfig
from selfsup.data import FileImages, TensorImages
from selfsup.data.sources import Files
from selfsup.errors import ConfigError
from selfsup.evaluation import finetune as finetune_module
from selfsup.evaluation.finetune import FinetuneSettings, finetune, optimiser_for
from selfsup.evaluation.frame import Protocol
from selfsup.evaluation.layers import LAYERS, LayerProbes, LayersSettings, layers
from selfsup.evaluation.stages import absorbed, map_shapes, stages
from selfsup.evaluation.training import (
    PLACES,
    TEN_CROP_PART,
    ClassLabels,
    accuracies,
    drops,
    mean_logits,
    ten_crop_logits,
    train,
    training_views,
)
from selfsup.evaluation.transfer import transfer_config
from selfsup.models import build_trunk
from selfsup.presets import PRESETS
from selfsup.training import fit
from selfsup.training.checkpoints import (
    VERSION,
    create_run,
    load_checkpoint,
    load_config,
    save_checkpoint,
)


def shaken(module):
    """Give batch normalisation statistics and weights that matter."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, std=0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, std=0.3)
    return module.eval()


REST = {
    "alexnet": lambda t, x: t.classifier(t.features[-1](x).flatten(1)),
    "resnet18": lambda t, x: x.mean((2, 3)),
    "preact-resnet18": lambda t, x: x.mean((2, 3)),
    "small-resnet": lambda t, x: t.norm(x.mean((2, 3))),
}


@pytest.mark.parametrize("arch", REST)
def test_the_stages_and_what_follows_are_the_trunk(arch):
    """Also with batch normalisation absorbed, which then stays as it is in training."""
    torch.manual_seed(0)
    trunk = shaken(build_trunk(ModelConfig(arch, width=8, blocks=2), 3))
    side = 224 if arch == "alexnet" else 32
    x = torch.rand(2, 3, side, side)
    plain = folded = x
    with torch.no_grad():
        for name, part in stages(trunk).items():
            plain, folded = part(plain), absorbed(part).train()(folded)
            assert torch.allclose(plain, folded, rtol=1e-3, atol=1e-4 * plain.abs().max()), name
        truth = trunk(x)
        assert torch.allclose(REST[arch](trunk, plain), truth, rtol=1e-4, atol=1e-5)
    shapes = map_shapes(stages(trunk), 3, side)
    assert tuple(list(shapes.values())[-1]) == tuple(plain.shape[1:])


def test_alexnet_is_pooled_as_in_the_authors_code(tmp_path):
    """Their sizes of flattened maps: 9600, 9216, 9600, 9600, 9216."""
    images = coloured(2, 224)
    subject = evaluation(tmp_path, images, images, side=224, arch="alexnet")
    network = LayerProbes(subject.network, 1000, 224)
    sizes = {name: probe[-1].in_features for name, probe in network.probes.items()}
    assert sizes == dict(conv1=9600, conv2=9216, conv3=9600, conv4=9600, conv5=9216)
    assert [m for m in network.trunk.modules() if isinstance(m, nn.BatchNorm2d)] == []
    assert {p.shape[0] for p in network.parameters() if p.requires_grad} == {1000}
    assert all(z.shape == (2, 1000) for z in network.train()(torch.rand(2, 3, 224, 224)))


def test_probes_trained_together_are_those_trained_alone(tmp_path):
    """The loss of one layer moves no other layer's probe, at the same rate."""

    class OneProbe(LayerProbes):
        def forward(self, images, rotated=False):
            return super().forward(images)[2:3]

    trained = []
    for kind, heads in ((LayerProbes, 4), (OneProbe, 1)):
        subject = evaluation(tmp_path / str(heads))
        torch.manual_seed(0)
        network = kind(subject.network, 3, 16)
        labels = ClassLabels(subject.train, heads)
        optimiser = OptimiserConfig(2, 20, lr=0.01)
        train(subject, subject.train, network, labels, optimiser, tmp_path / str(heads))
        trained.append(network.probes)
    together, alone = trained
    assert torch.equal(together["layer2"][-1].weight, alone["layer2"][-1].weight)
    assert not torch.equal(together["stem"][-1].weight, alone["stem"][-1].weight)


def test_probes_tell_a_layer_that_sees_from_one_that_does_not(tmp_path):
    """After a stage that gives zeros, a probe knows nothing; the stages before it do."""
    subject = evaluation(tmp_path, test=coloured(30, 16, seed=1))
    block = subject.network.trunk.layers[-1]
    for norm in (block.bn2, block.downsample[1]):
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
    rows = {row["layer"]: row for row in layers(subject, LayersSettings(epochs=4, batch=20))}
    assert [rows[name]["top1"] for name in ("stem", "layer1", "layer2")] == [1.0] * 3
    assert rows["layer3"]["top1"] == pytest.approx(1 / 3)
    assert rows["layer2"]["top1_ten_crops"] == 1.0


def test_the_layers_of_a_network_of_ones_own_are_not_known(tmp_path):
    subject = evaluation(tmp_path, test=coloured(3, 16))
    subject.network.trunk = nn.Sequential(nn.Flatten())
    assert isinstance(LAYERS, Protocol)
    assert "layers of a Sequential are not known" in str(LAYERS.why_not(subject))
    with pytest.raises(ConfigError, match="Sequential"):
        stages(subject.network.trunk)


def _ramps(height, width):
    """Return an image whose red says how far down a pixel is, and green how far across."""
    rows, columns = np.mgrid[:height, :width]
    ramps = [rows * 255 / (height - 1), columns * 255 / (width - 1), np.full_like(rows, 60.0)]
    return np.stack(ramps, 2).round().astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (300, 400), (512, 384)])
@pytest.mark.parametrize("in_memory", [True, False])
def test_ten_crops_are_torchvisions(tmp_path, height, width, in_memory):
    """Of images in memory and of files: the same pixels, up to how they are made smaller."""
    pixels = _ramps(height, width)
    Image.fromarray(pixels).save(tmp_path / "ramps.png")
    files = FileImages(Files(tmp_path), torch.tensor([-1]), (), ("ramps.png",))
    images = files.in_memory(256)[0] if in_memory else files
    small = v2.Resize(256)(Image.fromarray(pixels))
    theirs = [v2.functional.pil_to_tensor(crop) / 255 for crop in v2.TenCrop(224)(small)]
    ours = []
    for place in PLACES:
        crop = AugmentConfig(centre=TEN_CROP_PART, place=place)
        (view,) = images.views([torch.tensor([0])], crop, 224, seeds=[0])
        ours.append(view[0])
    ours += [ours[i].flip(2) for i in (1, 0, 3, 2, 4)]  # theirs are crops of the mirrored image
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).abs().max() < 2.5 / 255  # two pixels of the image
        assert (one - other).abs().mean() < 0.7 / 255


def test_logits_are_means_over_the_ten_crops(tmp_path):
    """A network that tells the colour of the corner of what it sees tells ten corners' mean."""
    pixels = torch.from_numpy(_ramps(16, 16)).permute(2, 0, 1)[None]
    images = TensorImages(pixels, torch.zeros(1, dtype=torch.int64), ("a",), ("a",))
    subject = evaluation(tmp_path, images, images, side=16, size=14)

    class Corner(nn.Module):
        def forward(self, x):
            return (x[:, :2, 0, 0],)

    (logits,) = ten_crop_logits(subject, Corner(), images)
    # 14 of 16 pixels from the first or the last but 13; of the mirrored ones the other side's
    down, across = (
        (0 + 0 + 2 + 2 + 1) / 5,
        ((0 + 2 + 0 + 2 + 1) / 5 + (13 + 15 + 13 + 15 + 14) / 5) / 2,
    )
    assert logits[0].tolist() == pytest.approx([down / 15, across / 15], abs=3e-3)
    (one,) = mean_logits(subject, Corner(), images, [AugmentConfig(centre=0.875)])
    assert one[0].tolist() == pytest.approx([1 / 15, 1 / 15], abs=3e-3)


def test_accuracies_by_hand():
    logits = torch.tensor([[6.0, 5, 4, 3, 2, 1]] * 3)
    assert accuracies(logits, torch.tensor([0, 4, 5])) == {
        "top1": pytest.approx(1 / 3), "top5": pytest.approx(2 / 3)
    }  # fmt: skip
    assert accuracies(logits[:, :3], torch.tensor([0, 0, 2]), "_x") == {
        "top1_x": pytest.approx(2 / 3)
    }


def test_finetuning_sees_equal_shares_of_the_labels(tmp_path, monkeypatch):
    """1% of 200 images a class are 2 of each; more labels help where colours are hard to tell."""
    monkeypatch.setattr(finetune_module, "STEPS", 20)
    seen = []
    trained = finetune_module.train
    monkeypatch.setattr(
        finetune_module,
        "train",
        lambda evaluation, images, *rest: (
            seen.append(images), trained(evaluation, images, *rest)
        ),
    )  # fmt: skip
    subject = evaluation(tmp_path, coloured(600, 8), coloured(30, 8, seed=1), side=8)
    rows = finetune(subject, FinetuneSettings((0.01, 1.0), epochs=4, lr=0.02))
    few, every = seen
    chosen = set(few.paths)
    assert len(few) > len(chosen) == rows[0]["images"] == 6  # an epoch shows them repeatedly
    assert sorted(int(path[-4:]) % 3 for path in chosen) == [0, 0, 1, 1, 2, 2]
    assert len(every) == len(set(every.paths)) == rows[1]["images"] == 600
    assert rows[1]["top1"] > 0.9
    assert [row["labels"] for row in rows] == ["1%", "100%"]
    seen.clear()
    again = evaluation(tmp_path / "again", coloured(600, 8), coloured(30, 8, seed=1), side=8)
    (row,) = finetune(again, FinetuneSettings((0.005,), epochs=4))
    assert row["labels"] == "0.5%"
    assert set(seen[0].paths) < chosen


def test_a_short_training_begins_at_the_whole_rate():
    assert drops(36, 10 / 36, 20 / 36, 30 / 36) == (10, 20, 30)
    assert drops(1, 10 / 36, 20 / 36, 30 / 36) == (1, 1, 1)


def test_finetuning_takes_the_published_rates_where_they_were_published(tmp_path):
    images = coloured(6, 64)
    subject = evaluation(tmp_path, images, images, side=64, arch="resnet18")
    assert optimiser_for(subject, FinetuneSettings(), 0.01).batch_size == 64
    config = subject.config
    imagenet = replace(
        subject, config=replace(config, data=replace(config.data, dataset="imagenet"))
    )
    rates = {}
    for share in (0.01, 0.1, 1.0):
        optimiser = optimiser_for(imagenet, FinetuneSettings(), share)
        rates[share] = optimiser.lr, optimiser.lr_heads
        assert (optimiser.epochs, optimiser.batch_size, optimiser.lr_drops) == (20, 256, (12, 16))
        assert (optimiser.lr_fall, optimiser.weight_decay) == (0.2, 0)
    assert rates == {0.01: (0.02, 5.0), 0.1: (0.01, 0.2), 1.0: (0.01, 0.2)}
    assert training_views(imagenet).crop == (0.08, 1.0)


def test_a_stopped_protocol_goes_on_and_ends_in_the_same_bits(tmp_path, monkeypatch):
    settings = LayersSettings(epochs=2, batch=20, ten_crops=False)
    whole = layers(evaluation(tmp_path / "whole", test=coloured(30, 16, seed=1)), settings)
    subject = evaluation(tmp_path / "stopped", test=coloured(30, 16, seed=1))
    steps = itertools.count()

    def stop(*arguments, **options):
        if next(steps) == 4:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    real = fit.gradient_step
    monkeypatch.setattr(fit, "gradient_step", stop)
    with pytest.raises(KeyboardInterrupt):
        layers(subject, settings)
    assert layers(subject, settings) == whole
    run = next(subject.run.glob("evaluation/layers-*/training"))
    assert load_config(run).run.keep_every > 2  # none but the newest stays
    assert next(steps) == 8  # 3 steps of the first epoch were saved, the fourth was lost


def test_transfer_teaches_a_runs_labels_to_another_network(tmp_path, monkeypatch, capsys):
    """With quarter turns; called again it trains no more, and other settings are refused."""
    monkeypatch.chdir(tmp_path)
    data = [*write_folders(tmp_path / "images", coloured(48, 8)), "--hold-out", "0.25"]
    small = ["--epochs", "1", "--updates", "2", "--clusters", "4", "3", "--width", "8"]
    assert main(["train", "folder", *data, *small]) == 0
    transfer = ["transfer", "runs/folder", "--arch", "subjects:narrow", "--image-size", "16"]
    transfer += ["--epochs", "2", "--protocol", "knn"]
    assert main([*transfer, "--rotation"]) == 0
    assert "fixed labels" in capsys.readouterr().out  # in the table of kNN
    run = tmp_path / "runs/folder-to-subjects-narrow"
    config = load_config(run)
    assert config.model.rotation
    assert config.labels.labelling == "fixed"
    assert (config.optimiser.epochs, config.data.image_size) == (2, 16)
    taught, source = load_checkpoint(run), load_checkpoint(tmp_path / "runs/folder")
    assert torch.equal(taught["labels"]["labels"], source["labels"]["labels"])
    assert "rotation_head.weight" in taught["network"]
    assert main([*transfer, "--rotation"]) == 0
    again = load_checkpoint(run)["network"]
    assert all(torch.equal(again[name], value) for name, value in taught["network"].items())
    assert main(transfer) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["evaluate", "runs/folder", "--protocol", "layers", "--layers.epochs", "1"]) == 0
    assert "top1 ten crops" in capsys.readouterr().out
    assert main(["evaluate", "runs/folder", "--protocol", "voc-detection", "knn"]) == 0
    printed = capsys.readouterr().out  # what cannot be run does not stop the others
    assert "voc-detection: not run, as no folder of Pascal VOC is named" in printed
    assert "knn\nmethod" in printed


def test_transfer_on_imagenet_is_the_authors_retraining(tmp_path):
    config = PRESETS["imagenet-resnet50"].but(clusters=(3, 3))
    create_run(config, tmp_path / "run")
    state = {
        "network": {},
        "step": 0,
        "version": VERSION,
        "labels": {"labels": torch.zeros(2, 5).long()},
        "images": "5 images",
    }
    save_checkpoint(tmp_path / "run", config.run, state, 0, 0)
    made = transfer_config(tmp_path / "run", "alexnet", rotation=True)
    published = PRESETS["imagenet-alexnet-retrain"]
    assert made.optimiser == published.optimiser
    assert transfer_config(tmp_path / "run", "alexnet", epochs=1).optimiser.lr_drops == (1, 1, 1)
    assert (made.model.arch, made.model.rotation) == ("alexnet", True)
    assert made.labels.clusters == (3, 3)
    assert transfer_config(tmp_path / "run", "resnet18", epochs=9).optimiser.lr_drops == (3, 6, 8)
