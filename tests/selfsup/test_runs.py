"""Runs: the same bits again, after any interruption; nothing saved is ever lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import TINY, assert_same_run, same, timeless

import selfsup.training.fit as fit_module
from selfsup.config import LEVELS, AugmentConfig, Config
from selfsup.data import FileImages, load_data
from selfsup.errors import ConfigError, RunError
from selfsup.presets import PRESETS
from selfsup.training.checkpoints import (
    checkpoints,
    create_run,
    fixed_labels,
    load_checkpoint,
    load_config,
    locked,
    read_log,
    save_checkpoint,
    write_whole,
)
from selfsup.training.fit import Trainer, new_network
from selfsup.training.label_pass import feature_pass, new_labels
from selfsup.training.processes import World
from selfsup.training.step import gradient_step, learning_rate
from selfsup.training.trained import Trained

STEPS = 7  # of an epoch


@pytest.fixture(scope="module")
def images():
    return load_data(TINY.data).train


def start(run, images, config=TINY):
    create_run(config, run)
    return Trainer(config, images, run)


def resume(run, images):
    trainer = Trainer(load_config(run), images, run)
    trainer.load()
    return trainer


@pytest.fixture(scope="module")
def finished(tmp_path_factory, images):
    run = tmp_path_factory.mktemp("runs") / "finished"
    start(run, images).fit()
    return run


def test_a_repeated_run_gives_the_same_bits(tmp_path, images, finished):
    torch.manual_seed(99)  # the global state must not matter
    start(tmp_path / "again", images).fit()
    assert_same_run(tmp_path / "again", finished)


def test_another_seed_gives_another_run(tmp_path, images, finished):
    config = TINY.but(seed=1, epochs=1)
    start(tmp_path / "other", images, config).fit()
    assert not np.array_equal(
        np.load(tmp_path / "other/labels.npy"), np.load(finished / "labels.npy")
    )


# interrupted


@pytest.mark.parametrize("step", [0, 3, 7, 17])  # 7 is between two epochs
@pytest.mark.parametrize("minutes", [0.0, 15.0])  # with and without checkpoints inside an epoch
def test_a_resumed_run_ends_in_the_same_bits(
    tmp_path, images, finished, monkeypatch, step, minutes
):
    run, calls = tmp_path / "stopped", iter(range(10**6))

    def interrupted(*arguments, **options):
        if next(calls) == step:
            raise KeyboardInterrupt
        return gradient_step(*arguments, **options)

    config = TINY.but(checkpoint_minutes=minutes)
    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "gradient_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            start(run, images, config).fit()
    assert load_checkpoint(run)["step"] == (step if minutes == 0 else step - step % STEPS)
    resume(run, images).fit()
    assert_same_run(run, finished)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from selfsup.data import load_data
from selfsup.training.checkpoints import checkpoints, load_config
import selfsup.sela, selfsup.training.fit
run, place, left = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
module, name = place.rsplit(".", 1)
owner = os if module == "os" else sys.modules[module]
original = getattr(owner, name)
def deadly(*arguments, **options):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)
setattr(owner, name, deadly)
config = load_config(run)
trainer = selfsup.training.fit.Trainer(config, load_data(config.data).train, run)
if checkpoints(run):
    trainer.load()
trainer.fit()
"""


def test_a_run_killed_during_checkpoints_label_updates_and_steps(tmp_path, images, finished):
    # One run, killed again and again where it hurts most: before a checkpoint has reached the
    # disk, before it has its name, between it and its labels, inside a label update, in a step.
    run = tmp_path / "killed"
    create_run(TINY.but(checkpoint_minutes=0.0), run)
    for place, after in (
        ("os.fsync", 4), ("os.replace", 6), ("selfsup.sela.sinkhorn", 1),
        ("selfsup.training.fit.gradient_step", 5), ("os.replace", 7), ("selfsup.sela.sinkhorn", 2),
    ):  # fmt: skip
        killed = subprocess.run([sys.executable, "-c", KILLED, str(run), place, str(after)])
        assert killed.returncode == -signal.SIGKILL
    resume(run, images).fit()
    assert_same_run(run, finished)


