"""Results: which are kept, which are made anew, what is told, and what the page shows of them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import TINY

import selfsup.evaluation.run as run_module
from selfsup.cli import main
from selfsup.data import Splits, load_data, own_images
from selfsup.errors import DataError, RunError
from selfsup.evaluation.features import shown_digest, state_digest
from selfsup.evaluation.frame import Protocol
from selfsup.evaluation.knn import KnnSettings, knn
from selfsup.evaluation.linear import LinearSettings, linear
from selfsup.evaluation.linear_sgd import LinearSgdSettings, linear_sgd
from selfsup.evaluation.run import evaluate, read_results
from selfsup.evaluation.subject import Images, load_subject
from selfsup.evaluation.table import report_text
from selfsup.report.page import data_url, evaluation_part, tiles_of, write_report
from selfsup.training.api import train
from selfsup.training.checkpoints import create_run
from selfsup.training.fit import Trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("results") / "run"
    create_run(TINY.but(epochs=1, updates=2), run)
    Trainer(TINY.but(epochs=1, updates=2), load_data(TINY.data).train, run).fit()
    return run


def subject_of(run, folder, **images):
    loaded = load_subject(run, Images(**images), device="cpu")
    return replace(loaded, evaluation=loaded.evaluation.but(run=folder))


@pytest.fixture
def subject(run, tmp_path):
    return subject_of(run, tmp_path)


def halved(evaluation):
    """Return half of the training images as such, and the other half for tests."""
    n = len(evaluation.train) // 2
    parts = torch.arange(n), torch.arange(n, 2 * n)
    return evaluation.but(**dict(zip(("train", "test"), map(evaluation.train.select, parts),
                                     strict=True)))  # fmt: skip


def kept(evaluation, protocol="knn", **options):
    (result,) = evaluate(evaluation, [protocol], **options)
    assert result.reason is None
    return result.kept


# which results are kept


def test_other_test_images_or_labels_or_heads_are_computed_anew(subject):
    evaluation, trained = subject.evaluation, subject.trained
    assert not kept(evaluation)
    assert kept(evaluation)
    test = evaluation.images("test")
    assert not kept(evaluation.but(test=replace(test, images=test.images.flip(2))))
    assert not kept(evaluation.but(test=test.select(torch.arange(50))))
    states = {state_digest(trained.network, trained.labels)}
    assert states == {evaluation.state}
    trained.labels.labels[0, 0] = (trained.labels.labels[0, 0] + 1) % 10
    states.add(state_digest(trained.network, trained.labels))
    with torch.no_grad():
        next(trained.network.heads.parameters()).add_(1)
    states.add(state_digest(trained.network, trained.labels))
    trained.labels.states[0] = torch.ones(10, dtype=torch.float64)
    states.add(state_digest(trained.network, trained.labels))
    assert len(states) == 4
    assert not kept(evaluation.but(state=states.pop()))


def test_results_on_other_images_stand_beside_each_other(run, tmp_path):
    """A training set with fewer images is another place, in the results and on the page."""
    (whole,) = evaluate(subject_of(run, tmp_path).evaluation, ["knn"])
    fewer = subject_of(run, tmp_path, imbalance="heavy").evaluation
    (heavy,) = evaluate(fewer, ["knn"])
    assert [whole.images, heavy.images] == ["digits", "digits, heavy"]
    results = read_results(tmp_path, fewer.state)
    assert len(results) == 2
    titles = [table["title"] for table in evaluation_part(results, fewer.train)["tables"]]
    assert titles == ["knn on digits", "knn on digits, heavy"]


def test_a_training_of_a_protocol_belongs_to_its_images(run, tmp_path):
    settings = LinearSgdSettings(epochs=1, batch=500, ten_crops=False)
    whole, fewer = (
        subject_of(run, tmp_path, imbalance=kind).evaluation for kind in ("full", "heavy")
    )
    assert linear_sgd(whole, settings)
    assert linear_sgd(fewer, settings)
    first, second = (made.scratch("linear-sgd", settings) for made in (whole, fewer))
    assert (first / "training").exists()
    assert first != second
    assert not (whole.but(fresh=True).scratch("linear-sgd", settings) / "training").exists()


def test_fresh_trains_anew(subject, monkeypatch):
    found = []

    def note(evaluation, _):
        file = evaluation.scratch("noted", None) / "file"
        found.append(file.exists())
        file.touch()
        return [{"value": 1}]

    monkeypatch.setattr(run_module, "PROTOCOLS", (Protocol("noted", "", note),))
    for fresh in (False, True):
        assert not kept(subject.evaluation, "noted", fresh=fresh)
    assert found == [False, False]


def test_an_evaluation_of_another_form_is_renamed(subject, tmp_path):
    (tmp_path / "evaluation.json").write_text('{"weights": "1", "results": []}')
    with pytest.warns(UserWarning, match=r"not in the form .* now evaluation\.json\.old"):
        kept(subject.evaluation)
    assert (tmp_path / "evaluation.json.old").read_text() == '{"weights": "1", "results": []}'
    assert kept(subject.evaluation)


def test_what_is_no_number_is_none(subject, tmp_path, monkeypatch):
    rows = [{"value": float("nan"), "each_head": [{"value": float("inf")}]}]
    protocol = Protocol("none", "", lambda *_: rows, usual=True)
    monkeypatch.setattr(run_module, "PROTOCOLS", (protocol,))
    (result,) = evaluate(subject.evaluation)
    assert result.rows[0] == {"method": "SeLa", "value": None, "each_head": [{"value": None}]}
    assert "NaN" not in (tmp_path / "evaluation.json").read_text()


# what is told


def test_a_failure_is_told_and_the_next_protocol_has_its_turn(subject, monkeypatch):
    def failing(*_):
        raise DataError("the disk is full")

    monkeypatch.setattr(run_module, "PROTOCOLS", (
        Protocol("one", "", failing, usual=True),
        Protocol("two", "", lambda *_: [{"value": 1}], usual=True),
    ))  # fmt: skip
    results = list(evaluate(subject.evaluation))
    assert [result.reason for result in results] == ["the disk is full", None]
    assert "one: not run, as the disk is full" in report_text(results)


def test_more_clusters_than_images_are_no_k_means(subject):
    few, labels = torch.arange(8), subject.trained.labels.labels
    evaluation = subject.evaluation.but(
        train=subject.evaluation.train.select(few), find_labels=lambda _: labels[:, few]
    )
    result = list(evaluate(evaluation, ["unlabelled"], ["kmeans"]))[-1]
    told = "baseline kmeans: not run, as k-means finds at most 8 clusters in 8 images"
    assert told in report_text([result])


def test_the_neighbours_of_one_image_are_none(subject):
    one = subject.evaluation.but(train=subject.evaluation.train.select(torch.tensor([0])))
    (result,) = evaluate(one, ["unlabelled"])
    assert result.reason == "one image has no neighbours"


def test_a_network_from_python_has_no_untrained_one(tmp_path):
    class Noise:
        targets, classes = [0, 1] * 15, ("a", "b")

        def __len__(self):
            return 30

        def __getitem__(self, i):
            pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3))
            return pixels.astype(np.uint8), self.targets[i]

    model = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(12, 4))
    train(Noise(), model, out=tmp_path / "run", in_memory=False, device="cpu", clusters=(4,),
          epochs=1, updates=1, image_size=8, batch_size=10)  # fmt: skip
    images = Splits(own_images(Noise()), own_images(Noise()))
    subject = load_subject(tmp_path / "run", device="cpu", trunk=model, splits=images)
    results = list(evaluate(subject.evaluation, ["knn"], ["untrained", "supervised"]))
    reason = "the network was passed from Python: it cannot be built anew, untrained"
    assert [result.reason for result in results] == [None, reason, reason]


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (1.0, "--hold-out is a share between 0 and 1, got 1"),
        (-0.5, "--hold-out is a share between 0 and 1, got -0.5"),
        (0.001, "--hold-out 0.001 of 1,437 images keeps none for tests"),
    ],
)
def test_a_share_for_tests_that_cannot_be_is_refused(run, share, message):
    train = load_data(TINY.data).train
    with pytest.raises(RunError, match=re.escape(message)):
        load_subject(run, Images(hold_out=share), "cpu", splits=Splits(train, None))


def test_what_images_are_evaluated_is_said(run):
    whole, train = load_subject(run, Images(hold_out=0.2), "cpu"), load_data(TINY.data).train
    assert "--hold-out is ignored, as there is a test part" in whole.found
    split = load_subject(run, Images(hold_out=0.2), "cpu", splits=Splits(train, None))
    held = len(split.evaluation.images("test"))
    assert f"--hold-out 0.2: {held} of these images are for tests" in split.found
    assert "labels of these are predicted" not in whole.found + split.found
    heavy = load_subject(run, Images(imbalance="heavy"), "cpu")
    assert heavy.own is None
    assert "labels of these are predicted" in heavy.found


def test_why_there_are_no_classes(subject):
    evaluation, train = subject.evaluation, subject.evaluation.train
    nameless = evaluation.but(train=replace(train, classes=()))
    folders = nameless.but(config=evaluation.config.but(classes="folders"))
    one = evaluation.but(train=replace(train, targets=torch.full_like(train.targets, 3)))
    reasons = [next(evaluate(made, ["knn"])).reason for made in (nameless, folders, one)]
    assert reasons[0].startswith("no classes are known; --classes folders")
    assert reasons[1] == "no classes are known: the images are not in two or more folders"
    assert reasons[2] == "all images are of one class, '3': nothing to tell apart"


def test_what_learned_the_classes_chooses_nothing_by_them(subject):
    taught = halved(subject.evaluation).but(taught=True)
    (row,) = knn(taught, KnnSettings())
    assert (row["setting"], row["validation"]) == ("paper", None)
    (row,) = linear(taught, LinearSettings(c=(0.01,)))
    assert row["validation"] is None
    assert "grid" not in row


def test_a_c_at_the_edge_is_told(subject):
    small = halved(subject.evaluation)
    (row,) = linear(small, LinearSettings(c=(1e-9, 1e-8)))
    assert row["note"].startswith("best C is the last one tried")
    (row,) = linear(small, LinearSettings(c=(1e-8,)))
    assert "note" not in row


# the page


def test_the_page_draws_the_images_that_were_evaluated(run, tmp_path):
    """Neighbours among a part of the run's images are those of the same names among all."""
    train = load_data(TINY.data).train
    loaded = load_subject(run, Images(hold_out=0.2), "cpu", splits=Splits(train, None))
    results = list(evaluate(loaded.evaluation.but(run=tmp_path), ["unlabelled"]))
    (table,) = evaluation_part(results, loaded.own)["tables"]
    lines = results[0].rows[0]["neighbours"]["paths"]
    index = np.array([train.paths.index(path) for line in lines for path in line])
    assert table["picture"] == data_url(tiles_of(train, index), len(lines[0]))
    part = loaded.evaluation.train
    assert shown_digest(train, torch.from_numpy(index)) == shown_digest(
        part, torch.tensor([part.paths.index(train.paths[i]) for i in index])
    )
    other = replace(train, images=train.images.flip(2))  # of the same names
    (table,) = evaluation_part(results, other)["tables"]
    assert table["picture"] is None


def test_the_page_has_no_results_of_what_the_run_was_before(subject, tmp_path, monkeypatch):
    monkeypatch.setattr("selfsup.report.page.MAPPED", 50)
    list(evaluate(subject.evaluation, ["clusters"]))
    title = "clusters against classes"
    (tmp_path / "log.jsonl").touch()

    def page():
        return write_report(tmp_path, subject.trained, subject.own).read_text()

    assert title in page()
    subject.trained.labels.labels[0, :3] = 0
    assert title not in page()


def test_another_data_set_is_where_it_is_usually(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    digits = load_data(TINY.data).train
    for i in range(30):
        Image.fromarray(digits.images[i, 0].numpy(), "L").save(folder / f"{i}.png")
    made, small = tmp_path / "run", ["--clusters", "4", "--image-size", "8", "--width", "4"]
    assert main(["train", "folder", "--data", str(folder), *small, "--epochs", "1", "--updates",
                 "1", "--out", str(made)]) == 0  # fmt: skip
    with pytest.raises(RunError, match="those of digits have 1"):  # so that they were found
        load_subject(made, Images(dataset="digits"), "cpu")
