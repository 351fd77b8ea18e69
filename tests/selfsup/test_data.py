"""Data sets: published files, folders and zips; images in memory and in worker processes."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import pickle
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy.io import savemat
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

from selfsup.config import LEVELS, AugmentConfig, DataConfig
from selfsup.data import DataError, FileImages, TensorImages, known, load_data, own_images
from selfsup.data.folders import all_images
from selfsup.errors import ConfigError
from selfsup.presets import PRESETS


def load(dataset, data=None, size=32, **settings):
    place = None if data is None else str(data)
    return load_data(DataConfig(dataset, size, place, **settings))


def write_image(path, colour="red", size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def write_noise(path, seed, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return torch.from_numpy(pixels).permute(2, 0, 1)


# digits and Fashion-MNIST


def write_idx(path, array):
    content = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content += array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_fashion(folder, suffix):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", 6), ("t10k", 3)):
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (n, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", np.arange(n))


def test_digits_have_a_fixed_stratified_split():
    first, second = load("digits"), load("digits")
    assert (len(first.train), len(first.test)) == (1437, 360)
    assert torch.equal(first.train.images, second.train.images)
    assert not set(first.train.paths) & set(first.test.paths)
    assert list(first.train.paths) == sorted(first.train.paths)
    assert torch.bincount(first.test.targets).min() >= 34
    assert load("digits", size=9).train.images.shape[1:] == (1, 9, 9)
    assert load("digits", size=6).train.images.shape[1:] == (1, 6, 6)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("inner", ["", "FashionMNIST/raw"])
def test_fashion_is_found_in_both_layouts(tmp_path, suffix, inner):
    write_fashion(tmp_path / "x" / inner, suffix)
    splits = load("fashion-mnist", tmp_path / "x")
    assert splits.test.targets.tolist() == [0, 1, 2]
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28))
    assert np.array_equal(splits.train.images[:, 0].numpy(), images)


def test_missing_fashion_says_what_where_and_how(tmp_path, monkeypatch):
    monkeypatch.setattr(known, "DEBIAN_FASHION", tmp_path / "debian")
    monkeypatch.chdir(tmp_path)
    for place in (None, tmp_path / "mine"):
        with pytest.raises(DataError) as error:
            load("fashion-mnist", place)
        text = str(error.value)
        assert "train-images-idx3-ubyte" in text
        assert "apt-get install dataset-fashion-mnist" in text
        assert "--data" in text
        assert str(tmp_path / ("debian" if place is None else "mine")) in text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG....",
        b"\x00\x00\x08\x03\x00",
        b"\x00\x00\x08\x01" + struct.pack(">I", 9) + b"abc",
    ],
)
def test_a_broken_idx_file_is_named(tmp_path, content):
    path = tmp_path / "broken"
    path.write_bytes(content)
    with pytest.raises(DataError, match="broken"):
        known.read_idx(path)


def test_a_broken_gzip_is_named(tmp_path):
    path = tmp_path / "broken.gz"
    whole = gzip.compress(bytes(100))
    for content in (whole[:-12], whole[:12] + b"\xff\xff" + whole[14:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"broken\.gz"):
            known.read_idx(path)


# CIFAR and SVHN


def write_cifar(root, protocol=2):
    """Write three images per file in the layout of CIFAR's Python version; return all images."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (18, 3, 32, 32), dtype=np.uint8)
    files = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    records = {"batches.meta": {"label_names": list("abcdefghij")}}
    for i, name in enumerate(files):
        some = slice(3 * i, 3 * i + 3)
        records[name] = {"data": images[some].reshape(3, -1), "labels": [i, i + 1, i + 2]}
    write_pickles(root / "cifar-10-batches-py", records, protocol)
    fine = {"fine_label_names": [f"f{i}" for i in range(100)], "coarse_label_names": ["c"]}
    parts = {"train": slice(0, 15), "test": slice(15, 18)}
    records = {
        name: {
            "data": images[some].reshape(-1, 3072),
            "fine_labels": list(range(99, 0, -1))[some],
            "coarse_labels": [0] * len(images[some]),
        }
        for name, some in parts.items()
    }
    write_pickles(root / "cifar-100-python", {"meta": fine, **records}, protocol)
    return torch.from_numpy(images)


