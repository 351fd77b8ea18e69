"""The command line, as a user meets it."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import selfsup.training.fit as fit_module
from selfsup.cli import main
from selfsup.config import DataConfig
from selfsup.data import load_data
from selfsup.training.checkpoints import load_checkpoint, load_config
from selfsup.training.step import gradient_step

SHORT = ["--epochs", "1", "--updates", "2", "--image-size", "8", "--supervised-epochs", "1"]


def read(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def check_page(page, labels):
    """Every image, cluster and class of a page is that of the run."""
    assert not re.search(r"(src|href)=.http|url\(http", page)
    assert "<td>SeLa</td>" in page
    assert "<td>trained with classes, 1 epochs</td>" in page
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.S)[1])
    truth = load_data(DataConfig("digits", 8)).train
    assert [image["name"] for image in data["images"]] == list(truth.paths)
    assert np.array_equal(np.array([image["labels"] for image in data["images"]]).T, labels)
    for head, own in zip(data["heads"], labels, strict=True):
        k = len(head["sizes"])
        assert head["sizes"] == np.bincount(own, minlength=k).tolist()
        table = np.array(head["table"])
        assert table.shape == (k, 10)
        assert (
            table[own[5], truth.targets[5]]
            == ((own == own[5]) & (truth.targets == truth.targets[5]).numpy()).sum()
        )
        assert head["purity"][3] == pytest.approx(table[3].max() / table[3].sum(), abs=1e-3)
        mean = [image["confidence"] for image in data["images"]]
        head_number = data["heads"].index(head)
        some = [c[head_number] for c, y in zip(mean, own, strict=True) if y == 3]
        assert head["confidence"][3] == pytest.approx(np.mean(some), abs=2e-3)
    places = np.array(data["map"])
    assert places.min() == 0
    assert places.max() == 1
    assert len(places) == len(data["mapped"]) == 1437
    sprite = base64.b64decode(re.search(r"url\(data:image/jpeg;base64,([^)]*)\)", page)[1])
    with Image.open(io.BytesIO(sprite)) as sheet:
        side, columns = data["tile"], data["columns"]
        assert sheet.size == (columns * side, -(-1437 // columns) * side)
        x, y = 1000 % columns * side, 1000 // columns * side
        tile = sheet.convert("L").crop((x, y, x + side, y + side)).resize((8, 8))
    original = truth.images[1000, 0].float()
    assert np.corrcoef(np.asarray(tile).ravel(), original.numpy().ravel())[0, 1] > 0.9


def test_train_evaluate_and_labels(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", "--clusters", "10", "12", *SHORT]) == 0
    printed = capsys.readouterr().out
    assert "epoch 1/1  loss" in printed
    assert "time: network" in printed
    baselines = ["untrained", "pixels", "kmeans", "supervised"]
    assert main(["evaluate", "runs/digits", "--baselines", *baselines]) == 0
    printed = capsys.readouterr().out
    for method in ("SeLa", "untrained network", "k-means on pixels", "trained with classes"):
        assert method in printed
    results = json.loads((tmp_path / "runs/digits/evaluation.json").read_text())["results"]
    (own,) = [r for r in results if (r["protocol"], r["method"]) == ("clusters", "SeLa")]
    assert {(row["part"], row["K"]) for row in own["rows"]} == {
        (part, k) for part in ("train", "test") for k in (10, 12)
    }
    check_page(
        (tmp_path / "runs/digits/report.html").read_text(), np.load("runs/digits/labels.npy")
    )

    assert main(["labels", "runs/digits", "--csv", "missing/labels.csv"]) == 1
    assert "there is no folder missing" in capsys.readouterr().err
    assert main(["labels", "runs/digits", "--csv", "labels.csv"]) == 0
    assert main(["labels", "runs/digits", "--csv", "labels.csv"]) == 0  # replaced as a whole
    table = read("labels.csv")
    labels = np.load("runs/digits/labels.npy")
    assert table[0] == ["index", "path", "head_0", "head_1"]
    assert [int(row[0]) for row in table[1:]] == list(range(1437))
    assert np.array_equal(np.array([row[2:] for row in table[1:]], np.int64).T, labels)

    # the same labels train another network, from the run or from the file
    other = ["--arch", "resnet18", "--image-size", "32"]
    for source, network in (("runs/digits", ["--width", "8"]), ("labels.csv", other)):
        out = f"runs/from-{source[-3:]}"
        assert main(["train", "digits", *SHORT, "--labelling", "fixed", "--labels-file", source,
                     "--out", out, *network]) == 0  # fmt: skip
        assert np.array_equal(np.load(f"{out}/labels.npy"), labels)
        assert load_config(tmp_path / out).labels.clusters == (10, 12)


def test_predict_labels_new_images(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", *SHORT]) == 0
    from selfsup.training.trained import Trained

    trained = Trained.load(tmp_path / "runs/digits")
    images = load_data(trained.config.data).test
    folder = tmp_path / "new"
    (folder / "deep").mkdir(parents=True)
    for i in range(20):  # neither classes nor a flat folder
        name = f"deep/{i:02d}.png" if i % 2 else f"{i:02d}.png"
        Image.fromarray(images.images[i, 0].numpy()).save(folder / name)
    assert main(["predict", "runs/digits", "--data", "new", "--csv", "new.csv"]) == 0
    table = read("new.csv")
    expected = trained.predict(images)
    assert len(table) == 21
    for row in table[1:]:
        i = int(row[1][-6:-4])
        assert [int(x) for x in row[2:]] == expected[:, i].tolist()
    assert main(["predict", "runs/digits", "--data", "nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_predict_shows_images_as_training_did(tmp_path, capsys, monkeypatch):
    # rectangles, of which a view shows a square
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0)
    (tmp_path / "wide").mkdir()
    for i in range(60):
        pixels = noise.integers(0, 256, (16, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((64, 32)).save(tmp_path / "wide" / f"{i:02d}.png")
    assert main(["train", "folder", "--data", "wide", "--clusters", "4", "--batch-size", "20",
                 "--epochs", "2", "--updates", "2", "--width", "4"]) == 0  # fmt: skip
    assert main(["predict", "runs/folder", "--data", "wide", "--csv", "wide.csv"]) == 0
    assert main(["labels", "runs/folder", "--csv", "own.csv"]) == 0
    own, again = read("own.csv")[1:], read("wide.csv")[1:]
    assert sum(a == b for a, b in zip(own, again, strict=True)) >= 58


def test_a_run_without_labels_is_evaluated_too(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--labelling", "none", "--rotation", "--clusters"]
    assert main(["train", "digits", *SHORT, *options]) == 0
    assert main(["evaluate", "runs/digits"]) == 0
    assert "rotation" in capsys.readouterr().out


def test_resume_and_ctrl_c(tmp_path, capsys, monkeypatch):
    run, calls = str(tmp_path / "run"), iter(range(10**6))

    def interrupted(*arguments, **options):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return gradient_step(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "gradient_step", interrupted)
        assert main(["train", "digits", *SHORT, "--out", run]) == 130
    assert f"train --resume {run}" in capsys.readouterr().err
    assert main(["train", "--resume", run]) == 0
    assert load_checkpoint(tmp_path / "run")["step"] == 11
    assert main(["train", "digits", "--out", run]) == 1
    assert "exists already" in capsys.readouterr().err


def test_a_level_sets_the_augmentation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", *SHORT, "--level", "2", "--label-level", "0"]) == 0
    config = load_config(tmp_path / "runs/digits")
    assert config.optimiser.augment.crop == (0.08, 1.0)
    assert config.optimiser.augment.rotate == 0
    assert config.label_augment.centre == 0.875


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nothing"], "digits, fashion-mnist"),
        (["train"], "--resume"),
        (["train", "--resume", "nowhere"], "nowhere"),
        (["train", "digits", "--resume", "nowhere"], "drop digits"),
        (["train", "folder"], "--data DIR"),
        (["train", "cifar10-small", "--data", "nowhere"], "nowhere"),
        (["train", "digits", "--epochs", "0"], "epochs must be at least 1, got 0"),
        (["train", "digits", "--device", "mars"], "device 'mars' cannot be used here"),
        (["train", "imagenet-alexnet-retrain"], "no labels here"),
        (["evaluate", "nowhere"], "no run here"),
        (["labels", "nowhere", "--csv", "x.csv"], "no run here"),
        (["predict", "nowhere", "--data", "."], "no run here"),
        (["fly"], "no command 'fly'"),
    ],
)
def test_mistakes_end_with_a_message(tmp_path, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


HEAVY = """
import resource, sys
from selfsup.cli import main
assert main(["train", sys.argv[1], "--dry-run"]) == 0
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 6e6, "more than 6 GB"
"""


@pytest.mark.parametrize("preset", ["cifar10-alexnet", "imagenet-resnet50"])  # all: make dry-runs
def test_a_dry_run_of_the_papers_presets_fits_two_cores(tmp_path, preset):
    command = [sys.executable, "-c", HEAVY, preset]
    printed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "reduced: 2 steps on 8 generated images" in printed.stdout
    assert "the full run:" in printed.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("preset", ["digits", "cifar10-small", "folder"])
def test_a_dry_run_shows_the_run_and_leaves_nothing(tmp_path, preset, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    assert main(["train", preset, "--dry-run", "--epochs", "7"]) == 0
    printed = capsys.readouterr().out
    assert '"epochs": 7' in printed
    for part in ("parameters", "reduced: 2 steps on 8", "reduced: label update of 256",
                 "memory, estimated", "hours", "nothing was trained"):  # fmt: skip
        assert part in printed
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(state, torch.get_rng_state())
