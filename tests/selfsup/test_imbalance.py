"""The paper's imbalanced training sets, counted by hand."""

from __future__ import annotations

import pytest
import torch

from selfsup.cli import main
from selfsup.config import DataConfig
from selfsup.data import DataError, TensorImages, load_data
from selfsup.data.imbalance import imbalanced
from selfsup.training.checkpoints import load_config

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip


def images(each=50, classes=CLASSES):
    targets = torch.arange(each * 10) % 10
    pixels = torch.arange(each * 10).to(torch.uint8).view(-1, 1, 1, 1)
    names = tuple(f"{i:04d}" for i in range(len(targets)))
    return TensorImages(pixels, targets, classes, names)


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("full", [50] * 10),
        ("light", [50] * 9 + [25]),
        ("heavy", [45, 40, 35, 30, 25, 20, 15, 10, 5, 0]),
    ],
)
def test_counts_of_each_class_by_hand(kind, counts):
    kept = imbalanced(images(), kind, 0)
    assert torch.bincount(kept.targets, minlength=10).tolist() == counts
    assert kept.classes == CLASSES  # numbers of classes mean what they meant
    assert list(kept.paths) == sorted(kept.paths)
    for i, path in enumerate(kept.paths):  # pixels, classes and names stay together
        assert kept.targets[i] == int(path) % 10
        assert kept.images[i] == int(path) % 256


def test_the_seed_alone_decides_which_images_are_left_out():
    first, again, other = (imbalanced(images(), "heavy", seed).paths for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_images_without_classes_are_refused():
    with pytest.raises(DataError, match=r"imbalance light .* --classes folders"):
        imbalanced(images(classes=()), "light", 0)


def test_a_run_is_trained_on_what_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = ["--epochs", "1", "--updates", "2", "--image-size", "8", "--imbalance", "light"]
    assert main(["train", "digits", *short]) == 0
    whole = load_data(DataConfig("digits", 8))
    nines = int((whole.train.targets == 9).sum())
    assert f"{round(nines / 2)} left out (light)" in capsys.readouterr().out
    config = load_config(tmp_path / "runs/digits").data
    assert len(load_data(config).train) == len(whole.train) - round(nines / 2)
    assert len(load_data(config).test) == len(whole.test)
