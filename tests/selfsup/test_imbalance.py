"""The paper's imbalanced training sets, counted by hand."""

from __future__ import annotations

import pytest
import torch
from subjects import coloured, write_folders

from selfsup.cli import main
from selfsup.data import DataError, TensorImages, imbalanced, load_data
from selfsup.evaluation.subject import Images, load_subject
from selfsup.training.checkpoints import load_checkpoint, load_config

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


def test_a_run_is_trained_on_what_is_left_and_evaluated_on_all(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = [*write_folders(tmp_path / "images", coloured(48, 8)), "--hold-out", "0.25"]
    small = ["--epochs", "1", "--updates", "2", "--clusters", "4", "--width", "8"]
    assert main(["train", "folder", *data, *small, "--imbalance", "light"]) == 0
    assert "6 left out (light)" in capsys.readouterr().out  # half of 12 of the last class
    run = tmp_path / "runs/folder"
    assert load_checkpoint(run)["labels"]["labels"].shape == (1, 30)
    splits = load_data(load_config(run).data)
    assert torch.bincount(splits.train.targets).tolist() == [12, 12, 6]
    assert len(splits.test) == 12
    whole = load_subject(run, device="cpu").evaluation
    assert torch.bincount(whole.train.targets).tolist() == [12, 12, 12]
    own = load_subject(run, Images(imbalance="light"), "cpu").evaluation
    assert torch.equal(own.labels("train"), load_checkpoint(run)["labels"]["labels"])
