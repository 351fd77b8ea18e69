"""What the authors' code does otherwise, switch by switch: docs/differences.md lists them."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from solvers import sela_original
from tiny_run import TINY
from torch import distributed
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as reference

from selfsup.config import LEVELS, AugmentConfig
from selfsup.data import TensorImages, load_data
from selfsup.data.views import crop_boxes, random_views
from selfsup.errors import ConfigError
from selfsup.models import AlexNet
from selfsup.presets import PAPER, PRESETS, as_authors
from selfsup.seeds import Stream, generator_of
from selfsup.sela import Shard, equipartition
from selfsup.training.fit import Trainer, new_network
from selfsup.training.label_pass import batch_of, feature_pass, label_step, new_labels
from selfsup.training.processes import World
from selfsup.training.step import learning_rate, precision_on


@pytest.fixture(scope="module")
def images():
    return load_data(TINY.data).train


@pytest.fixture
def network(images):
    return new_network(TINY, images)


def test_their_label_pass_is_in_training_mode_on_shuffled_images(images, network):
    # their loop: model.train(), no gradients, batches of a shuffled loader; statistics follow
    twin = copy.deepcopy(network).train()
    features = feature_pass(TINY.but(label_mode="train"), network, images)
    order = torch.randperm(len(images), generator=generator_of(0, Stream.LABEL_VIEWS, 0))
    theirs = torch.empty_like(features)
    with torch.no_grad():
        for index in order.split(batch_of(8)):
            theirs[index] = twin.features(images.images[index].float() / 255)
    torch.testing.assert_close(features, theirs, atol=1e-5, rtol=1e-5)
    ours, expected = network.state_dict(), twin.state_dict()
    for name in ours:
        torch.testing.assert_close(ours[name], expected[name])
    assert (features - feature_pass(TINY, network, images)).abs().max() > 1e-3


def test_their_label_pass_has_dropout():
    config = TINY.but(label_mode="train", arch="alexnet-small", image_size=224)
    noise = torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8)
    few = TensorImages(noise, torch.full((4,), -1), (), tuple("abcd"))
    net = new_network(config, few, calibrated=False)
    assert isinstance(net.trunk, AlexNet)
    show = partial(feature_pass, config, net)
    first, again, other = show(few), show(few), show(few, position=(1,))
    assert torch.equal(first, again)  # drawn for the position alone
    assert not torch.equal(first, other)
    clean = partial(feature_pass, config.but(label_mode="eval"), net)
    assert torch.equal(clean(few), clean(few, position=(1,)))


def test_their_label_pass_sees_the_views_of_training():
    config = TINY.but(label_sees="augment")
    assert config.label_augment == TINY.optimiser.augment
    assert TINY.label_augment == AugmentConfig()


@pytest.mark.parametrize("lam", [10, 25])
def test_labels_at_their_tolerance_are_those_of_their_recurrence(lam):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=1.5, size=(3000, 40)) + np.linspace(0, 3, 40)
    theirs = sela_original(logits, 1e-10, epsilon=1 / lam).labels

    def agreement(tol):
        x = torch.from_numpy(logits)
        ours = equipartition(
            0, x, None, None, Shard(3000, slice(0, 3000)), epsilon=1 / lam, tol=tol, max_iter=9999
        )
        return (ours.labels.numpy() == theirs).mean()

    assert agreement(as_authors(PAPER["imagenet-alexnet"]).labels.tol) > 0.9999
    assert agreement(PAPER["imagenet-alexnet"].labels.tol) > 0.999
    assert agreement(1e-1) < 0.999


def test_crops_are_drawn_on_images_enlarged_to_256():
    # theirs: Resize(256), RandomResizedCrop(224, scale=(.2, 1)) on 32 x 32 images
    augment = AugmentConfig(crop=(0.2, 1.0), crop_grid=256)
    boxes = crop_boxes(torch.tensor([[32, 32]] * 200), augment, torch.Generator().manual_seed(0))
    on_grid = boxes * 8
    assert torch.equal(on_grid, on_grid.round())
    assert (on_grid % 8 != 0).any(1).double().mean() > 0.9  # finer than whole pixels
    x = torch.nn.functional.interpolate(torch.rand(5, 3, 8, 8), 32, mode="bicubic").clamp(0, 1)
    views = random_views(x, augment, torch.Generator().manual_seed(3), 224)
    boxes = crop_boxes(torch.tensor([[32, 32]] * 5), augment, torch.Generator().manual_seed(3)) * 8
    for image, view, box in zip(x, views, boxes.int().tolist(), strict=True):
        large = reference.resize(image, [256, 256], antialias=True)
        theirs = F.interpolate(
            reference.crop(large, *box)[None], (224, 224), mode="bilinear", antialias=True
        )[0]
        assert (view - theirs).abs().mean() < 0.01


def test_their_later_models_have_280_epochs_of_moco_v2s_views():
    config = PRESETS["imagenet-resnet50-moco"]
    assert config.optimiser.augment == LEVELS["moco-v2"]
    rates = [learning_rate(config.optimiser, epoch, 1) for epoch in (0, 159, 160, 190, 220, 279)]
    assert rates == pytest.approx([0.08, 0.08, 0.008, 8e-4, 8e-5, 8e-5])


@pytest.mark.parametrize("name", PAPER)
def test_one_option_switches_all_of_them(name):
    ours, theirs = PAPER[name], as_authors(PAPER[name])
    assert (ours.labels.tol, theirs.labels.tol) == (1e-4, 1e-6)
    assert (theirs.labels.label_mode, theirs.labels.label_sees) == ("train", "augment")
    assert theirs.label_augment == theirs.optimiser.augment
    assert theirs.optimiser.augment.crop_grid == (0 if "imagenet" in name else 256)
    assert not theirs.model.final_norm
    assert theirs.model.arch == ours.model.arch.replace("resnet50", "preact-resnet50")
    assert ours.optimiser.precision == "auto"


# conveniences for GPUs, as far as a CPU shows them


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_features_wait_elsewhere_for_the_heads_and_labels_are_the_same(
    images, network, place, monkeypatch
):
    monkeypatch.setattr("selfsup.training.label_pass.HEAD_ROWS", 100)
    found = []
    for where in ("device", place):
        config = TINY.but(features_in=where)
        labels = new_labels(config.labels, len(images), 0, 1, World())
        label_step(config, network, images, labels, World())
        found.append(labels.labels)
    assert torch.equal(*found)


def test_precision_is_chosen_by_the_device(monkeypatch):
    """bfloat16 without instructions for it is slower than float32."""
    cpu = torch.device("cpu")
    for has, chosen in (({}, torch.float32), ({"avx512_bf16": True}, torch.bfloat16)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has, raising=False)
        assert precision_on(cpu, "auto") == chosen
        assert precision_on(cpu, "bfloat16") == torch.bfloat16


def test_small_batches_of_several_processes_are_told_and_need_gpus_to_be_shared(
    images, tmp_path, capsys
):
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        world = World(0, 1, distributed.group.WORLD)
        Trainer(TINY.but(batch_size=10), images, None, world)
        assert "batch normalisation sees 10 images in each process" in capsys.readouterr().out
        with pytest.raises(ConfigError, match="sync_batch_norm needs GPUs"):
            Trainer(TINY.but(sync_batch_norm=True), images, None, world)
    finally:
        distributed.destroy_process_group()