def test_a_log_ahead_of_the_checkpoint_leaves_no_double_line(tmp_path, images, finished):
    run = tmp_path / "crashed"
    start(run, images).save()
    lines = [{"event": "update", "update": 1}, {"event": "epoch", "epoch": 1}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "log.jsonl").write_text(text + '{"event": "epoch", "epoch": 2, "lo')
    resume(run, images).fit()
    assert_same_run(run, finished)


def test_labels_of_a_killed_process_are_made_good(tmp_path, images):
    # killed after the last checkpoint and before its labels, a run is finished all the same
    run = tmp_path / "run"
    start(run, images, TINY.but(epochs=1)).fit()
    (run / "labels.npy").write_bytes(b"old")
    resume(run, images).fit()
    assert np.array_equal(
        np.load(run / "labels.npy"), load_checkpoint(run)["labels"]["labels"].numpy()
    )


def test_tensorboard_shows_each_epoch_once(tmp_path, images, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, calls = tmp_path / "run", iter(range(10**6))

    def interrupted(*arguments, **options):
        if next(calls) == 2 * STEPS:
            raise KeyboardInterrupt
        return gradient_step(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "gradient_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            start(run, images).fit()
    resume(run, images).fit()
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    points = board.Scalars("train/loss")
    losses = [line["loss"] for line in read_log(run, "epoch")]
    assert [point.step for point in points] == [STEPS * e - 1 for e in (1, 2, 3, 4)]
    assert [point.value for point in points] == pytest.approx(losses)


def test_other_images_are_refused(tmp_path, images, finished):
    # labels go by position: the same number of images in another order would train on nonsense
    other = images.select(torch.arange(len(images)).flip(0))
    fewer = images.select(torch.arange(1000))
    for wrong in (other, fewer):
        with pytest.raises(RunError, match=r"other images \(1437 images"):
            resume(finished, wrong)
        config = TINY.but(labelling="fixed", labels_file=str(finished))
        with pytest.raises(RunError, match="other images"):
            fixed_labels(config.labels, wrong)


def test_divergence_stops_a_run_before_its_checkpoints_are_lost(tmp_path, images):
    run = tmp_path / "run"
    config = TINY.but(lr=1e30, labelling="argmax", updates=1)
    with pytest.raises(RunError, match="training has diverged"):
        start(run, images, config).fit()
    weights = load_checkpoint(run)["network"]
    assert all(w.isfinite().all() for w in weights.values() if w.is_floating_point())


def test_two_processes_do_not_train_one_run(tmp_path, images):
    trainer = start(tmp_path / "run", images)
    with locked(tmp_path / "run"), pytest.raises(RunError, match="by another process"):
        trainer.fit()


def test_a_run_from_files_decoded_by_workers_resumes_in_the_same_bits(tmp_path, images):
    # the way of ImageNet: nothing is in memory, worker processes decode
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(150):
        Image.fromarray(images.images[i, 0].numpy()).save(folder / f"{i:03d}.png")
    config = TINY.but(
        dataset="folder", data=str(folder), in_memory=False, workers=2, batch_size=50,
        augment=LEVELS["3"], epochs=2, updates=3, checkpoint_minutes=0.0, clusters=(5,),
    )  # fmt: skip
    files = load_data(config.data).train
    assert isinstance(files, FileImages)
    start(tmp_path / "whole", files, config).fit()
    assert read_log(tmp_path / "whole", "epoch")[-1].get("nmi") is None  # no classes

    for name in ("epoch-0001-step-000001.pt", "epoch-0001-step-000002.pt"):
        run = tmp_path / name
        trainer = start(run, files, config.but(keep=1000))
        trainer.fit()
        for path in checkpoints(run):
            if path.name > name:
                path.unlink()
        resume(run, files).fit()
        assert same(timeless(load_checkpoint(run)), timeless(load_checkpoint(tmp_path / "whole")))


def test_a_finished_run_resumed_stays_as_it_is(tmp_path, images, finished):
    before = load_checkpoint(finished)
    log = (finished / "log.jsonl").read_bytes()
    resume(finished, images).fit()
    assert same(before, load_checkpoint(finished))
    assert (finished / "log.jsonl").read_bytes() == log


# a disk that fails


def test_a_failed_write_names_the_file_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the kernel refuses longer files
    try:
        with pytest.raises(RunError, match=r"file could not be written.*make room"):
            write_whole(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_costs_nothing_that_was_saved(tmp_path, images, finished, monkeypatch):
    run, calls = tmp_path / "full", iter(range(10**6))

    def fsync(file):
        if next(calls) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trainer = start(run, images)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(RunError, match="No space left on device"):
            trainer.fit()
    assert load_checkpoint(run)["step"] > 0
    resume(run, images).fit()
    assert_same_run(run, finished)


def test_a_broken_checkpoint_is_named(tmp_path, images):
    run = tmp_path / "run"
    start(run, images, TINY.but(epochs=1)).fit()
    newest = checkpoints(run)[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(RunError, match=newest.name):
        resume(run, images)
    newest.unlink()  # what the message says
    resume(run, images).fit()


def test_copies_of_checkpoints_are_nobodys_checkpoints(tmp_path):
    """They would be taken for the newest, and be deleted as old ones."""
    (tmp_path / "checkpoints").mkdir()
    for name in (
        "epoch-0001-step-000000",
        "epoch-0002-step-000000.backup",
        "epoch-0003-step-0 (1)",
    ):
        (tmp_path / "checkpoints" / f"{name}.pt").touch()
    assert [path.stem for path in checkpoints(tmp_path)] == ["epoch-0001-step-000000"]


def test_checkpoints_are_kept_by_number_and_interval(tmp_path):
    config = TINY.but(keep=2, keep_every=3)
    create_run(config, tmp_path / "run")
    for epoch in range(8):
        for step in (0, 5):
            state = {"labels": {"labels": torch.zeros(1, 1)}}  # all that is looked at
            save_checkpoint(tmp_path / "run", config.run, state, epoch, step)
    names = [p.name for p in checkpoints(tmp_path / "run")]
    assert names == [
        "epoch-0003-step-000000.pt", "epoch-0006-step-000000.pt",
        "epoch-0007-step-000000.pt", "epoch-0007-step-000005.pt",
    ]  # fmt: skip


def test_an_existing_run_is_never_overwritten(finished):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match="exists already"):
        create_run(TINY, finished)
    assert before == {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}


# what a run says


def test_log_lines_hold_what_they_should(finished):
    epochs, updates = read_log(finished, "epoch"), read_log(finished, "update")
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4]
    assert [line["update"] for line in updates] == list(range(1, TINY.labels.updates + 1))
    assert updates[0]["step"] == 0
    assert updates[-1]["step"] == 4 * STEPS
    for line in updates:
        assert line["ln_k"] == pytest.approx([np.log(10), np.log(6)])
        for name in ("ce_before", "ce_after", "bits", "entropy", "size_min", "size_max",
                     "changed", "nmi_last", "violation", "passes", "converged"):  # fmt: skip
            assert len(line[name]) == 2
        assert set(line["seconds"]) == {"forward", "logits", "transport", "report"}
    for line in epochs:
        assert 0 < line["loss"] < 1.2 * line["ln_k"]
        assert line["images_per_second"] > 0
        assert 0 < line["label_share"] < 1
        assert {"loader", "network", "forward"} <= set(line["seconds"])
    assert list((finished / "tensorboard").iterdir())


def test_saved_labels_are_in_dataset_order(images, finished):
    trained = Trained.load(finished)
    again = trained.predict(images)  # the last update was that of the final network
    assert (again == trained.labels.labels).double().mean() > 0.999
    assert (again.flip(1) == trained.labels.labels).double().mean() < 0.5
    assert np.array_equal(np.load(finished / "labels.npy"), trained.labels.labels.numpy())


# how it trains


def test_step_schedules_of_the_presets_by_hand():
    imagenet, cifar = PRESETS["imagenet-alexnet"], PRESETS["cifar10-alexnet"]
    retrain = PRESETS["imagenet-alexnet-retrain"]

    def rates(config, epochs):
        return [learning_rate(config.optimiser, 10 * epoch, 10) for epoch in epochs]

    assert rates(imagenet, (0, 149, 150, 299, 300, 349, 350, 399)) == pytest.approx(
        [0.08, 0.08, 0.008, 0.008, 8e-4, 8e-4, 8e-5, 8e-5]
    )
    assert rates(cifar, (0, 239, 240, 319, 320)) == pytest.approx([0.03, 0.03, 3e-3, 3e-3, 3e-4])
    assert rates(retrain, (0, 29, 30, 60, 80)) == pytest.approx([0.05, 0.05, 5e-3, 5e-4, 5e-5])


def test_a_cosine_rises_and_falls_to_zero():
    config = TINY.but(epochs=10)
    config = config.optimiser
    rates = [learning_rate(config, step, 10) for step in range(100)]
    assert rates[0] == pytest.approx(config.lr / 2)
    assert rates[50] == pytest.approx(config.lr / 2)
    assert max(rates) < config.lr
    assert rates[-1] < 0.001 * config.lr


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(images):
    # in evaluation mode, as batch statistics are those of a part
    gradients = []
    for accumulate in (1, 4):
        config = TINY.but(accumulate=accumulate)
        network = new_network(config, images).eval()
        x = images.images[:40].float() / 255
        labels = new_labels(config.labels, len(images), 0, 1, World())
        still = torch.optim.SGD(network.parameters(), lr=0.0)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        loss = gradient_step(network, still, scaler, x, torch.arange(40), labels, config.optimiser)
        gradients.append((loss, [p.grad for p in network.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


def test_bfloat16_trains_nearly_as_float32(tmp_path, images):
    losses = []
    for precision in ("float32", "bfloat16"):
        run = tmp_path / precision
        start(run, images, TINY.but(precision=precision, epochs=2)).fit()
        losses.append(read_log(run, "epoch")[-1]["loss"])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_dropout_depends_on_the_step_alone(tmp_path, images, finished):
    # the global generator, from which dropout draws, is set at every step
    trainer = resume(finished, images)
    draws = []
    for _ in range(2):
        trainer.step = 3
        trainer.train_step(torch.zeros(4, 1, 8, 8), torch.arange(4))
        draws.append(torch.rand(3))
    assert torch.equal(*draws)


def test_a_batch_that_cannot_be_cut_is_refused(tmp_path, images):
    with pytest.raises(ConfigError, match="accumulate"):
        TINY.but(accumulate=3)
    with pytest.raises(ConfigError, match="each of 3 processes"):
        Trainer(TINY, images, tmp_path, World(0, 3))


# fixed labels, rotation, baselines


def test_training_on_the_labels_of_another_run(tmp_path, images, finished):
    # label transfer: another network learns the labels of a run, which never change
    config = TINY.but(
        width=8, labelling="fixed", labels_file=str(finished), rotation=True, epochs=6
    )
    run = tmp_path / "transfer"
    start(run, images, config).fit()
    assert np.array_equal(np.load(run / "labels.npy"), np.load(finished / "labels.npy"))
    assert read_log(run, "update") == []
    losses = [line["loss"] for line in read_log(run, "epoch")]
    assert losses[-1] < 0.8 * losses[0]
    finished_labels = finished / "labels.npy"
    assert finished_labels.exists()
    trainer = resume(run, images)  # needs its own checkpoint only, not where the labels came from
    assert np.array_equal(trainer.labels.labels.numpy(), np.load(finished_labels))
    predicted = Trained.load(run).predict(images)
    agreement = (predicted == load_checkpoint(run)["labels"]["labels"]).double().mean()
    assert agreement > 0.4  # chance is 0.13


def test_rotation_alone_learns_to_tell_quarter_turns(tmp_path, images):
    config = TINY.but(
        clusters=(), labelling="none", rotation=True, epochs=8, augment=AugmentConfig()
    )
    run = tmp_path / "rotnet"
    start(run, images, config).fit()
    losses = [line["loss"] for line in read_log(run, "epoch")]
    assert losses[0] < 1.7
    assert losses[-1] < 0.5 * np.log(4)


@pytest.mark.parametrize("labelling", ["k-means", "argmax"])
def test_baselines_run_on_the_same_path(tmp_path, images, labelling):
    run = tmp_path / "run"
    start(run, images, TINY.but(labelling=labelling, epochs=2)).fit()
    lines = read_log(run, "update")
    assert len(lines) == TINY.labels.updates
    sizes = lines[-1]["size_max"][0] - lines[-1]["size_min"][0]
    assert sizes > 0.3 * len(images) / 10  # nothing holds the classes equal
    again = Trained.load(run).predict(images)
    assert (again == load_checkpoint(run)["labels"]["labels"]).double().mean() > 0.99


@pytest.mark.parametrize("settings", [{"rounding": "exact"}, {"labelling": "balanced k-means"}])
def test_clusters_can_have_equal_sizes(tmp_path, images, settings):
    run = tmp_path / "run"
    start(run, images, TINY.but(**settings, epochs=2)).fit()
    line = read_log(run, "update")[-1]
    for least, most in zip(line["size_min"], line["size_max"], strict=True):
        assert most - least <= 1


def test_a_run_on_balanced_kmeans_labels_predicts_the_nearest_centroid(tmp_path, images):
    run = tmp_path / "run"
    start(run, images, TINY.but(labelling="balanced k-means", epochs=1)).fit()
    trained = Trained.load(run)
    features, found = trained.features(images), trained.predict(images)
    for head, centroids in enumerate(trained.labels.states):
        nearest = torch.cdist(features, centroids).argmin(1)
        assert (found[head] == nearest).double().mean() > 0.999


def test_labels_that_do_not_fit_the_images_are_refused(tmp_path, images, finished):
    config = TINY.but(labelling="fixed", labels_file=str(tmp_path / "labels.npy"))
    labels = np.load(finished / "labels.npy")
    for bad, message in (
        (labels[:, :100], "1437 images and 2 heads"),
        (labels[:1], "1437 images and 2 heads"),
        (labels.astype(float), "integers"),
        (labels - 1, "integers >= 0"),
        (labels + 5, "head 0 has label 14, K is 10"),
    ):
        np.save(tmp_path / "labels.npy", bad)
        with pytest.raises(RunError, match=message):
            fixed_labels(config.labels, images)
    with pytest.raises(RunError, match="no labels here"):
        fixed_labels(config.but(labels_file="nowhere").labels, images)


def test_a_network_restored_without_its_images_gives_the_same_features(images, finished):
    trained = Trained.load(finished)
    trainer = resume(finished, images)
    torch.testing.assert_close(
        feature_pass(trained.config, trained.network, images),
        feature_pass(trained.config, trainer.network, images),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("name", PRESETS)
def test_settings_survive_json(name, tmp_path):
    path = Path(tmp_path / "config.json")
    path.write_text(PRESETS[name].to_json())
    assert Config.load(path) == PRESETS[name]


@pytest.mark.parametrize(
    "bad",
    [{"epochs": 0}, {"epsilon": 0.0}, {"clusters": ()}, {"labelling": "fixed"},
     {"labels_file": "x"}, {"labelling": "none"}, {"head_groups": 3}, {"checkpoint_minutes": -1},
     {"seed": -1}, {"nesterov": True, "momentum": 0.0}],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        TINY.but(**bad)