def write_pickles(folder, records, protocol):
    folder.mkdir(parents=True)
    for name, record in records.items():
        (folder / name).write_bytes(pickle.dumps(record, protocol))


@pytest.fixture
def unchecked(monkeypatch):
    """Subsets in the published format: torchvision compares checksums otherwise."""
    for kind in (CIFAR10, CIFAR100, SVHN):
        monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)


@pytest.mark.usefixtures("unchecked")
def test_cifar_in_its_pickles(tmp_path):
    images = write_cifar(tmp_path)
    ten, hundred = load("cifar10", tmp_path), load("cifar100", tmp_path)
    assert torch.equal(ten.train.images, images[:15])
    assert torch.equal(ten.test.images, images[15:])
    assert ten.train.targets.tolist() == [i + j for i in range(5) for j in range(3)]
    assert ten.train.classes == tuple("abcdefghij")
    assert torch.equal(hundred.train.images, images[:15])
    assert hundred.test.targets.tolist() == [84, 83, 82]
    assert hundred.test.classes[84] == "f84"
    assert load("cifar10", tmp_path / "cifar-10-batches-py").train.paths == ten.train.paths


@pytest.mark.usefixtures("unchecked")
def test_cifar_stays_small_for_a_large_network_and_shrinks_for_a_small_one(tmp_path):
    images = write_cifar(tmp_path)
    splits = load("cifar10", tmp_path, size=224)
    assert torch.equal(splits.train.images, images[:15])
    (views,) = splits.train.views([torch.arange(2)], AugmentConfig(), 224, seeds=[0])
    assert views.shape == (2, 3, 224, 224)
    assert (
        views[:, :, 112, 112] * 255 - images[:2, :, 15:17, 15:17].float().mean((2, 3))
    ).abs().max() < 30
    assert load("cifar10", tmp_path, size=16).train.images.shape == (15, 3, 16, 16)


class Malicious:
    def __reduce__(self):
        return print, ("run by a pickle",)


def test_an_altered_batch_of_cifar_is_refused_and_runs_nothing(tmp_path, capsys):
    write_cifar(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(pickle.dumps({"data": Malicious(), "labels": []}))
    with pytest.raises(DataError, match=r"cifar-10-batches-py.*unpack the archive there again"):
        load("cifar10", tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("unchecked")
def test_svhn_from_its_mat_files(tmp_path):
    rng = np.random.default_rng(2)
    images = {}
    for part, n in (("train", 12), ("test", 4)):
        images[part] = rng.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        labels = (np.arange(n) % 10 + 1).astype(np.uint8)[:, None]  # 10 stands for 0
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images[part], "y": labels})
    splits = load("svhn", tmp_path)
    assert splits.train.targets.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert splits.test.images[3, 1, 5, 7] == images["test"][5, 7, 1, 3]
    assert np.array_equal(splits.train.images.numpy(), images["train"].transpose(3, 2, 0, 1))


def test_other_files_of_svhn_are_refused(tmp_path):
    (tmp_path / "train_32x32.mat").write_bytes(b"MATLAB, but torn")
    with pytest.raises(DataError, match=r"the train part of svhn is missing or not"):
        load("svhn", tmp_path)


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "svhn", "imagenet", "folder"])
def test_missing_data_say_what_where_and_how(tmp_path, dataset):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(DataError) as error:
            load(dataset, place)
        assert str(place) in str(error.value)
        assert "--data DIR" in str(error.value)
        assert "DIR/train/CLASS/*" in str(error.value)
    with pytest.raises(DataError, match="--data DIR"):
        load("folder")


# folders and zips


