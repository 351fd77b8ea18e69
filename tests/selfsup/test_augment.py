"""Random views: what each level does, and the formulas against torchvision's."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

import selfsup.data.views as augment_module
from selfsup.config import LEVELS, AugmentConfig
from selfsup.data.views import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    crop_boxes,
    gaussian_blur,
    random_views,
)

STRONG = AugmentConfig(
    crop=(0.3, 1.0), rotate=20, scale=(0.7, 1.2), stretch=0.3, shift=0.1, flip=True,
    brightness=0.4, contrast=0.4, saturation=0.4, hue=0.3, jitter=0.9, grey=0.3, blur=0.5,
    blur_sigma=(5.0, 20.0), erase=0.5,
)  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n, channels=3, side=16, seed=5):
    return torch.rand(n, channels, side, side, generator=generator(seed))


def ramps(n, height, width):
    """Images whose two channels are x and y, from 0 to 1, so that a view tells its box."""
    x = ((torch.arange(width) + 0.5) / width).expand(height, width)
    y = ((torch.arange(height) + 0.5) / height)[:, None].expand(height, width)
    return torch.stack([x, y]).repeat(n, 1, 1, 1)


# the authors' levels


def test_level_0_is_the_centre():
    images = noise(3, side=32)
    views = random_views(images, LEVELS["0"], generator(), 28)
    assert torch.equal(views, images[:, :, 2:30, 2:30])
    wide = noise(2, side=32)[:, :, :16]
    views = random_views(wide, LEVELS["0"], generator(), 14)
    assert torch.equal(views, wide[:, :, 1:15, 9:23])


def test_level_1_flips_half_of_the_centres():
    images = noise(200, side=32)
    centre = images[:, :, 2:30, 2:30]
    views = random_views(images, LEVELS["1"], generator(), 28)
    same = (views == centre).flatten(1).all(1)
    mirrored = (views == centre.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 70 < mirrored.sum() < 130


def test_level_2_shows_boxes_of_the_area_and_ratio_that_it_should():
    n, side, size = 400, 64, 32
    views = random_views(ramps(n, side, side), LEVELS["2"], generator(), size)
    inner = torch.tensor([size // 4, size * 3 // 4])
    x, y = views[:, 0, size // 2][:, inner], views[:, 1, :, size // 2][:, inner]
    width, height = (x[:, 1] - x[:, 0]) * 2, (y[:, 1] - y[:, 0]) * 2
    flipped = width < 0
    assert 150 < flipped.sum() < 250
    assert (height > 0).all()
    width = width.abs()
    left, top = x.min(1).values - width * 8.5 / 32, y[:, 0] - height * 8.5 / 32
    left = torch.where(flipped, x.min(1).values - width * 7.5 / 32, left)
    for edge in (left, top, left + width, top + height):  # whole pixels inside the image
        assert (edge * side - (edge * side).round()).abs().max() < 0.02
        assert edge.min() > -1e-4
        assert edge.max() < 1 + 1e-4
    area, ratio = width * height, width / height
    assert 0.07 < area.min() < 0.15
    assert 0.9 < area.max() <= 1.001
    assert 0.72 < ratio.min() < 0.78
    assert 1.28 < ratio.max() < 1.39


def test_level_3_changes_every_colour_and_makes_a_fifth_grey():
    images = torch.tensor([0.6, 0.3, 0.2]).view(1, 3, 1, 1).expand(500, 3, 8, 8).clone()
    views = random_views(images, LEVELS["3"], generator(), 8)
    spread = views.amax(1) - views.amin(1)
    grey = (spread < 1e-5).flatten(1).all(1)
    assert 70 < grey.sum() < 130
    means = views.mean((2, 3))
    assert (means.std(0) > 0.05).all()
    # Nothing but the hue can make blue the largest: the other changes keep the order.
    assert (means[~grey].argmax(1).bincount(minlength=3) > 20).all()


def test_moco_v2_leaves_the_colours_of_a_fifth_alone():
    level = LEVELS["moco-v2"]
    only = AugmentConfig(
        jitter=level.jitter, brightness=level.brightness, contrast=level.contrast,
        saturation=level.saturation, hue=level.hue,
    )  # fmt: skip
    images = noise(500, side=8)
    changed = (random_views(images, only, generator(), 8) - images).abs().amax((1, 2, 3)) > 1e-5
    assert 365 < changed.sum() < 435


# crops


@pytest.mark.parametrize(("height", "width"), [(375, 500), (40, 40), (30, 11)])
def test_boxes_are_distributed_as_torchvisions(height, width):
    n, augment = 3000, LEVELS["2"]
    ours = crop_boxes(torch.tensor([[height, width]] * n), augment, generator()).double()
    image = torch.empty(1, height, width)
    torch.manual_seed(0)
    theirs = torch.tensor(
        [
            RandomResizedCrop.get_params(image, list(augment.crop), list(augment.crop_ratio))
            for _ in range(n)
        ]
    ).double()
    for values in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 0],
        lambda b: (b[:, 3] / b[:, 2]).log(),
    ):
        a, b = values(ours), values(theirs)
        assert (a.mean() - b.mean()).abs() < 4 * math.sqrt((a.var() + b.var()) / n)
        assert a.std() / b.std() == pytest.approx(1, abs=0.08)
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2]).max() <= height
    assert (ours[:, 1] + ours[:, 3]).max() <= width


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (50, 60)])
def test_where_no_box_fits_it_is_torchvisions_central_one(height, width):
    augment = AugmentConfig(crop=(1.5, 2.0))
    boxes = crop_boxes(torch.tensor([[height, width]] * 4), augment, generator())
    top, left, h, w = boxes.unbind(1)
    expected = RandomResizedCrop.get_params(
        torch.empty(1, height, width), [1.5, 2.0], list(augment.crop_ratio)
    )
    for ours, theirs in zip((top, left, h, w), expected, strict=True):
        assert (ours == theirs).all()


def test_other_sizes_are_resized():
    images = noise(2, side=16)
    up = random_views(images, AugmentConfig(), generator(), 40)
    expected = F.interpolate(images, (40, 40), mode="bilinear", align_corners=False)
    torch.testing.assert_close(up, expected, atol=1e-6, rtol=0)
    board = (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).float()
    down = random_views(board.expand(1, 3, 16, 16), AugmentConfig(), generator(), 4)
    assert (down[:, :, 1:3, 1:3] - 0.5).abs().max() < 0.01  # no moiré


# geometry


def test_no_augmentation_is_the_image_itself():
    images = noise(4)
    views = random_views(images, AugmentConfig(), generator(), 16)
    assert torch.equal(views, images)
    assert views.data_ptr() == images.data_ptr()


def test_resampling_is_not_half_a_pixel_off():
    images = noise(30)
    views = random_views(images, AugmentConfig(rotate=1e-4), generator(), 16)
    torch.testing.assert_close(views, images, atol=1e-3, rtol=0)


def test_shift_stays_within_its_fraction_of_the_side():
    images = torch.zeros(50, 1, 20, 20)
    images[:, :, 10, 10] = 1
    views = random_views(images, AugmentConfig(shift=0.1), generator(), 20)
    assert views.amax((1, 2, 3)).min() > 0
    rows = views.sum((1, 3)).argmax(1)
    assert rows.min() >= 8
    assert rows.max() <= 12
    assert len(rows.unique()) > 2


def test_rotation_zoom_and_stretch_by_their_effect_on_ramps():
    n, size = 300, 32
    images = ramps(n, size, size)

    def jacobian(augment):
        """Change of (x, y) per view width, from the middle of the view."""
        views = random_views(images, augment, generator(), size)
        across = (views[:, :, 16, 20] - views[:, :, 16, 12]) * 4
        down = (views[:, :, 20, 16] - views[:, :, 12, 16]) * 4
        return torch.stack([across, down], 2)

    turned = jacobian(AugmentConfig(rotate=20.0))
    angles = torch.atan2(turned[:, 1, 0], turned[:, 0, 0]).rad2deg()
    assert -20.1 < angles.min() < -18
    assert 18 < angles.max() < 20.1
    torch.testing.assert_close(torch.linalg.det(turned), torch.ones(n), atol=1e-3, rtol=0)
    zoomed = torch.linalg.det(jacobian(AugmentConfig(scale=(0.5, 0.8)))).sqrt()
    assert 0.49 < zoomed.min() < 0.52
    assert 0.78 < zoomed.max() < 0.81
    stretched = jacobian(AugmentConfig(scale=(0.5, 0.5), stretch=0.3))
    logs = (stretched[:, 0, 0] / stretched[:, 1, 1]).log()
    assert -0.31 < logs.min() < -0.27
    assert 0.27 < logs.max() < 0.31


# colours


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (adjust_brightness, reference.adjust_brightness, (0.6, 1.0, 1.4)),
        (adjust_contrast, reference.adjust_contrast, (0.6, 1.0, 1.4)),
        (adjust_saturation, reference.adjust_saturation, (0.0, 0.6, 1.0, 1.4)),
        (adjust_hue, reference.adjust_hue, (-0.5, -0.4, -0.1, 0.0, 0.2, 0.5)),
    ],
)
def test_colour_formulas_are_torchvisions(ours, theirs, factors):
    images = noise(len(factors), side=12)
    images[:, :, :4] = images[:, :, :4].round()  # ties and pure colours
    images[:, :, 4] = images[:, :1, 4]  # greys
    changed = ours(images, torch.tensor(factors).view(-1, 1, 1, 1))
    for image, factor, view in zip(images, factors, changed, strict=True):
        torch.testing.assert_close(view, theirs(image, factor), atol=1e-3, rtol=0)


def test_hue_turns_red_to_green_to_blue():
    red = torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1)
    for turns, expected in (
        (1 / 3, [0.1, 0.9, 0.1]),
        (-1 / 3, [0.1, 0.1, 0.9]),
        (0.5, [0.1, 0.9, 0.9]),
    ):
        view = adjust_hue(red, torch.tensor(turns).view(1, 1, 1, 1))
        assert view.flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_factors_fill_their_range():
    images = torch.full((400, 1, 2, 2), 0.5)
    views = random_views(images, AugmentConfig(brightness=0.4), generator(), 2)[:, 0, 0, 0] * 2
    assert 0.6 <= views.min() < 0.62
    assert 1.38 < views.max() <= 1.4 + 1e-6
    assert views.mean() == pytest.approx(1, abs=0.04)


def test_grey_images_have_no_hue_or_saturation_to_change():
    images = noise(8, channels=1)
    only = AugmentConfig(saturation=0.4, hue=0.4, grey=0.5)
    assert torch.equal(random_views(images, only, generator(), 16), images)
    assert random_views(images, STRONG, generator(), 16).shape == (8, 1, 16, 16)


def test_images_are_coloured_alike_in_any_number_at_once(monkeypatch):
    images = noise(20)
    views = random_views(images, LEVELS["3"], generator(), 16)
    monkeypatch.setattr(augment_module, "BLOCK", 3 * 16 * 16 * 7)
    assert torch.equal(random_views(images, LEVELS["3"], generator(), 16), views)


# blur and holes


def test_moco_v2_blur_by_hand():
    # A sigma of 7 pixels of 224 is one pixel of 32: a bright pixel becomes that Gaussian.
    images = torch.zeros(1, 3, 32, 32)
    images[:, :, 16, 16] = 1
    blurred = random_views(images, AugmentConfig(blur=1.0, blur_sigma=(7.0, 7.0)), generator(), 32)
    weights = [math.exp(-(d**2) / 2) for d in range(-3, 4)]
    line = torch.tensor(weights) / sum(weights)
    torch.testing.assert_close(blurred[0, 1, 13:20, 13:20], torch.outer(line, line))
    assert blurred.sum() == pytest.approx(3, abs=1e-4)


def test_each_image_has_its_own_gaussian():
    images, sigma = noise(3, side=20), torch.tensor([0.3, 1.0, 2.0])
    for image, s, view in zip(images, sigma, gaussian_blur(images, sigma, 6), strict=True):
        expected = reference.gaussian_blur(image, [13, 13], [float(s)] * 2)
        torch.testing.assert_close(view, expected, atol=1e-5, rtol=0)


def test_half_of_the_images_are_blurred():
    images = noise(300, side=32)
    views = random_views(images, AugmentConfig(blur=0.5, blur_sigma=(5.0, 10.0)), generator(), 32)
    untouched = (views == images).flatten(1).all(1)
    assert 115 < untouched.sum() < 185
    assert (views[~untouched].std((2, 3)) < 0.9 * images[~untouched].std((2, 3))).all()


def test_a_hole_is_a_rectangle_of_the_mean():
    images = noise(100, side=32)
    views = random_views(images, AugmentConfig(erase=0.5), generator(), 32)
    changed = (views != images).all(1)
    assert 30 < changed.flatten(1).any(1).sum() < 70
    for image, view, hole in zip(images, views, changed, strict=True):
        if hole.any():
            rows, columns = hole.any(1), hole.any(0)
            assert torch.equal(hole, rows[:, None] & columns)
            assert rows.sum() <= 0.4 * 32 + 1
            torch.testing.assert_close(view[:, hole][:, 0], image.mean((1, 2)))


# randomness


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_of_a_batch_draws_its_own_parameters(channels):
    images = noise(1, channels).repeat(8, 1, 1, 1)
    views = random_views(images, STRONG, generator(), 16)
    for i in range(8):
        for j in range(i):
            assert not torch.equal(views[i], views[j])


@pytest.mark.parametrize(
    "only",
    [{"crop": (0.2, 1.0)}, {"rotate": 20.0}, {"scale": (0.7, 1.2)}, {"stretch": 0.3},
     {"shift": 0.1}, {"brightness": 0.4}, {"contrast": 0.4}, {"saturation": 0.4}, {"hue": 0.4},
     {"blur": 1.0, "blur_sigma": (5.0, 20.0)}, {"erase": 1.0}],
)  # fmt: skip
def test_each_kind_of_change_differs_between_images(only):
    images = noise(1).repeat(2, 1, 1, 1)
    first, second = random_views(images, AugmentConfig(**only), generator(), 16)
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("augment", [STRONG, *LEVELS.values()])
def test_equal_seeds_give_equal_views_and_the_images_stay(augment):
    images = noise(6)
    before = images.clone()
    state = torch.get_rng_state()
    first, again, other = (random_views(images, augment, generator(s), 24) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (augment == LEVELS["0"])
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.min() >= 0
    assert first.max() <= 1
