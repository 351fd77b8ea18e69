"""Runs: resuming to the bit, never overwriting, labels in order, the command line."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import selfsup.train as train_module
from selfsup.__main__ import main
from selfsup.config import AugmentConfig, Config
from selfsup.data import load_data
from selfsup.sela import assign_labels, extract_features
from selfsup.train import RunError, Trainer, create_run, load_checkpoint, load_config, read_log

TINY = Config(
    preset="tiny",
    dataset="digits",
    image_size=8,
    width=4,
    clusters=(10, 6),
    epsilon=0.1,
    updates=7,
    epochs=4,
    batch_size=200,
    supervised_epochs=1,
    augment=AugmentConfig(rotate=10, shift=0.1, erase=0.2),
)


@pytest.fixture(scope="module")
def images():
    return load_data(TINY).train


def start(run, images, config=TINY):
    create_run(config, run)
    return Trainer(config, images, run)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def timeless(run):
    ignored = ("seconds", "solver_seconds", "images_per_second")
    return [{k: v for k, v in line.items() if k not in ignored} for line in read_log(run)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, images):
    run = tmp_path_factory.mktemp("runs") / "finished"
    start(run, images).fit()
    return run


def assert_same_run(run, finished):
    assert same(load_checkpoint(run, "cpu"), load_checkpoint(finished, "cpu"))
    assert np.array_equal(np.load(run / "labels.npy"), np.load(finished / "labels.npy"))
    assert timeless(run) == timeless(finished)


def test_a_repeated_run_gives_the_same_bits(tmp_path, images, finished):
    torch.manual_seed(99)  # the global state must not matter
    start(tmp_path / "again", images).fit()
    assert_same_run(tmp_path / "again", finished)


def test_another_seed_gives_another_run(tmp_path, images, finished):
    config = replace(TINY, seed=1, epochs=1)
    start(tmp_path / "other", images, config).fit()
    assert not np.array_equal(
        np.load(tmp_path / "other/labels.npy"), np.load(finished / "labels.npy")
    )


def interrupt_at_step(monkeypatch, step):
    original, calls = train_module.train_step, iter(range(10**6))

    def interrupted(*arguments):
        if next(calls) == step:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(train_module, "train_step", interrupted)


@pytest.mark.parametrize("step", [0, 3, 7, 17])  # 7 steps an epoch: 7 is a boundary
def test_a_resumed_run_ends_in_the_same_bits(tmp_path, images, finished, monkeypatch, step):
    run = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, step)
        with pytest.raises(KeyboardInterrupt):
            start(run, images).fit()
    assert load_checkpoint(run, "cpu")["epoch"] == step // 7
    resumed = Trainer(load_config(run), images, run)
    resumed.load()
    resumed.fit()
    assert_same_run(run, finished)


def test_a_crash_between_log_and_checkpoint_leaves_no_double_line(tmp_path, images, finished):
    run = tmp_path / "crashed"
    trainer = start(run, images)
    trainer.save()
    (run / "log.jsonl").write_text(json.dumps({"epoch": 1}) + "\n" + '{"epoch": 2, "lo')
    resumed = Trainer(TINY, images, run)
    resumed.load()
    resumed.fit()
    assert_same_run(run, finished)


def test_log_lines_hold_what_they_should(finished):
    lines = read_log(finished)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert sum(line.get("updates", 0) for line in lines) == TINY.updates
    needed = {"loss", "ln_k", "lr", "label_change", "marginal_violation", "solver_passes",
              "solver_seconds", "images_per_second", "label_entropy", "size_min", "size_max",
              "nmi", "seconds"}  # fmt: skip
    assert needed <= lines[-1].keys()


def test_saved_labels_are_in_dataset_order(images, finished):
    trainer = Trainer(TINY, images, finished)
    trainer.load()
    features = extract_features(trainer.network, images.images)
    again = assign_labels(trainer.network, features, TINY).labels
    # The saved solve started warm: within the tolerance, not to the bit, the same.
    assert (again == trainer.labels).float().mean() > 0.97
    assert (again.flip(1) == trainer.labels).float().mean() < 0.5


def test_an_existing_run_is_never_overwritten(finished, images, capsys):
    before = (finished / "checkpoint.pt").read_bytes()
    with pytest.raises(RunError, match="exists already"):
        create_run(TINY, finished)
    assert main(["train", "digits", "--out", str(finished)]) == 1
    assert str(finished) in capsys.readouterr().err
    assert (finished / "checkpoint.pt").read_bytes() == before


def test_train_evaluate_and_labels_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--epochs", "1", "--updates", "2", "--image-size", "8", "--supervised-epochs", "1"]
    assert main(["train", "digits", "--clusters", "10", "12", *arguments]) == 0
    assert main(["evaluate", "runs/digits"]) == 0
    printed = capsys.readouterr().out
    for method in ("SeLa", "untrained network", "k-means on pixels", "trained with labels"):
        assert method in printed
    rows = json.loads((tmp_path / "runs/digits/evaluation.json").read_text())
    assert {(r["method"], r["K"]) for r in rows if r["method"] == "SeLa"} == {
        ("SeLa", 10),
        ("SeLa", 12),
    }
    page = (tmp_path / "runs/digits/report.html").read_text()
    assert "<svg" in page
    assert "data:image/png;base64" in page
    assert 'src="http' not in page

    assert main(["labels", "runs/digits", "--csv", "missing/labels.csv"]) == 1
    assert "there is no folder missing" in capsys.readouterr().err
    assert main(["labels", "runs/digits", "--csv", "labels.csv"]) == 0
    with open("labels.csv", newline="") as file:
        table = list(csv.reader(file))
    labels = np.load("runs/digits/labels.npy")
    assert table[0] == ["index", "path", "head_0", "head_1"]
    assert [int(row[0]) for row in table[1:]] == list(range(1437))
    assert np.array_equal(np.array([row[2:] for row in table[1:]], np.int64).T, labels)


def test_ctrl_c_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    interrupt_at_step(monkeypatch, 2)
    run = str(tmp_path / "run")
    assert main(["train", "digits", "--out", run]) == 130
    assert f"--resume {run}" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nothing"], "digits, fashion-mnist, folder"),
        (["train"], "--resume"),
        (["train", "--resume", "nowhere"], "nowhere"),
        (["train", "--resume", "nowhere", "--epochs", "3"], "drop epochs"),
        (["train", "folder"], "--data DIR"),
        (["train", "digits", "--epochs", "0"], "epochs must be at least 1, got 0"),
        (["train", "digits", "--device", "mars"], "device 'mars' cannot be used here"),
        (["evaluate", "nowhere"], "no run here"),
        (["labels", "nowhere", "--csv", "x.csv"], "no run here"),
    ],
)
def test_mistakes_end_with_a_message(tmp_path, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