def write_parts(root, test="test"):
    for part in ("train", test):
        write_image(root / part / "b" / "1.png", "red")
        write_image(root / part / "a" / "2.PNG", "blue")
        write_image(root / part / "a" / "1.bmp", "lime")
        write_image(root / part / "a-b" / "1.webp", "white")
        (root / part / "a" / "notes.txt").write_text("not an image")
        (root / part / "a" / "._1.bmp").write_text("not an image either")


def zipped(root, path, prefix=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*"), reverse=True):
            archive.write(file, prefix + file.relative_to(root).as_posix())
    return path


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("dataset", ["folder", "cifar10", "svhn", "imagenet"])
def test_class_folders_with_train_and_test(tmp_path, dataset, in_memory):
    write_parts(tmp_path, "val" if dataset == "imagenet" else "test")
    splits = load(dataset, tmp_path, size=8, in_memory=in_memory, classes="folders")
    assert isinstance(splits.train, TensorImages if in_memory else FileImages)
    for part in (splits.train, splits.test):
        assert part.classes == ("a", "a-b", "b")
        assert part.paths == ("a/1.bmp", "a/2.PNG", "a-b/1.webp", "b/1.png")
        assert part.targets.tolist() == [0, 0, 1, 2]
        (views,) = part.views([torch.tensor([3, 0, 1])], AugmentConfig(), 8, seeds=[0])
        assert views[:, :, 3, 3].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("prefix", ["", "wrapped/up/"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_zip_is_as_good_as_its_folder(tmp_path, prefix, in_memory):
    for part, n in (("train", 5), ("test", 2)):
        for i in range(2 * n):
            write_noise(tmp_path / "x" / part / "ab"[i % 2] / f"{i}.png", i)
    path = zipped(tmp_path / "x", tmp_path / "x.zip", prefix)
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "any.zip").write_bytes(path.read_bytes())
    settings = {"size": 16, "in_memory": in_memory, "classes": "folders"}
    sets = [load("folder", tmp_path / name, **settings) for name in ("x", "x.zip", "y")]
    shown = []
    for splits in sets:
        assert splits.test.paths == sets[0].test.paths
        batches = [torch.arange(10), torch.tensor([7, 7])]
        shown.append(torch.cat(list(splits.train.views(batches, LEVELS["3"], 16, seeds=[1, 2]))))
    assert torch.equal(shown[0], shown[1])
    assert torch.equal(shown[0], shown[2])


def test_a_test_part_is_held_out_by_class_when_asked_for(tmp_path):
    for name in ("a", "train"):  # a class like any other
        for i in range(10):
            write_image(tmp_path / "x" / name / f"{i}.png", (i, 0, 0))
    write_image(tmp_path / "x" / "one" / "1.png")
    asked = {"classes": "folders", "hold_out": 0.2}
    first, second = load("folder", tmp_path / "x", **asked), load("folder", tmp_path / "x", **asked)
    assert first.train.classes == ("a", "one", "train")
    assert torch.bincount(first.train.targets).tolist() == [8, 1, 8]
    assert torch.bincount(first.test.targets, minlength=3).tolist() == [2, 0, 2]
    assert first.train.paths == second.train.paths
    assert "21 images found, 0 unreadable, 17 used, 4 held out; 3 classes" in first.found
    (tmp_path / "y").mkdir()
    (tmp_path / "x").rename(tmp_path / "y" / "train")
    assert load("folder", tmp_path / "y", **asked).train.paths == first.train.paths
    write_image(tmp_path / "z" / "a" / "1.png")
    write_image(tmp_path / "z" / "b" / "1.png")
    with pytest.raises(DataError, match="keeps none for tests"):
        load("folder", tmp_path / "z", **asked)
    with pytest.raises(ConfigError, match="--classes folders"):
        load("folder", tmp_path / "z", hold_out=0.2)


def test_nothing_is_a_class_or_held_out_unless_asked(tmp_path):
    for name in ("2019-berlin", "2020-rome", "train", "test"):
        for i in range(5):
            write_image(tmp_path / name / f"{i}.png", (i, 0, 0))
    splits = load("folder", tmp_path)
    assert len(splits.train) == 20
    assert splits.test is None
    assert splits.train.classes == ()
    assert "20 images found, 0 unreadable, 20 used, 0 held out; no classes" in splits.found


def test_one_class_is_no_class(tmp_path):
    for i in range(10):
        write_image(tmp_path / "all" / f"{i}.png", (i, 0, 0))
    splits = load("folder", tmp_path, classes="folders", hold_out=0.2)
    assert len(splits.train) == 10
    assert not splits.train.labelled
    assert splits.test is None


@pytest.mark.parametrize(
    "names",
    [["2.png", "1.png", "3.png"], ["a/b/2.png", "a/b/1.png", "c/d/3.png"], ["2.png", "a/1.png"]],
)
def test_unlabelled_folders(tmp_path, names):
    for i, name in enumerate(names):
        write_image(tmp_path / name, (i, 0, 0))
    splits = load("folder", tmp_path, size=8)
    assert splits.test is None
    assert not splits.train.labelled
    assert splits.train.targets.tolist() == [-1] * len(names)
    assert splits.train.classes == ()
    assert splits.train.paths == tuple(sorted(names))
    order = [names.index(name) for name in splits.train.paths]
    assert splits.train.images[:, 0, 0, 0].tolist() == order


def test_unlabelled_parts(tmp_path):
    for name in ("train/1.png", "train/2.png", "val/3.png"):
        write_image(tmp_path / name)
    splits = load("folder", tmp_path, classes="folders")
    assert splits.train.paths == ("1.png", "2.png")
    assert splits.test.paths == ("3.png",)
    assert splits.test.targets.tolist() == [-1]


def test_all_images_of_a_folder_however_nested(tmp_path):
    write_parts(tmp_path)
    images = replace(all_images(tmp_path)[0], channels=1)
    assert images.channels == 1
    assert len(images) == 8
    assert images.paths[0] == "test/a/1.bmp"
    (views,) = images.views([torch.arange(8)], AugmentConfig(), 8, seeds=[0])
    assert views.shape == (8, 1, 8, 8)
    assert views[0, 0, 0, 0] == 150 / 255  # lime


@pytest.mark.parametrize("extra", ["test/c/1.png", "test/1.png"])
def test_test_images_of_no_known_class_are_refused(tmp_path, extra):
    write_parts(tmp_path)
    write_image(tmp_path / extra)
    with pytest.raises(DataError, match="test/ needs one folder per class as train/ has"):
        load("folder", tmp_path, classes="folders")


def test_images_in_memory_keep_their_aspect(tmp_path):
    # the longer side is cut to 1.5 of the shorter; the shorter is at most the network's input
    for size in ((4, 4), (60, 40), (40, 60), (200, 20), (8, 6)):
        write_noise(tmp_path / f"{size[0]}x{size[1]}.png", 1, size)
    images = load("folder", tmp_path, size=16).train
    extents = dict(zip(images.paths, images.extents.tolist(), strict=True))
    assert extents == {
        "4x4.png": [4, 4], "60x40.png": [16, 24], "40x60.png": [24, 16], "200x20.png": [16, 24],
        "8x6.png": [6, 8],
    }  # fmt: skip
    assert images.images.shape == (5, 3, 24, 24)
    (views,) = images.views([torch.arange(5)], AugmentConfig(), 16, seeds=[0])
    for path, view in zip(images.paths, views, strict=True):
        with Image.open(tmp_path / path) as image:
            side = min(image.size)
            left, top = ((edge - side) / 2 for edge in image.size)
            # pixels of a reduced image are means over more than the square
            box = (left, top, left + side, top + side)
            square = image.resize((16, 16), Image.Resampling.BILINEAR, box=box)
        expected = torch.from_numpy(np.array(square)).permute(2, 0, 1) / 255
        if (
            side < 16
        ):  # enlarged by the view: no rounding to bytes, and edges from beyond the square
            view, expected = view[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2]
        assert (view - expected).abs().max() < 0.13
        assert (view - expected).abs().mean() < 0.02


def test_square_images_of_one_size_stay_as_they_are(tmp_path):
    write_image(tmp_path / "1.png", "red", (4, 4))
    write_image(tmp_path / "2.png", "blue", (4, 4))
    images = load("folder", tmp_path, size=16).train
    assert (images.images.shape, images.extents) == ((2, 3, 4, 4), None)
    assert load("folder", tmp_path, size=2).train.images.shape == (2, 3, 2, 2)


def test_statistics_leave_out_what_is_beyond_an_image(tmp_path):
    write_image(tmp_path / "1.png", (255, 0, 0), (6, 4))
    write_image(tmp_path / "2.png", (0, 0, 0), (2, 2))
    mean, _ = load("folder", tmp_path).train.statistics()
    assert mean.tolist() == pytest.approx([24 / 28, 0, 0])


# files as people have them


FORMATS = [
    ("photo.jpg", "JPEG", "RGB"), ("scan.jfif", "JPEG", "L"), ("print.jpeg", "JPEG", "CMYK"),
    ("drawing.png", "PNG", "P"), ("bits.png", "PNG", "1"), ("clear.png", "PNG", "RGBA"),
    ("web.webp", "WEBP", "RGB"), ("film.gif", "GIF", "P"), ("scan.TIF", "TIFF", "RGB"),
    ("old.bmp", "BMP", "RGB"), ("plain", "PNG", "RGB"), ("IMG_0001", "JPEG", "RGB"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "mode"), FORMATS)
def test_images_of_every_format_are_found_and_read(tmp_path, name, kind, mode):
    ramp = np.zeros((20, 24, 3), np.uint8)
    ramp[:, 12:] = 255
    Image.fromarray(ramp).convert(mode).save(tmp_path / name, kind)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "LICENSE").write_text("nor this")
    splits = load("folder", tmp_path)
    assert splits.train.paths == (name,)
    assert "1 .txt" in splits.found
    image = splits.train.images[0].float()
    assert image[:, 5:15, 2:8].mean() < 10
    assert image[:, 5:15, 15:22].min() > 243


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("in_memory", [True, False])
def test_images_are_seen_as_their_camera_was_held(tmp_path, turn, in_memory):
    noise = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    tag = Image.Exif()
    tag[0x0112] = turn
    image = Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)
    image.save(tmp_path / "phone.jpg", exif=tag, quality=95)
    train = load("folder", tmp_path, size=24, in_memory=in_memory).train
    (view,) = train.views([torch.arange(1)], AugmentConfig(), 24, seeds=[0])
    with Image.open(tmp_path / "phone.jpg") as file:
        up = ImageOps.fit(ImageOps.exif_transpose(file), (24, 24), Image.Resampling.BILINEAR)
    difference = (view[0] * 255 - torch.from_numpy(np.array(up)).permute(2, 0, 1)).abs()
    assert difference.mean() < 3


