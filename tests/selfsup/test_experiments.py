"""SeLa's experiments on CIFAR-10: settings, records, and the pages that are made of them."""

from __future__ import annotations

import fcntl
import json
import statistics
import time
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sela import frozen, pages, runs
from sela.cifar10_alexnet_gpu import scaled, train
from sela.experiments import (
    COMMON,
    EXPERIMENTS,
    METHODS,
    RIVALS,
    SMALL,
    SUPERVISED,
    Claim,
    Experiment,
    Row,
    Training,
)
from subjects import coloured, write_folders

from selfsup.presets import PRESETS
from selfsup.training.checkpoints import checkpoints, create_run, write_whole
from selfsup.training.fit import Trainer

ROWS = [row for experiment in EXPERIMENTS.values() for row in experiment.rows]


def record(name, seed, knn, linear):
    """Return a record with these accuracies."""
    rows = {"knn": [{"top1": knn / 100}], "linear": [{"top1": linear / 100}]}
    results = [{"protocol": p, "method": "SeLa", "rows": r} for p, r in rows.items()]
    machine = {"processor": "a CPU", "threads": 1, "torch": "2"}
    return {"training": name, "seed": seed, "results": results, "updates": [], "epochs": [],
            "minutes": 1.0, "machine": machine}  # fmt: skip


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RESULTS", tmp_path)
    monkeypatch.setattr(frozen, "RESULTS", tmp_path)
    monkeypatch.setattr(pages, "DOCS", tmp_path / "docs")

    def write(name, *accuracies):
        for seed, (knn, linear) in enumerate(accuracies, 1):
            path = runs.record_of(Training(name), seed)
            path.write_text(json.dumps(record(name, seed, knn, linear)))

    return write


def test_all_settings_can_be_meant():
    """A misspelt or impossible setting is found before hours of training."""
    for row in ROWS:
        for seed in row.seeds:
            config = runs.config_of(row.training, seed, runs.PLACES)
            assert config.run.seed == seed
            for name, value in row.training.settings.items():
                parts = [getattr(part, name) for part in vars(config).values()
                         if hasattr(part, name)]  # fmt: skip
                assert parts == [value]


def test_one_name_is_one_training():
    """Two trainings of one name would share a record."""
    known = {}
    for row in ROWS:
        assert known.setdefault(runs.slug(row.training.name), row.training) == row.training


def test_claims_name_lines_of_their_table():
    for experiment in EXPERIMENTS.values():
        names = {row.name for row in experiment.rows}
        assert {name for c in experiment.claims for name in (c.better, c.worse)} <= names


@pytest.mark.parametrize(
    ("better", "worse", "words"),
    [
        ([(60, 70), (61, 71), (62, 72)], [(50, 60), (51, 61), (52, 62)],
         "kNN +10.0 (**holds**), linear +10.0 (**holds**)"),
        ([(60, 70)], [(50, 60), (51, 61)], "kNN +9.5, linear +9.5 (paper"),
        ([(60, 60), (62, 62), (61, 61)], [(50, 60.1), (52, 62.1), (51, 61.1)],
         "kNN +10.0 (**holds**), linear -0.1 (**within the seeds**)"),
        ([(60, 70), (61, 71), (60.5, 70.5)], [(62, 60), (63, 61), (62.5, 60.5)],
         "kNN -2.0 (**the other way**), linear +10.0 (**holds**)"),
        ([(60, 70), (61, 71)], [(50, 60), (51, 61), (52, 62)], "kNN +9.5, linear +9.5 (paper"),
    ],
)  # fmt: skip
def test_a_claim_is_judged_by_the_spread_of_seeds(results, better, worse, words):
    results("A", *better)
    results("B", *worse)
    rows = tuple(Row(Training(name), (1, 2, 3)) for name in "AB")
    told = pages.verdict(Experiment("e", "?", "", "", rows), Claim("A", "B", (8.2, 2.3)))
    assert told is not None
    assert words in told
    assert "(paper: +8.2, +2.3)" in told


def test_a_table_has_means_deviations_and_what_is_missing(results):
    results("A", (60, 70), (62, 71))
    rows = (Row(Training("A"), (1, 2, 3), (72.9, 79.8)), Row(Training("B"), (1,)))
    lines = pages.table(Experiment("e", "?", "", "", rows))
    assert lines[2].startswith("| A | 2 of 3 | 61.0 ± 1.4 | 70.5 ± 0.7 |")
    assert lines[2].endswith("| 72.9 | 79.8 |")
    assert lines[3].startswith("| B | 0 of 1 |  |  |")


def test_the_pages_are_those_of_the_records(tmp_path, monkeypatch):
    """Every figure of docs/results comes from the committed records, and none is newer."""
    committed = pages.DOCS
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    pages.write()
    for page in sorted(tmp_path.glob("*.md")):
        assert (committed / page.name).read_text() == page.read_text(), page.name


def test_the_readme_has_the_figures_of_the_records():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    left_out = {"SeLa, ten heads", "balanced k-means labels", "SeLa + rotation",
                "RotNet, 4 epochs", "untrained network"}  # fmt: skip
    for row in (*METHODS.rows, *RIVALS.rows):
        if row.name == "pixels":
            knn = pages.told([statistics.fmean(pages.values(row, pages.KNN))], 1)
            assert f"raw pixels have a kNN of {knn}" in readme
        if row.name in left_out | {"pixels"}:
            continue
        cells = [row.name, str(len(pages.records(row)))]
        cells += [
            pages.told(pages.values(row, measure), 1) for measure in (pages.KNN, pages.LINEAR)
        ]
        assert f"| {' | '.join(cells)} |" in readme


