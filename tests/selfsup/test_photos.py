"""Folders as people have them, runs as disks leave them: what works, and what is said if not."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import selfsup
from selfsup.cli import main
from selfsup.data.sources import Files
from selfsup.report.page import _map
from selfsup.training.checkpoints import checkpoints, load_checkpoint, load_config, read_log

SMALL = ["--epochs", "1", "--clusters", "4", "--updates", "2", "--width", "4", "--image-size", "8"]


def fill(folder, n, size=(12, 8), suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        noise = np.random.default_rng(i).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / f"p{i:03d}.{suffix}")
    return folder


def train(data, run, *options):
    return main(["train", "folder", "--data", str(data), "--out", str(run), *SMALL, *options])


def rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))[1:]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("photos") / "in", 30)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, photos):
    run = tmp_path_factory.mktemp("runs") / "finished"
    assert train(photos, run, "--epochs", "2", "--updates", "3") == 0
    return run


def test_it_says_first_what_was_found_and_where_it_computes(tmp_path, photos, capsys):
    (photos / "notes.txt").write_text("")
    assert train(photos, tmp_path / "run") == 0
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first == (
        f"{photos}: 30 images found (other files: 1 .txt), 0 unreadable, 30 used, 0 held out; "
        "no classes"
    )
    assert second.startswith("device: ")


def test_without_clusters_k_fits_the_images(tmp_path, capsys):
    fill(tmp_path / "in", 50)
    small = ["--epochs", "1", "--updates", "2", "--width", "4", "--image-size", "8"]
    options = ["--data", str(tmp_path / "in"), "--out", str(tmp_path / "run")]
    assert main(["train", "folder", *options, *small]) == 0
    assert load_config(tmp_path / "run").labels.clusters == (2,) * 10
    assert train(tmp_path / "in", tmp_path / "more", "--clusters", "51") == 1
    assert "51 are more than the 50 images; some 2 fit" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("n", [2, 3, 20])
def test_very_few_images_are_trained_on(tmp_path, n):
    fill(tmp_path / "in", n)
    assert train(tmp_path / "in", tmp_path / "run", "--clusters", "2") == 0
    assert np.load(tmp_path / "run" / "labels.npy").shape == (1, n)


def test_one_image_cannot_be_told_apart(tmp_path, capsys):
    fill(tmp_path / "in", 1)
    assert train(tmp_path / "in", tmp_path / "run") == 1
    assert "1 image: labels need at least 2" in capsys.readouterr().err


def test_unreadable_files_are_left_out_on_request_and_by_predict(tmp_path, finished, capsys):
    bad = fill(tmp_path / "in", 20, suffix="jpg")
    for i in (3, 7):
        (bad / f"p{i:03d}.jpg").write_bytes((bad / f"p{i:03d}.jpg").read_bytes()[:300])
    assert train(bad, tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "2 of 20 images cannot be read" in error
    assert "p003.jpg" in error
    assert "p007.jpg" in error
    assert train(bad, tmp_path / "run", "--skip-unreadable") == 0
    assert "2 unreadable, 18 used" in capsys.readouterr().out
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0  # goes by the same 18
    table = tmp_path / "p.csv"
    assert main(["predict", str(finished), "--data", str(bad), "--csv", str(table)]) == 0
    assert "left out" in capsys.readouterr().err
    assert len(rows(table)) == 18


def test_a_class_of_one_image_or_one_class_stops_nothing(tmp_path, capsys):
    fill(tmp_path / "in" / "a", 12)
    fill(tmp_path / "in" / "c", 1)
    assert train(tmp_path / "in", tmp_path / "run", "--classes", "folders") == 0
    assert "13 used, 0 held out; 2 classes" in capsys.readouterr().out
    assert train(tmp_path / "in" / "a", tmp_path / "one", "--classes", "folders") == 0
    assert main(["evaluate", str(tmp_path / "one")]) == 0
    assert "knn: not run, as no classes are known" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert "there are no test images; --hold-out 0.2" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--hold-out", "0.2"]) == 0
    assert "not run" not in capsys.readouterr().out


# runs that were damaged


def test_a_damaged_or_foreign_checkpoint_is_named_with_the_way_on(tmp_path, photos, capsys):
    run = tmp_path / "run"
    assert train(photos, run) == 0
    newest = checkpoints(run)[-1]
    for damage in (
        lambda: newest.write_bytes(b"<html>not a checkpoint</html>"),
        lambda: newest.write_bytes(b""),
        lambda: newest.write_bytes(b"abc"),  # torch.load pops from an empty stack
        lambda: torch.save({"model": 1}, newest),
        lambda: torch.save([1], newest),
    ):
        damage()
        assert main(["labels", str(run), "--csv", str(tmp_path / "l.csv")]) == 1
        error = capsys.readouterr().err
        assert newest.name in error
        assert "Delete it to go on from the one before" in error
    newest.unlink()
    (run / "log.jsonl").write_text("garbage\n[1]\n\xff\n" + (run / "log.jsonl").read_text())
    assert main(["train", "--resume", str(run)]) == 0
    assert [line["epoch"] for line in read_log(run, "epoch")] == [1]


def test_settings_that_are_none_are_named(tmp_path, capsys):
    for text in ("", "[]", '{"data": 3}', '{"model": {}}'):
        (tmp_path / "config.json").write_text(text)
        assert main(["labels", str(tmp_path)]) == 1
        assert "config.json: not the settings of a run" in capsys.readouterr().err


def test_a_run_that_diverges_keeps_its_good_checkpoint(tmp_path, photos, capsys):
    assert train(photos, tmp_path / "run", "--lr", "100000", "--epochs", "3") == 1
    assert "training has diverged" in capsys.readouterr().err
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["epoch-0000-step-000000.pt"]
    weights = load_checkpoint(tmp_path / "run")["network"]
    assert all(w.isfinite().all() and w.abs().max() < 10 for w in weights.values())


@pytest.mark.parametrize("change", [
    lambda text: b"\xef\xbb\xbf" + text,
    lambda text: text.replace(b",", b";"),
    lambda text: text.replace(b"\r\n", b"\n"),
])  # fmt: skip
def test_labels_come_back_from_a_spreadsheet(tmp_path, photos, finished, change):
    file = tmp_path / "labels.csv"
    assert main(["labels", str(finished), "--csv", str(file)]) == 0
    file.write_bytes(change(file.read_bytes()))
    options = ["--labelling", "fixed", "--labels-file", str(file)]
    assert train(photos, tmp_path / "run", *options) == 0
    again, first = (np.load(run / "labels.npy") for run in (tmp_path / "run", finished))
    assert np.array_equal(again, first)


def test_commas_and_quotes_in_names_survive_a_file_of_labels(tmp_path):
    odd = fill(tmp_path / "in", 5)
    (odd / "p000.png").rename(odd / 'a, "b";\n c.png')
    assert train(odd, tmp_path / "run") == 0
    file = tmp_path / "labels.csv"
    assert main(["labels", str(tmp_path / "run"), "--csv", str(file)]) == 0
    assert rows(file)[0][1] == 'a, "b";\n c.png'
    options = ["--labelling", "fixed", "--labels-file", str(file)]
    assert train(odd, tmp_path / "again", *options) == 0


# longer, elsewhere


def test_a_finished_run_is_made_longer(tmp_path, photos):
    run = tmp_path / "run"
    assert train(photos, run, "--epochs", "2", "--updates", "4", "--batch-size", "10") == 0
    assert main(["train", "--resume", str(run), "--epochs", "4"]) == 0
    config = load_config(run)
    assert (config.optimiser.epochs, config.labels.updates) == (4, 8)
    assert [line["epoch"] for line in read_log(run, "epoch")] == [1, 2, 3, 4]
    steps = [line["step"] for line in read_log(run, "update")]
    assert steps[:4] == [0, 2, 4, 6]
    assert steps[-1] == 12  # the final labels are those of the final network
    assert all(later > earlier for earlier, later in itertools.pairwise(steps[3:]))


def test_random_labels_stay_when_a_run_is_made_longer(tmp_path, photos):
    """A control without label updates would get one otherwise."""
    run = tmp_path / "run"
    assert train(photos, run, "--updates", "0") == 0
    random = np.load(run / "labels.npy")
    assert main(["train", "--resume", str(run), "--epochs", "2"]) == 0
    assert load_config(run).labels.updates == 0
    assert np.array_equal(np.load(run / "labels.npy"), random)


def test_another_number_of_processes_goes_on_when_that_is_accepted(tmp_path, photos, capsys):
    run = tmp_path / "run"
    assert train(photos, run, "--epochs", "2") == 0
    checkpoints(run)[-1].unlink()
    state = load_checkpoint(run)
    torch.save(state | {"processes": 2}, checkpoints(run)[-1])
    assert main(["train", "--resume", str(run)]) == 1
    assert "--processes-may-differ" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--processes-may-differ"]) == 0
    assert load_checkpoint(run)["step"] == 2


def test_a_run_starts_from_the_weights_of_another(tmp_path, photos, finished):
    assert train(photos, tmp_path / "run", "--init", str(finished), "--lr", "1e-12") == 0
    ours, theirs = (load_checkpoint(run)["network"] for run in (tmp_path / "run", finished))
    name = "trunk.layers.0.weight"
    torch.testing.assert_close(ours[name], theirs[name])
    (tmp_path / "none.pt").write_bytes(b"abc")
    for name in ("none.pt", "gone.pt"):
        assert train(photos, tmp_path / "other", "--init", str(tmp_path / name)) == 1


# the command line


@pytest.mark.parametrize(
    "arguments",
    [[], ["train"], ["train", "folder"], ["train", "--resume", "x"], ["labels"], ["predict"],
     ["evaluate"], ["report"], ["export"], ["export-clusters"]],
)  # fmt: skip
def test_help_works_everywhere(arguments, capsys):
    with contextlib.suppress(SystemExit):
        assert main([*arguments, "--help"]) == 0
    assert "usage: python -m selfsup" in capsys.readouterr().out


def test_without_the_extra_it_says_what_to_install():
    code = (
        "import sys, runpy; sys.modules['tyro'] = None; runpy.run_module('selfsup', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "selfsup needs tyro, which is missing." in done.stderr
    assert 'pip install ".[selfsup]" in a checkout' in done.stderr
    assert "Traceback" not in done.stderr


def test_export_gives_weights_embeddings_and_what_they_need(tmp_path, finished):
    out = tmp_path / "out"
    assert main(["export", str(finished), str(out), "--device", "cpu"]) == 0
    facts = json.loads((out / "preprocessing.json").read_text())
    embeddings = np.load(out / "embeddings.npy")
    assert embeddings.shape == (30, facts["features"]) == (30, 16)
    names = (out / "paths.txt").read_text().splitlines()
    assert len(names) == 30
    from selfsup.config import ModelConfig
    from selfsup.models import build_trunk

    trunk = build_trunk(ModelConfig(width=4, stem_stride=2), 3).eval()
    trunk.load_state_dict(torch.load(out / "weights.pt", weights_only=True))
    with Image.open(_photo(finished, names[4])) as file:
        square = file.resize((8, 8), Image.Resampling.BILINEAR, box=(2, 0, 10, 8))
    x = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(facts[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(
            trunk((x - mean) / std)[0], torch.from_numpy(embeddings[4]), atol=1e-4, rtol=1e-4
        )


def _photo(run, name):
    return f"{load_config(run).data.data}/{name}"


def test_clusters_are_exported_as_folders_of_links(tmp_path, photos, finished, capsys):
    out = tmp_path / "out"
    assert main(["export-clusters", str(finished), str(out)]) == 0
    labels = np.load(finished / "labels.npy")[0]
    links = sorted(out.glob("*/*"))
    assert len(links) == 30
    for link in links:
        assert link.resolve().parent == photos.resolve()
        i = int(link.name.split("-")[0])
        assert link.parent.name == f"cluster-{labels[i]:04d}"
    assert main(["export-clusters", str(finished), str(out)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert main(["export-clusters", str(finished), str(tmp_path / "o"), "--head", "7"]) == 1
    assert "no head 7: there are 1" in capsys.readouterr().err
    copies = tmp_path / "copies"
    assert main(["export-clusters", str(finished), str(copies), "--copy"]) == 0
    assert not any(path.is_symlink() for path in copies.glob("*/*"))


def test_names_in_a_zip_file_may_begin_with_a_dot_and_a_slash(tmp_path, photos):
    """Such names are those of the folder itself; only a part like .git hides what is below it."""
    source = sorted(photos.rglob("*.png"))[0].read_bytes()
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name in ("./a/0.png", "./a/1.png", "./.git/2.png"):
            archive.writestr(name, source)
    assert Files(tmp_path / "in.zip").names()[0] == ["./a/0.png", "./a/1.png"]


def test_equal_features_have_a_map():
    """t-SNE divides by their deviation."""
    assert np.isfinite(_map(np.ones((20, 8), np.float32))).all()


def test_a_damaged_image_without_a_suffix_is_told(tmp_path, photos):
    """It counts as an image, so that it is in the list of what cannot be read."""
    source = sorted(photos.rglob("*.png"))[0].read_bytes()
    (tmp_path / "cut").write_bytes(source[:12])  # the signature, and half a header
    (tmp_path / "text").write_text("no image")
    images, others = Files(tmp_path).names()
    assert images == ["cut"]
    assert others == {"no suffix": 1}


def test_images_in_a_zip_file_are_no_files_to_link_to(tmp_path, photos, capsys):
    shutil.make_archive(str(tmp_path / "in"), "zip", photos)
    assert train(tmp_path / "in.zip", tmp_path / "run") == 0
    assert main(["export-clusters", str(tmp_path / "run"), str(tmp_path / "out")]) == 1
    assert "30 images are no files of their own, as in a zip file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_page_of_many_images_looks_at_a_sample(tmp_path, finished, monkeypatch):
    for name, n in (("SHOWN", 12), ("MAPPED", 6), ("LOOKED_AT", 20)):
        monkeypatch.setattr(f"selfsup.report.page.{name}", n)
    assert main(["report", str(finished)]) == 0
    page = (finished / "report.html").read_text()
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.S)[1])
    labels = np.load(finished / "labels.npy")
    assert data["heads"][0]["sizes"] == np.bincount(labels[0], minlength=4).tolist()  # of all
    assert 6 < len(data["images"]) <= 14
    assert len(data["map"]) == 6
    for image in data["images"]:
        assert image["labels"] == labels[:, int(image["name"][1:4])].tolist()
        assert image["link"].startswith("file://")
    shown = {image["labels"][0] for image in data["images"]}
    assert shown == set(labels[0].tolist())  # every cluster has some
    assert f"{len(data['images'])} of the 30 images are here" in page


def test_training_from_python_goes_on_where_it_stopped(tmp_path, photos):
    run, settings = tmp_path / "run", {"clusters": (4,), "updates": 3, "width": 4, "image_size": 8}
    trained = selfsup.train(photos, out=run, epochs=2, device="cpu", **settings)
    assert trained.labels.labels.shape == (1, 30)
    with pytest.raises(selfsup.SelfsupError, match="exists already"):
        selfsup.train(photos, out=run, epochs=2, **settings)
    checkpoints(run)[-1].unlink()
    again = selfsup.train(photos, out=run, resume=True)
    assert torch.equal(again.labels.labels, trained.labels.labels)
    with pytest.raises(selfsup.SelfsupError, match="drop epochs"):
        selfsup.train(photos, out=run, resume=True, epochs=3)
    with pytest.raises(selfsup.SelfsupError, match="no settings of these names: epoch"):
        selfsup.train(photos, out=tmp_path / "other", epoch=3)


def test_own_networks_are_passed_again(tmp_path, photos):
    class Own(torch.nn.Module):
        def forward(self, images):
            return images.mean((2, 3))

    trained = selfsup.train(
        photos, Own(), out=tmp_path / "run", clusters=(3,), epochs=1, updates=2, image_size=8
    )
    assert trained.network.dim == 3
    with pytest.raises(selfsup.SelfsupError, match="pass it again"):
        selfsup.Trained.load(tmp_path / "run")
    again = selfsup.Trained.load(tmp_path / "run", trunk=Own())
    assert torch.equal(again.labels.labels, trained.labels.labels)