GREYS = np.arange(4096) * 16  # of 16 bits


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (GREYS.astype(np.uint16), "png"),
        (GREYS.astype(np.uint16), "tif"),
        (GREYS.astype(np.int32), "tif"),
        ((GREYS / 65535).astype(np.float32), "tif"),
        ((GREYS / 257).astype(np.float32), "tif"),
    ],
)
def test_sixteen_bits_and_floats_keep_their_greys(tmp_path, values, kind):
    Image.fromarray(values.reshape(64, 64)).save(tmp_path / f"a.{kind}")
    image = load("folder", tmp_path, size=64).train.images[0]
    expected = torch.from_numpy(GREYS.reshape(64, 64)) / 257
    assert (image - expected).abs().max() <= 0.51
    assert len(image.unique()) > 250


def test_numbers_that_no_scale_is_known_for_are_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 1e6, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: not a readable image.*mode F: save 16 bits"):
        load("folder", tmp_path)


def test_clear_parts_are_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "logo.png")
    assert load("folder", tmp_path).train.images.min() == 255


def test_links_are_visited_once(tmp_path):
    place = tmp_path / "place"
    for name in ("a", "b"):
        for i in range(3):
            write_image(place / name / f"{i}.png")
    write_image(tmp_path / "elsewhere" / "far.png")
    (place / "a" / "up").symlink_to("..")
    (place / "a" / "sibling").symlink_to(place / "b")
    (place / "a" / "far").symlink_to(tmp_path / "elsewhere")
    (place / "a" / "again.png").symlink_to("0.png")
    (place / "b" / "far.png").symlink_to(tmp_path / "elsewhere" / "far.png")
    paths = load("folder", place).train.paths
    assert sorted(p.rsplit("/", 1)[1] for p in paths) == sorted(
        ["0.png", "1.png", "2.png"] * 2 + ["far.png"]
    )
    assert len({os.path.realpath(place / p) for p in paths}) == 7


