"""Evaluations: features kept and shared, what applies is run, and what does not is told."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import TINY

import selfsup.evaluation.features as features_module
import selfsup.evaluation.run as run_module
from selfsup.cli import main
from selfsup.config import ModelConfig
from selfsup.data import Splits, TensorImages, load_data, own_images
from selfsup.errors import ConfigError, RunError
from selfsup.evaluation.baselines import kmeans, supervised, untrained
from selfsup.evaluation.features import FeatureStore, View, stream, weights_digest
from selfsup.evaluation.frame import Protocol
from selfsup.evaluation.knn import KnnSettings, knn
from selfsup.evaluation.linear import LinearSettings, linear
from selfsup.evaluation.linear_sgd import LinearSgdSettings, linear_sgd
from selfsup.evaluation.neighbours import leave_one_out
from selfsup.evaluation.run import evaluate, read_results
from selfsup.evaluation.subject import Images, load_subject
from selfsup.evaluation.table import text_table
from selfsup.models import build_network
from selfsup.training.api import train
from selfsup.training.checkpoints import create_run, load_checkpoint, read_log
from selfsup.training.fit import Trainer, new_network
from selfsup.training.label_pass import feature_pass
from selfsup.training.monitor import knn_accuracy

SHORT = ["--clusters", "4", "5", "--epochs", "1", "--updates", "2", "--image-size", "8",
         "--width", "4", "--batch-size", "10"]  # fmt: skip


def fill(place, colour, n, first=0):
    place.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(first)
    for i in range(n):
        pixels = noise.integers(0, 60, (10, 12, 3)) + np.array(colour)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{first + i:03d}.png")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("evaluation") / "run"
    config = TINY.but(epochs=2, updates=3, supervised_epochs=1)
    create_run(config, run)
    Trainer(config, load_data(config.data).train, run).fit()
    return run


@pytest.fixture
def subject(run, tmp_path):
    loaded = load_subject(run, device="cpu")
    return replace(loaded, evaluation=loaded.evaluation.but(run=tmp_path))


# features


def test_features_are_those_of_the_label_pass_and_made_once(subject, monkeypatch):
    evaluation = subject.evaluation
    found = evaluation.features("train")
    torch.testing.assert_close(found, subject.trained.features(evaluation.train))

    def refused(*_):
        raise AssertionError("a second pass")

    monkeypatch.setattr(type(evaluation.network), "features", refused)
    assert torch.equal(evaluation.features("train"), found)


def test_other_weights_images_or_views_are_other_features(subject):
    evaluation = subject.evaluation
    store, network = FeatureStore(evaluation.run / "features"), evaluation.network
    first = evaluation.images("test")
    turned = replace(first, images=first.images.flip(2))

    def features(images, view=evaluation.view):
        return store.features(network, images, "here", view)[0].clone()

    before = features(first)
    assert not torch.equal(features(turned), before)
    assert not torch.equal(features(first, View(8, 0.5)), before)
    parameter = next(network.trunk.parameters())
    with torch.no_grad():
        parameter.mul_(2)
    assert not torch.equal(features(first), before)
    with torch.no_grad():
        parameter.div_(2)
    assert torch.equal(features(first), before)


def test_a_stopped_pass_goes_on_where_it_was(subject, monkeypatch):
    evaluation, starts = subject.evaluation, []
    whole = torch.cat([
        block["trunk"]
        for _, block in stream(evaluation.network, evaluation.train, evaluation.view)
    ])  # fmt: skip

    def stopping(*arguments, start, **options):
        starts.append(start)
        for number, block in enumerate(stream(*arguments, start=start, **options)):
            if len(starts) == 1 and number == 3:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(features_module, "NOTE", 0.0)
    monkeypatch.setattr(features_module, "stream", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluation.features("train")
    torch.testing.assert_close(evaluation.features("train"), whole)
    assert starts == [0, 3 * evaluation.view.batch]


def test_layers_have_the_papers_names(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(ModelConfig("alexnet-small"), (4,), torch.zeros(3), torch.ones(3),
                                224)  # fmt: skip
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    images = TensorImages(pixels, torch.tensor([0, 1]), ("a", "b"), ("0", "1"))
    names = ["conv5", "conv5/flat", "fc7", "trunk"]
    mean, flat, fc7, trunk = FeatureStore(tmp_path).features(
        network, images, "here", View(224), names
    )
    with torch.no_grad():
        network.eval()
        maps = network.trunk.features[:17](pixels / 255)  # up to the ReLU after the fifth
    torch.testing.assert_close(flat, maps.flatten(1))
    torch.testing.assert_close(mean, maps.mean((2, 3)))
    assert torch.equal(fc7, trunk)
    with pytest.raises(ConfigError, match="no layer 'conv9' in a AlexNet; it has trunk, conv1"):
        FeatureStore(tmp_path).features(network, images, "here", View(224), ["conv9"])


# protocols


def test_settings_are_chosen_without_the_test_images(subject):
    evaluation = subject.evaluation
    test = evaluation.images("test")
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    shuffled = evaluation.but(test=replace(test, targets=test.targets[order]))
    for protocol, settings, names in (
        (knn, KnnSettings(), ("k", "sigma", "pca", "validation")),
        (linear, LinearSettings(c=(1e-3, 1e-1)), ("C", "validation")),
    ):
        ours, others = protocol(evaluation, settings)[-1], protocol(shuffled, settings)[-1]
        assert [ours[name] for name in names] == [others[name] for name in names]
        assert ours["top1"] > 0.5 > 0.2 > others["top1"]
        assert ours["validation"] > 0.5


def test_a_linear_classifier_by_sgd_leaves_the_network_alone(subject):
    evaluation = subject.evaluation
    before = weights_digest(evaluation.network)
    settings = LinearSgdSettings(epochs=8, batch=100)
    (row,) = linear_sgd(evaluation, settings)
    assert weights_digest(evaluation.network) == before  # statistics of batches too
    assert row["top1"] > 0.5 < row["top5"]
    state = load_checkpoint(evaluation.scratch("linear-sgd", settings) / "training")["network"]
    for name, value in evaluation.network.trunk.state_dict().items():
        assert torch.equal(state[f"trunk.module.{name}"], value), name


def test_results_are_kept_until_the_run_changes(subject, monkeypatch):
    evaluation, calls = subject.evaluation, []

    def protocol(name, fail=False):
        def count(*_):
            if fail:
                raise KeyboardInterrupt
            calls.append(name)
            return [{"value": len(calls)}]

        return Protocol(name, "counts", count, usual=True)

    monkeypatch.setattr(run_module, "PROTOCOLS", (protocol("one"), protocol("two", fail=True)))
    with pytest.raises(KeyboardInterrupt):
        list(evaluate(evaluation))
    assert [result.rows for result in read_results(evaluation.run, evaluation.state)] == [
        ({"method": "SeLa", "value": 1},)
    ]
    monkeypatch.setattr(run_module, "PROTOCOLS", (protocol("one"), protocol("two")))
    results = list(evaluate(evaluation))
    assert [(r.protocol, r.kept) for r in results] == [("one", True), ("two", False)]
    assert calls == ["one", "two"]
    assert all(r.kept for r in evaluate(evaluation))
    assert [r.rows[0]["value"] for r in evaluate(evaluation, fresh=True)] == [3, 4]
    with torch.no_grad():
        next(evaluation.network.trunk.parameters()).mul_(2)
    assert [r.kept for r in evaluate(evaluation)] == [False, False]
    assert len(read_results(evaluation.run, evaluation.state)) == 2
    with pytest.raises(RunError, match="no protocol 'three'; there are one, two"):
        list(evaluate(evaluation, ["three"]))
    with pytest.raises(RunError, match="no baseline 'rotnet'; there are untrained"):
        list(evaluate(evaluation, baselines=["rotnet"]))


def test_baselines_are_what_they_say(subject):
    evaluation = subject.evaluation
    (first,) = untrained(evaluation)
    assert not torch.equal(first.features("test"), evaluation.features("test"))
    labels = first.labels("train")
    assert labels.shape == (2, len(evaluation.train))
    for k, head in zip(evaluation.clusters, labels, strict=True):
        sizes = torch.bincount(head, minlength=k)
        assert sizes.min() > 0.5 * len(head) / k
    features, pixels = kmeans(evaluation)
    assert features.clusters == pixels.clusters == (6, 10)  # each K, and the number of classes
    for one in (features, pixels):
        mine = one.labels("train")
        assert torch.equal(mine, one.labels("train"))
        assert [len(head.unique()) for head in mine] == [6, 10]
    assert not torch.equal(features.labels("train"), pixels.labels("train"))
    (taught,) = supervised(evaluation)
    folder = next((evaluation.run / "baselines").iterdir())
    written = (folder / "log.jsonl").read_text()
    (again,) = supervised(evaluation)  # from its checkpoint
    assert (folder / "log.jsonl").read_text() == written
    assert torch.equal(taught.features("test"), again.features("test"))


# all kinds of images


def evaluated(capsys, *arguments):
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments), "--device", "cpu"]) == 0
    return capsys.readouterr().out


def results_of(run):
    content = json.loads((run / "evaluation.json").read_text())["results"]
    return {(result["protocol"], result["method"]): result["rows"] for result in content}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("folders")
    for part, n in (("train", 30), ("test", 12)):
        fill(place / "both" / part / "red", (190, 20, 20), n)
        fill(place / "both" / part / "blue", (20, 20, 190), n, first=50)
    fill(place / "one" / "red", (190, 20, 20), 24)
    return place


def test_images_on_disk_are_evaluated(tmp_path, folders, capsys):
    run = tmp_path / "run"
    assert main(["train", "folder", "--data", str(folders / "both"), "--classes", "folders",
                 "--no-in-memory", "--out", str(run), *SHORT]) == 0  # fmt: skip
    printed = evaluated(capsys, run, "--baselines", "pixels")
    found = results_of(run)
    assert set(found) == {*((p, "SeLa") for p in ("knn", "linear", "clusters", "unlabelled")),
                          ("knn", "pixels")}  # fmt: skip
    for rows in (found["knn", "SeLa"], found["linear", "SeLa"], found["knn", "pixels"]):
        assert rows[-1]["top1"] == 1
    clusters = found["clusters", "SeLa"]
    assert [row["part"] for row in clusters] == ["train", "train", "test", "test"]
    assert clusters[0]["hungarian"] is None
    assert "also: --protocol" in printed
    page = (run / "report.html").read_text()
    assert "nearest neighbours" in page
    assert "each head" in page
    for name in ("many to one", "silhouette", "sigma"):
        assert f"<th>{name}</th>" in page


def test_what_does_not_apply_is_told(tmp_path, folders, capsys):
    run = tmp_path / "run"
    assert main(["train", "folder", "--data", str(folders / "both" / "train"), "--out", str(run),
                 *SHORT]) == 0  # fmt: skip
    printed = evaluated(capsys, run)
    assert "knn: not run, as no classes are known; --classes folders" in printed
    assert results_of(run)["unlabelled", "SeLa"][0]["K"] == 4
    printed = evaluated(capsys, run, "--classes", "folders")
    assert "linear: not run, as there are no test images; --hold-out 0.2" in printed
    assert [row["part"] for row in results_of(run)["clusters", "SeLa"]] == ["train", "train"]
    evaluated(capsys, run, "--classes", "folders", "--hold-out", "0.2")
    found = results_of(run)
    assert found["knn", "SeLa"][0]["top1"] == 1
    sizes = {row["part"]: row["size_max"] for row in found["clusters", "SeLa"]}
    assert sizes["test"] <= 12 < sizes["train"]

    one = tmp_path / "one"
    assert main(["train", "folder", "--data", str(folders / "one" / "red"), "--out", str(one),
                 *SHORT]) == 0  # fmt: skip
    assert "clusters: not run, as no classes are known" in evaluated(capsys, one)


def test_one_class_is_nothing_to_tell_apart(subject):
    evaluation = subject.evaluation
    same = replace(evaluation.train, targets=torch.zeros_like(evaluation.train.targets))
    for result in evaluate(evaluation.but(train=same), ["knn", "linear", "clusters"]):
        assert result.reason == "all images are of one class, '0': nothing to tell apart"


def test_held_out_images_keep_the_labels_of_the_run(run):
    whole = load_subject(run, device="cpu")
    dataset = load_data(TINY.data)
    torch.testing.assert_close(whole.evaluation.labels("train"), whole.trained.labels.labels)
    predicted = whole.evaluation.labels("test")
    assert torch.equal(predicted, whole.trained.predict(dataset.test))


def test_other_images_than_the_runs(tmp_path, folders, run, capsys):
    own = tmp_path / "own"
    assert main(["train", "folder", "--data", str(folders / "one" / "red"), "--out", str(own),
                 *SHORT]) == 0  # fmt: skip
    printed = evaluated(capsys, own, "--data", folders / "both", "--classes", "folders")
    assert "no page is written" in printed
    assert "report:" not in printed  # which is about the run's own images
    assert results_of(own)["knn", "SeLa"][0]["top1"] > 0.5
    loaded = load_subject(own, Images(data=str(folders / "both"), classes="folders"), "cpu")
    assert torch.equal(
        loaded.evaluation.labels("train"), loaded.trained.predict(loaded.evaluation.train)
    )
    with pytest.raises(RunError, match=r"takes images of 1 channels; those of .* have 3"):
        load_subject(run, Images(data=str(folders / "both"), dataset="folder"), "cpu")


def test_any_dataset_and_network_are_evaluated_from_python(tmp_path):
    class Colours:
        classes = ("red", "blue")

        def __init__(self, n):
            self.targets = [i % 2 for i in range(n)]

        def __len__(self):
            return len(self.targets)

        def __getitem__(self, i):
            noise = np.random.default_rng(i).integers(0, 60, (8, 8, 3))
            noise[..., 2 * self.targets[i]] += 150
            return noise.astype(np.uint8), self.targets[i]

    model = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten())
    options = {"clusters": (4, 4), "epochs": 1, "updates": 2, "image_size": 8, "batch_size": 10}
    model.append(torch.nn.Linear(12, 8))
    train(Colours(40), model, out=tmp_path / "run", in_memory=False, device="cpu", **options)
    splits = Splits(own_images(Colours(40)), own_images(Colours(20)))
    subject = load_subject(tmp_path / "run", device="cpu", trunk=model, splits=splits)
    (result,) = evaluate(subject.evaluation, ["linear"])
    assert result.rows[0]["top1"] > 0.9
    (result,) = evaluate(subject.evaluation, ["clusters"])
    assert result.rows[0]["size_max"] <= 20


# while training


def test_knn_is_watched_and_changes_nothing(tmp_path):
    images = load_data(TINY.data).train
    labels = []
    for every in (2, 0):
        config = TINY.but(epochs=3, updates=3, knn_every=every)
        run = tmp_path / str(every)
        create_run(config, run)
        trainer = Trainer(config, images, run)
        trainer.fit()
        labels.append(trainer.labels.labels)
        watched = {line["epoch"]: line.get("knn") for line in read_log(run, "epoch")}
        assert [watched[epoch] is not None for epoch in (1, 2, 3)] == (
            [False, True, True] if every else [False] * 3
        )
    assert torch.equal(*labels)


def test_the_watched_accuracy_is_that_of_the_features():
    images = load_data(TINY.data).train
    config = TINY.but(knn_every=40)  # of all images, as there are no more than 2000
    network = new_network(config, images)
    assert knn_accuracy(config, network, images, 3) == {}  # due after the last epoch, the fourth
    features = feature_pass(config.clean(), network, images)
    truth = leave_one_out(features, images.targets, len(images.classes), 10, 0.1)
    assert knn_accuracy(config, network, images, 4) == {"knn": truth}
    assert 0.5 < truth < 1
    with torch.no_grad():
        for parameter in network.trunk.parameters():
            parameter.zero_()
    assert knn_accuracy(config, network, images, 4)["knn"] < 0.2


def test_tables_align_words_left_and_numbers_right():
    rows = [{"method": "a", "top1": 0.5, "each": [1]}, {"method": "long", "n": 12, "C": 1e-4}]
    assert text_table(rows).splitlines() == [
        "method    top1   n        C",
        "a       0.5000",
        "long            12  1.0e-04",
    ]
