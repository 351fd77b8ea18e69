"""The label step, the schedule, the loss and the random views."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from selfsup.augment import random_views
from selfsup.config import PRESETS, AugmentConfig, Config
from selfsup.data import load_data
from selfsup.models import Network
from selfsup.sela import assign_labels, extract_features, multi_head_loss, update_times
from selfsup.train import build_network

STRONG = AugmentConfig(
    rotate=20, scale=(0.7, 1.2), stretch=0.3, shift=0.1, flip=True,
    brightness=0.4, contrast=0.4, saturation=0.4, grey=0.5, erase=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def config() -> Config:
    return Config(preset="test", dataset="digits", image_size=8, width=4, clusters=(10, 7))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_of_a_batch_draws_its_own_parameters(channels):
    image = torch.rand(1, channels, 16, 16, generator=torch.Generator().manual_seed(1))
    views = random_views(image.repeat(8, 1, 1, 1), STRONG, torch.Generator().manual_seed(0))
    for i in range(8):
        for j in range(i):
            assert not torch.equal(views[i], views[j])


@pytest.mark.parametrize(
    "only",
    [{"rotate": 20.0}, {"scale": (0.7, 1.2)}, {"stretch": 0.3}, {"shift": 0.1},
     {"brightness": 0.4}, {"contrast": 0.4}, {"saturation": 0.4}],
)  # fmt: skip
def test_each_kind_of_change_differs_between_images(only):
    images = torch.rand(1, 3, 16, 16).repeat(2, 1, 1, 1)
    first, second = random_views(images, AugmentConfig(**only), torch.Generator().manual_seed(0))
    assert (first - second).abs().max() > 1e-3


def test_equal_seeds_give_equal_views_and_other_seeds_others():
    images = torch.rand(4, 3, 16, 16)
    views = [random_views(images, STRONG, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_no_augmentation_leaves_the_image_alone():
    images = torch.rand(4, 3, 16, 16)
    views = random_views(images, AugmentConfig(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(views, images, atol=1e-5, rtol=0)


def test_a_flip_mirrors_left_and_right_only():
    images = torch.rand(64, 1, 8, 8)
    views = random_views(images, AugmentConfig(flip=True), torch.Generator().manual_seed(0))
    mirrored = (views - images.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    same = (views - images).abs().amax((1, 2, 3)) < 1e-5
    assert (mirrored ^ same).all()
    assert 10 < mirrored.sum() < 54


def test_shift_stays_within_its_fraction_of_the_side():
    images = torch.zeros(50, 1, 20, 20)
    images[:, :, 10, 10] = 1
    views = random_views(images, AugmentConfig(shift=0.1), torch.Generator().manual_seed(0))
    moved = views.amax((1, 2, 3)).min() > 0
    assert moved
    rows = views.sum((1, 3)).argmax(1)
    assert rows.min() >= 8
    assert rows.max() <= 12
    assert len(rows.unique()) > 2


def test_schedule_of_sela_on_imagenet():
    # 400 epochs and 100 updates: the authors' times are (E + 1.01) N linspace(0, 1, 100)^2.
    times = update_times(401.01, 100, 2.0)
    assert [round(t, 3) for t in times[:6]] == [0, 0.041, 0.164, 0.368, 0.655, 1.023]
    assert sum(t < 10 for t in times) == 16
    assert sum(t < 40 for t in times) == 32
    assert times[-1] - times[-2] == pytest.approx(8.06, abs=0.005)


def test_linear_and_power_schedules_by_hand():
    assert update_times(12, 4, 1.0) == pytest.approx([0, 4, 8, 12])
    assert update_times(8, 5, 1.5) == pytest.approx([0, 1, 8 / math.sqrt(8), 8 * 0.75**1.5, 8])
    assert update_times(100, 1, 2.0) == [0.0]


def test_loss_is_the_mean_over_heads():
    logits = (torch.zeros(2, 4), torch.tensor([[math.log(3), 0.0], [0.0, 0.0]]))
    labels = torch.tensor([[0, 3], [0, 1]])
    # Head 0: ln 4. Head 1: the mean of ln(4/3) and ln 2.
    expected = (math.log(4) + (math.log(4 / 3) + math.log(2)) / 2) / 2
    assert float(multi_head_loss(logits, labels)) == pytest.approx(expected)


def test_a_single_head_equals_its_part_of_all_heads():
    network = Network(torch.zeros(1), torch.ones(1), (3, 5, 2), width=4).eval()
    features = torch.randn(6, network.dim)
    for h, logits in enumerate(network.heads(features)):
        torch.testing.assert_close(network.heads.head(h, features), logits)


def test_label_pass_leaves_batch_norm_and_mode_alone(config):
    data = load_data(config)
    network = build_network(config, data.train, config.clusters)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    for training in (True, False):
        network.train(training)
        extract_features(network, data.train.images)
        extract_features(network, data.train.images, STRONG, 2, torch.Generator())
        assert network.training is training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_features_are_in_dataset_order(config):
    data = load_data(config)
    network = build_network(config, data.train, config.clusters)
    features = extract_features(network, data.train.images)
    for i in (0, 7, len(data.train) - 1):
        alone = extract_features(network, data.train.images[i : i + 1])
        torch.testing.assert_close(alone[0], features[i], atol=1e-4, rtol=1e-4)


def test_mean_over_views_averages_the_logits(config):
    data = load_data(config)
    network = build_network(config, data.train, config.clusters)
    images = data.train.images[:50]
    generator = torch.Generator().manual_seed(3)
    mean = extract_features(network, images, STRONG, 2, generator)
    generator.manual_seed(3)
    views = [random_views(images.float() / 255, STRONG, generator) for _ in range(2)]
    network.eval()
    with torch.no_grad():
        logits = [network(v)[0] for v in views]
        expected = (logits[0] + logits[1]) / 2
        torch.testing.assert_close(network.heads(mean)[0], expected, atol=1e-4, rtol=1e-4)


def test_labels_of_an_untrained_network_are_balanced(config):
    data = load_data(config)
    network = build_network(config, data.train, config.clusters)
    features = extract_features(network, data.train.images)
    assignment = assign_labels(network, features, config)
    assert assignment.labels.shape == (2, len(data.train))
    assert [len(g) for g in assignment.potentials] == [10, 7]
    assert assignment.passes > 0
    for labels, k in zip(assignment.labels.numpy(), config.clusters, strict=True):
        sizes = np.bincount(labels, minlength=k)
        assert sizes.min() > 0.8 * len(data.train) / k
        assert sizes.max() < 1.2 * len(data.train) / k


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"epsilon": 0.0}, {"clusters": ()}])
def test_settings_that_cannot_be_meant_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Config(preset="x", dataset="digits", image_size=8, **bad)


@pytest.mark.parametrize("name", PRESETS)
def test_settings_survive_json(name, tmp_path):
    PRESETS[name].save(tmp_path / "config.json")
    assert Config.load(tmp_path / "config.json") == PRESETS[name]