def test_all_unreadable_files_are_told_at_once_and_can_be_skipped(tmp_path):
    for i in range(8):
        write_noise(tmp_path / f"{i}.png", i)
    for i in (1, 4, 6):
        torn(tmp_path / f"{i}.png")
    (tmp_path / "5.png").unlink()
    (tmp_path / "5.png").symlink_to("nowhere.png")
    for in_memory in (True, False):
        with pytest.raises(DataError, match="--skip-unreadable") as error:
            load("folder", tmp_path, in_memory=in_memory)
        text = str(error.value)
        assert "4 of 8 images cannot be read" in text
        assert all(f"{i}.png" in text for i in (1, 4, 5, 6))
        splits = load("folder", tmp_path, in_memory=in_memory, skip_unreadable=True)
        assert splits.train.paths == ("0.png", "2.png", "3.png", "7.png")
        assert "8 images found, 4 unreadable, 4 used" in splits.found
    for i in range(8):
        (tmp_path / f"{i}.png").unlink()
    write_image(tmp_path / "1.png")
    torn(tmp_path / "1.png")
    with pytest.raises(DataError, match="1 of 1 images cannot be read"):
        load("folder", tmp_path, skip_unreadable=True)


def test_digits_take_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"digits takes no --data; `train folder`"):
        load("digits", tmp_path)