def test_the_readmes_preset_is_the_training_that_it_tells_of():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    row = SMALL.rows[-1]
    knn, linear = (pages.told(pages.values(row, m), 1) for m in (pages.KNN, pages.LINEAR))
    assert f"a kNN of {knn} and a linear accuracy of {linear}" in readme
    preset, config = PRESETS["cifar10-small"], runs.config_of(row.training, 1, runs.PLACES)
    assert (preset.model, preset.labels) == (config.model, config.labels)
    assert preset.optimiser == replace(config.optimiser, precision="auto")


def test_records_have_the_settings_that_the_pages_tell():
    """A record of settings that have changed since would stand under the new ones."""
    known = {runs.record_of(row.training, seed): (row.training, seed)
             for row in ROWS for seed in row.seeds}  # fmt: skip
    found = [path for path in runs.RESULTS.glob("*.json") if not path.stem.startswith("frozen-")]
    assert found
    for path in found:
        training, seed = known[path]
        config = json.loads(runs.config_of(training, seed, runs.PLACES).to_json())
        assert json.loads(path.read_text())["config"] == config, path.name


def test_records_name_no_place_of_a_machine():
    for path in runs.RESULTS.glob("*.json"):
        text = path.read_text()
        assert str(Path.home()) not in text
        assert "/tmp" not in text


@pytest.fixture
def work(tmp_path, monkeypatch, results):
    """Return images of three colours as class folders in a zip file, and settings to match."""
    for part, n in (("train", 60), ("test", 30)):
        write_folders(tmp_path / "images" / part, coloured(n, 16, seed=n))
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        for path in sorted((tmp_path / "images").rglob("*.png")):
            file.write(path, path.relative_to(tmp_path / "images"))
    small = {"width": 8, "clusters": (4,), "epochs": 2, "updates": 2, "batch_size": 16,
             "image_size": 16, "knn_every": 1}  # fmt: skip
    for name, value in small.items():
        monkeypatch.setitem(COMMON, name, value)
    return runs.Work(tmp_path / "images.zip", tmp_path / "runs")


def test_a_training_is_recorded_once(work, capsys):
    """Labels are those of the run named; classes, where asked for; nothing is done twice."""
    first = Training("first", baselines=("pixels",))
    second = Training("second", {"labelling": "fixed"}, after=first)
    taught = Training("taught", {**SUPERVISED.settings, "clusters": (3,)}, classes=True)
    random = Training("random", {"updates": 0}, held_out=True)
    for training in (first, second, taught, random):
        runs.work_on(training, 1, work)
    found = {
        path.stem: json.loads(path.read_text())
        for path in runs.record_of(first, 1).parent.glob("*.json")
    }
    assert set(found) == {"first-1", "second-1", "taught-1", "random-1"}
    for one in found.values():
        top = [row["top1"] for result in one["results"] for row in result["rows"] if "top1" in row]
        assert all(0 <= value <= 1 for value in top)
        assert one["config"]["data"]["data"] == "DIR"
    assert {r["method"] for r in found["first-1"]["results"]} == {"SeLa", "pixels"}
    nmi = {
        name: next(
            row["nmi"] for r in one["results"] if r["protocol"] == "clusters" for row in r["rows"]
        )
        for name, one in found.items()
    }
    assert nmi["first-1"] == nmi["second-1"]
    assert nmi["taught-1"] == 1.0
    assert nmi["random-1"] < 0.3
    assert found["random-1"]["updates"] == []
    assert len(found["first-1"]["updates"]) == 2
    capsys.readouterr()
    runs.work_on(first, 1, work)
    assert capsys.readouterr().out == ""


def test_processes_that_begin_at_once_do_not_both_write_the_classes(tmp_path, monkeypatch):
    """Two that wrote one file took it from each other, and one of them failed."""
    images = coloured(6, 8, seed=0)
    path = tmp_path / "classes.npy"

    @contextmanager
    def while_another_writes(_):
        np.save(path, images.targets.numpy()[None])  # it had the lock first
        yield

    with monkeypatch.context() as patched:
        patched.setattr(runs, "alone", while_another_writes)
        patched.setattr(runs, "write_whole", None)  # called, it fails
        runs.write_classes(images, path)

    def write(target, content):
        with open(target.with_suffix(".lock"), "w") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_whole(target, content)

    path.unlink()
    monkeypatch.setattr(runs, "write_whole", write)
    runs.write_classes(images, path)
    assert np.load(path).tolist() == [images.targets.tolist()]


def test_the_papers_schedule_is_scaled_to_the_epochs_that_fit():
    """The rate falls at 60% and 80%; all heads are labelled an epoch, but in 400 epochs one."""
    config = scaled(PRESETS["cifar10-alexnet"], 50)
    assert config.optimiser.lr_drops == (30, 40)
    assert config.labels.updates == 50
    assert config.labels.heads_per_update == "all"
    assert PRESETS["cifar10-alexnet"].labels.heads_per_update == "one"
    assert scaled(PRESETS["cifar10-alexnet"], 400) == PRESETS["cifar10-alexnet"]


@pytest.mark.parametrize(("seconds", "epochs"), [(0, 1), (3600, 3)])
def test_the_schedule_ends_with_the_epoch_after_which_the_time_is_over(tmp_path, seconds, epochs):
    """That epoch's checkpoint is there to be evaluated, and the run can go on."""
    images = coloured(40, 8)
    config = PRESETS["cifar10-small"].but(
        epochs=3, updates=2, batch_size=20, image_size=8, clusters=(4,), device="cpu"
    )
    create_run(config, tmp_path / "run")
    trainer = Trainer(config, images, tmp_path / "run")
    train(trainer, time.perf_counter() + seconds)
    assert trainer.epoch == epochs
    assert checkpoints(tmp_path / "run")[-1].name == f"epoch-{epochs:04d}-step-000000.pt"
