"""Data sets: published files, folders and zips; images in memory and in worker processes."""

from __future__ import annotations

import gzip
import multiprocessing
import pickle
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import CIFAR10, CIFAR100

from selfsup.config import LEVELS, AugmentConfig, Config
from selfsup.data import DataError, FileImages, TensorImages, all_images, known, load_data
from selfsup.presets import PRESETS

FOLDER = Config(preset="test", dataset="folder", image_size=8)


def load(dataset, data=None, size=32, **settings):
    place = None if data is None else str(data)
    return load_data(replace(FOLDER, dataset=dataset, image_size=size, data=place, **settings))


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


@pytest.mark.parametrize("protocol", [2, 5])
def test_cifar_as_torchvision_has_it(tmp_path, protocol, monkeypatch):
    images = write_cifar(tmp_path, protocol)
    ten, hundred = load("cifar10", tmp_path), load("cifar100", tmp_path)
    assert torch.equal(ten.train.images, images[:15])
    assert torch.equal(ten.test.images, images[15:])
    assert ten.train.targets.tolist() == [i + j for i in range(5) for j in range(3)]
    assert ten.train.classes == tuple("abcdefghij")
    assert torch.equal(hundred.train.images, images[:15])
    assert hundred.test.targets.tolist() == [84, 83, 82]
    assert hundred.test.classes[84] == "f84"
    assert load("cifar10", tmp_path / "cifar-10-batches-py").train.paths == ten.train.paths
    for theirs, ours in ((CIFAR10, ten), (CIFAR100, hundred)):  # but for its checksums
        monkeypatch.setattr(theirs, "_check_integrity", lambda self: True)
        monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
        for train, part in ((True, ours.train), (False, ours.test)):
            dataset = theirs(tmp_path, train=train)
            assert np.array_equal(dataset.data, part.images.permute(0, 2, 3, 1).numpy())
            assert dataset.targets == part.targets.tolist()
            assert tuple(dataset.classes) == part.classes


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "data_batch_3"),
        (pickle.dumps({"data": Malicious(), "labels": []}), "data_batch_3"),
        (pickle.dumps({"labels": [1]}), "data_batch_3.*'data'"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}), "N labels"),
        (None, "data_batch_3 is missing"),
    ],
)
def test_a_broken_batch_of_cifar_is_named_and_runs_nothing(tmp_path, content, message, capsys):
    write_cifar(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("cifar10", tmp_path)
    assert capsys.readouterr().out == ""


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
    whole = (tmp_path / "test_32x32.mat").read_bytes()
    for torn in (b"MATLAB, but torn", whole[:100], whole[:300], whole[:-5]):
        (tmp_path / "test_32x32.mat").write_bytes(torn)
        with pytest.raises(DataError, match=r"test_32x32\.mat: not a readable"):
            load("svhn", tmp_path)
    for other in ({"X": images["test"]}, {"y": labels}, {"X": images["test"][:8], "y": labels}):
        savemat(tmp_path / "test_32x32.mat", other)
        with pytest.raises(DataError, match=r"test_32x32\.mat: X must be"):
            load("svhn", tmp_path)
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(DataError, match=r"test_32x32\.mat is missing"):
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
    splits = load(dataset, tmp_path, size=8, in_memory=in_memory)
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
    settings = {"size": 16, "in_memory": in_memory}
    sets = [load("folder", tmp_path / name, **settings) for name in ("x", "x.zip", "y")]
    shown = []
    for splits in sets:
        assert splits.test.paths == sets[0].test.paths
        batches = [torch.arange(10), torch.tensor([7, 7])]
        shown.append(torch.cat(list(splits.train.views(batches, LEVELS["3"], 16, seeds=[1, 2]))))
    assert torch.equal(shown[0], shown[1])
    assert torch.equal(shown[0], shown[2])


def test_folders_without_a_test_part_are_split_by_class(tmp_path):
    for name in ("a", "train"):  # a class like any other
        for i in range(10):
            write_image(tmp_path / "x" / name / f"{i}.png", (i, 0, 0))
    first, second = load("folder", tmp_path / "x"), load("folder", tmp_path / "x")
    assert first.train.classes == ("a", "train")
    assert torch.bincount(first.train.targets).tolist() == [8, 8]
    assert torch.bincount(first.test.targets).tolist() == [2, 2]
    assert first.train.paths == second.train.paths
    (tmp_path / "y").mkdir()
    (tmp_path / "x").rename(tmp_path / "y" / "train")
    assert load("folder", tmp_path / "y").train.paths == first.train.paths
    write_image(tmp_path / "z" / "a" / "1.png")
    with pytest.raises(DataError, match="too few images"):
        load("folder", tmp_path / "z")


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
    splits = load("folder", tmp_path)
    assert splits.train.paths == ("1.png", "2.png")
    assert splits.test.paths == ("3.png",)
    assert splits.test.targets.tolist() == [-1]


def test_all_images_of_a_folder_however_nested(tmp_path):
    write_parts(tmp_path)
    images = all_images(tmp_path, 1)
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
        load("folder", tmp_path)


def test_images_of_many_sizes_become_squares_of_the_networks(tmp_path):
    write_image(tmp_path / "1.png", "red", (4, 4))  # the first does not decide for all
    write_image(tmp_path / "2.png", "blue", (40, 20))
    assert load("folder", tmp_path, size=16).train.images.shape == (2, 3, 16, 16)
    write_image(tmp_path / "2.png", "blue", (4, 4))
    assert load("folder", tmp_path, size=16).train.images.shape == (2, 3, 4, 4)
    assert load("folder", tmp_path, size=2).train.images.shape == (2, 3, 2, 2)


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
    images = load("folder", tmp_path, in_memory=False, workers=workers).train
    path = tmp_path / "4.png"
    if damage == "torn":
        torn(path)
    else:
        path.write_text("not an image") if damage == "text" else path.unlink()
    views = images.views([torch.arange(3), torch.arange(3, 6)], LEVELS["0"], 8, seeds=[0, 1])
    assert next(views).shape == (3, 3, 8, 8)
    with pytest.raises(DataError, match=r"4\.png.*start a new run") as error:
        next(views)
    assert "Traceback" not in str(error.value)
    if damage != "gone":
        with pytest.raises(DataError, match=r"4\.png"):
            load("folder", tmp_path)


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
    views = images.views(BATCHES * 5, LEVELS["2"], 24, seeds=range(15))
    next(views)
    assert len(multiprocessing.active_children()) == 2
    views.close()
    assert multiprocessing.active_children() == []


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
        some = load("folder", tmp_path, size=8, in_memory=in_memory).train.select(index)
        assert some.paths == ("b/1.png", "a/1.bmp")
        assert some.targets.tolist() == [2, 0]
        (views,) = some.views([torch.arange(2)], AugmentConfig(), 8, seeds=[0])
        assert views[:, :, 0, 0].tolist() == [[1, 0, 0], [0, 1, 0]]


def test_images_of_other_modes_become_rgb(tmp_path):
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png")
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "palette.png")
    images = load("folder", tmp_path).train.images
    assert images[0, :, 0, 0].tolist() == [77, 77, 77]
    assert images[1, :, 0, 0].tolist() == [10, 20, 30]
    assert images[2, 0].min() > 240


def test_statistics():
    images = torch.tensor([0, 255, 255, 0], dtype=torch.uint8).view(1, 1, 2, 2)
    mean, std = TensorImages(images, torch.zeros(1, dtype=torch.int64), ("a",), ("p",)).statistics()
    assert mean.tolist() == pytest.approx([0.5])
    assert std.tolist() == pytest.approx([0.5])


def test_decoded_images_have_imagenets_statistics(photographs):
    mean, std = all_images(photographs, 3).statistics()
    assert mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert std.tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert [len(values) for values in all_images(photographs, 1).statistics()] == [1, 1]


def test_every_preset_names_a_known_data_set():
    for config in PRESETS.values():
        if config.dataset not in ("digits", "fashion-mnist"):
            with pytest.raises(DataError, match=f"{config.dataset}: "):
                load(config.dataset, "nowhere")