# data sets of one's own


class Own(torch.utils.data.Dataset):
    def __init__(self, make, n=5):
        self.make, self.n = make, n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return self.make(i)


@pytest.mark.parametrize(
    "make",
    [
        lambda i: Image.new("RGB", (12, 8), (i, 0, 0)),
        lambda i: (Image.new("RGB", (12, 8), (i, 0, 0)), "a label that is not looked at"),
        lambda i: torch.tensor([i, 0, 0]).view(3, 1, 1).expand(3, 8, 12).byte(),
        lambda i: torch.tensor([i / 255, 0, 0]).view(3, 1, 1).expand(3, 8, 12),
        lambda i: (np.array([i, 0, 0], np.uint8) + np.zeros((8, 12, 1), np.uint8), 0),
    ],
)
def test_items_of_any_map_style_data_set_are_images(make):
    images = own_images(Own(make))
    assert (len(images), images.channels, images.labelled) == (5, 3, False)
    memory, problems = images.in_memory(8)
    assert problems == []
    assert memory.images.shape == (5, 3, 8, 12)
    assert memory.images[:, 0, 0, 0].tolist() == list(range(5))
    (views,) = images.views([torch.tensor([4, 2])], AugmentConfig(), 8, seeds=[0])
    assert (views[:, 0, 4, 4] * 255).tolist() == pytest.approx([4, 2])


