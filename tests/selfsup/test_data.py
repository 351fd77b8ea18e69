"""Data sets: digits, idx files and folders."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from selfsup import data as data_module
from selfsup.config import PRESETS
from selfsup.data import (
    DataError,
    ImageSet,
    load_digit_images,
    load_fashion,
    load_folder,
    read_idx,
)


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


def write_image(path, colour, size=(40, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_digits_have_a_fixed_stratified_split():
    first, second = load_digit_images(8), load_digit_images(8)
    assert len(first.train) == 1437
    assert len(first.test) == 360
    assert torch.equal(first.train.images, second.train.images)
    assert not set(first.train.paths) & set(first.test.paths)
    assert list(first.train.paths) == sorted(first.train.paths)
    assert torch.bincount(first.test.targets).min() >= 34
    assert load_digit_images(16).train.images.shape == (1437, 1, 16, 16)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("inner", ["", "FashionMNIST/raw"])
def test_fashion_is_found_in_both_layouts(tmp_path, suffix, inner):
    write_fashion(tmp_path / "x" / inner, suffix)
    splits = load_fashion(tmp_path / "x", 28)
    assert splits.train.images.shape == (6, 1, 28, 28)
    assert splits.test.targets.tolist() == [0, 1, 2]
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28))
    assert np.array_equal(splits.train.images[:, 0].numpy(), images)


def test_missing_fashion_says_what_where_and_how(tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "DEBIAN_FASHION", tmp_path / "debian")
    monkeypatch.chdir(tmp_path)
    for place in (None, tmp_path / "mine"):
        with pytest.raises(DataError) as error:
            load_fashion(place, 28)
        text = str(error.value)
        assert "train-images-idx3-ubyte" in text
        assert "apt-get install dataset-fashion-mnist" in text
        assert "--data" in text
        assert str(tmp_path / ("debian" if place is None else "mine")) in text


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG....", b"\x00\x00\x08\x01" + struct.pack(">I", 9) + b"abc"]
)
def test_a_broken_idx_file_is_named(tmp_path, content):
    path = tmp_path / "broken"
    path.write_bytes(content)
    with pytest.raises(DataError, match="broken"):
        read_idx(path)


def test_a_broken_gzip_is_named(tmp_path):
    path = tmp_path / "broken.gz"
    path.write_bytes(gzip.compress(bytes(100))[:-12])
    with pytest.raises(DataError, match=r"broken\.gz"):
        read_idx(path)


def test_folder_with_train_and_test(tmp_path):
    for split in ("train", "test"):
        write_image(tmp_path / split / "b" / "1.png", "red")
        write_image(tmp_path / split / "a" / "2.PNG", "blue")
        write_image(tmp_path / split / "a" / "1.bmp", "lime")
        (tmp_path / split / "a" / "notes.txt").write_text("not an image")
    splits = load_folder(tmp_path, 8)
    assert splits.train.classes == ("a", "b")
    assert [p.replace("\\", "/") for p in splits.train.paths] == ["a/1.bmp", "a/2.PNG", "b/1.png"]
    assert splits.test.targets.tolist() == [0, 0, 1]
    assert splits.train.images[:, :, 3, 3].tolist() == [[0, 255, 0], [0, 0, 255], [255, 0, 0]]


def test_folder_without_a_split_is_split_by_class(tmp_path):
    for name in ("a", "b"):
        for i in range(10):
            write_image(tmp_path / name / f"{i}.png", (i, 0, 0))
    first, second = load_folder(tmp_path, 8), load_folder(tmp_path, 8)
    assert torch.bincount(first.train.targets).tolist() == [8, 8]
    assert torch.bincount(first.test.targets).tolist() == [2, 2]
    assert first.train.paths == second.train.paths


def test_an_unreadable_image_is_named(tmp_path):
    write_image(tmp_path / "a" / "fine.png", "red")
    (tmp_path / "a" / "torn.png").write_bytes(b"\x89PNG and then nothing")
    with pytest.raises(DataError, match=r"torn\.png"):
        load_folder(tmp_path, 8)


def test_an_empty_or_missing_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match="--data"):
        load_folder(None, 8)
    with pytest.raises(DataError, match="no images") as error:
        load_folder(tmp_path / "none", 8)
    assert str(tmp_path / "none" / "train") in str(error.value)


def test_statistics_by_hand():
    images = torch.tensor([0, 255, 255, 0], dtype=torch.uint8).view(1, 1, 2, 2)
    record = ImageSet(images, torch.zeros(1, dtype=torch.int64), ("a",), ("p",))
    mean, std = record.statistics()
    assert mean.tolist() == pytest.approx([0.5])
    assert std.tolist() == pytest.approx([0.5])


def test_every_preset_names_a_known_data_set():
    assert {c.dataset for c in PRESETS.values()} == {"digits", "fashion-mnist", "folder"}