def test_classes_of_a_data_set_are_known_and_items_that_are_no_images_refused():
    dataset = Own(lambda i: Image.new("L", (8, 8), i))
    dataset.targets, dataset.classes = [0, 1, 0, 1, 1], ["even", "odd"]
    images = own_images(dataset)
    assert (images.classes, images.channels) == (("even", "odd"), 1)
    assert images.targets.tolist() == [0, 1, 0, 1, 1]
    with pytest.raises(DataError, match="is a dict: an image must be"):
        own_images(Own(lambda i: {"image": i}))


# images that cannot be read


def torn(path):
    """Damage a file in the middle, where the header says nothing of it."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content[: middle + 60])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["torn", "text", "gone"])
def test_an_unreadable_file_is_named_by_workers_too(tmp_path, damage, workers):
    for i in range(6):
        write_noise(tmp_path / f"{i}.png", i)
    images = replace(all_images(tmp_path)[0], workers=workers)
    path = tmp_path / "4.png"
    if damage == "torn":
        torn(path)
    else:
        path.write_text("not an image") if damage == "text" else path.unlink()
    views = images.views([torch.arange(3), torch.arange(3, 6)], LEVELS["0"], 8, seeds=[0, 1])
    assert next(views).shape == (3, 3, 8, 8)
    with pytest.raises(DataError, match=r"4\.png.*(readable|gone)") as error:
        next(views)
    assert "Traceback" not in str(error.value)


def test_a_torn_zip_and_a_torn_file_in_one_are_named(tmp_path):
    write_noise(tmp_path / "x" / "1.png", 0)
    path = zipped(tmp_path / "x", tmp_path / "x.zip")
    content = bytearray(path.read_bytes())
    content[200:210] = bytes(10)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.zip/1\.png: not a readable image"):
        load("folder", path)
    other = tmp_path / "y.zip"
    other.write_bytes(bytes(content[:500]))
    with pytest.raises(DataError, match=r"y\.zip: neither a folder nor a readable zip"):
        load("folder", other)


# views


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Twelve images of other sizes each, smooth as photographs are."""
    root = tmp_path_factory.mktemp("photographs")
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        size = (300 + 20 * i, 260 + 10 * i)
        image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        image.save(root / f"{i:02d}.{'jpg' if i % 2 else 'png'}", quality=95)
    return root


BATCHES = [torch.tensor([5, 0, 3]), torch.tensor([11]), torch.tensor([2, 2, 7, 1])]


def shown(images, batches=BATCHES, seeds=(7, 8, 9), augment=LEVELS["moco-v2"]):
    return list(images.views(batches, augment, 24, seeds=list(seeds)))


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_batch_depends_on_its_seed_alone(photographs, in_memory):
    images = load("folder", photographs, in_memory=in_memory).train
    torch.manual_seed(0)
    before = torch.get_rng_state()
    whole = shown(images)
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(views) for views in whole] == [3, 1, 4]
    assert torch.equal(shown(images, BATCHES[2:], [9])[0], whole[2])
    assert not torch.equal(shown(images, BATCHES[2:], [10])[0], whole[2])
    assert not torch.equal(whole[2][0], whole[2][1])  # the same image, twice
    with pytest.raises(ValueError, match=r"zip\(\)"):
        shown(images, seeds=[1, 2])


def test_workers_change_nothing(photographs):
    images = load("folder", photographs, in_memory=False).train
    alone = shown(images)
    for workers in (1, 2):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        with_help = shown(replace(images, workers=workers))
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(a, b) for a, b in zip(alone, with_help, strict=True))


def test_a_generator_that_is_dropped_takes_its_workers_along(photographs):
    images = load("folder", photographs, in_memory=False, workers=2).train
    others = set(multiprocessing.active_children())
    views = images.views(BATCHES * 5, LEVELS["2"], 24, seeds=range(15))
    next(views)
    assert len(set(multiprocessing.active_children()) - others) == 2
    views.close()
    assert set(multiprocessing.active_children()) <= others


def test_workers_stay_for_the_next_epoch_and_serve_two_passes_at_once(photographs):
    images = load("folder", photographs, in_memory=False, workers=1).train
    others = set(multiprocessing.active_children())
    outer = images.views(BATCHES, LEVELS["2"], 24, seeds=[1, 2, 3])
    first = [next(outer), *shown(images)[:1], *outer]  # a label pass inside an epoch
    workers = set(multiprocessing.active_children()) - others
    again = shown(images, seeds=[1, 2, 3], augment=LEVELS["2"])
    assert set(multiprocessing.active_children()) - others == workers
    assert len(workers) == 2
    assert torch.equal(torch.cat([first[0], *first[2:]]), torch.cat(again))


def test_a_decoded_centre_is_the_resized_centre(photographs):
    images = load("folder", photographs, in_memory=False).train
    (views,) = shown(images, [torch.arange(12)], [0], LEVELS["0"])
    for path, view in zip(images.paths, views, strict=True):
        with Image.open(photographs / path) as image:
            side = round(0.875 * min(image.size))
            left, top = round((image.width - side) / 2), round((image.height - side) / 2)
            box = (left, top, left + side, top + side)
            crop = image.resize((24, 24), Image.Resampling.BILINEAR, box=box)
        # JPEGs are decoded at a fraction of their size
        limit = 0 if path.endswith("png") else 6
        difference = (view * 255 - torch.from_numpy(np.array(crop)).permute(2, 0, 1)).abs()
        assert difference.max() <= limit + 1e-4
        assert difference.mean() <= limit / 6


def test_decoded_crops_lie_where_the_boxes_are(tmp_path):
    ramp = np.zeros((200, 256, 3), np.uint8)
    ramp[:, :, 0] = np.arange(256)
    ramp[:, :, 1] = np.arange(200)[:, None]
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    images = load("folder", tmp_path, in_memory=False).train
    (views,) = images.views(
        [torch.zeros(200, dtype=torch.int64)], AugmentConfig(crop=(0.08, 1.0)), 16, seeds=[3]
    )
    middle = views * 255
    width = (middle[:, 0, 8, 12] - middle[:, 0, 8, 4]) * 2
    height = (middle[:, 1, 12, 8] - middle[:, 1, 4, 8]) * 2
    share, ratio = width * height / (200 * 256), width / height
    assert 0.06 < share.min() < 0.15
    assert 0.85 < share.max() < 1.02
    assert 0.7 < ratio.min() < 0.85
    assert 1.2 < ratio.max() < 1.42
    assert middle[:, 0, 8, 8].std() > 20


def test_select_keeps_images_targets_and_paths_together(tmp_path):
    write_parts(tmp_path)
    index = torch.tensor([3, 0])
    for in_memory in (True, False):
        train = load("folder", tmp_path, size=8, in_memory=in_memory, classes="folders").train
        some = train.select(index)
        assert some.paths == ("b/1.png", "a/1.bmp")
        assert some.targets.tolist() == [2, 0]
        (views,) = some.views([torch.arange(2)], AugmentConfig(), 8, seeds=[0])
        assert views[:, :, 0, 0].tolist() == [[1, 0, 0], [0, 1, 0]]


def test_statistics():
    images = torch.tensor([0, 255, 255, 0], dtype=torch.uint8).view(1, 1, 2, 2)
    mean, std = TensorImages(images, torch.zeros(1, dtype=torch.int64), ("a",), ("p",)).statistics()
    assert mean.tolist() == pytest.approx([0.5])
    assert std.tolist() == pytest.approx([0.5])


def test_decoded_images_have_imagenets_statistics(photographs):
    images = all_images(photographs)[0]
    mean, std = images.statistics()
    assert mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert std.tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert [len(values) for values in replace(images, channels=1).statistics()] == [1, 1]


def test_every_preset_names_a_known_data_set():
    for preset in PRESETS.values():
        config = preset.data
        if config.dataset not in ("digits", "fashion-mnist"):
            with pytest.raises(DataError, match=f"{config.dataset}: "):
                load(config.dataset, "nowhere")
