"""``python -m sinkhorn_ot``: what it writes, what it proves, what it refuses."""

import subprocess
import sys

import numpy as np
import pytest

from sinkhorn_ot import balanced_labels, sinkhorn
from sinkhorn_ot.__main__ import main


@pytest.fixture
def logits(tmp_path, normal):
    values = normal(600, 12).astype(np.float16)
    np.save(tmp_path / "logits.npy", values)
    return values


def run(tmp_path, *arguments):
    return main([argument.replace("DIR", str(tmp_path)) for argument in arguments])


@pytest.mark.parametrize("suffix", ["npy", "csv"])
def test_a_file_is_labelled(tmp_path, logits, suffix):
    out = f"DIR/labels.{suffix}"
    assert run(tmp_path, "solve", "DIR/logits.npy", "-o", out, "--epsilon", "0.2") == 0
    path = tmp_path / f"labels.{suffix}"
    labels = np.load(path) if suffix == "npy" else np.loadtxt(path, dtype=np.int64)
    np.testing.assert_array_equal(labels, sinkhorn(logits, epsilon=0.2).labels)


def test_exact_labels_are_proved(tmp_path, logits, capsys):
    """And one label too many in the wrong class is found out."""
    options = ("-o", "DIR/labels.npy", "--potentials", "DIR/g.npy")
    assert run(tmp_path, "solve", "DIR/logits.npy", "--exact", *options) == 0
    labels = np.load(tmp_path / "labels.npy")
    assert (np.bincount(labels) == 50).all()
    files = ("DIR/logits.npy", "DIR/labels.npy", "DIR/g.npy")
    assert run(tmp_path, "verify", *files) == 0
    assert ": optimal" in capsys.readouterr().out
    first, second = np.flatnonzero(labels == 0)[0], np.flatnonzero(labels == 1)[0]
    labels[[first, second]] = labels[[second, first]]
    np.save(tmp_path / "labels.npy", labels)
    assert run(tmp_path, "verify", *files) == 1
    assert "not proved optimal" in capsys.readouterr().out


def test_sizes_of_a_file_are_kept(tmp_path, logits):
    sizes = np.arange(12) * 9 - 5
    sizes[0] = 600 - sizes[1:].sum()
    np.savetxt(tmp_path / "sizes.csv", sizes, fmt="%d")
    out = ("-o", "DIR/labels.csv", "--sizes", "DIR/sizes.csv")
    assert run(tmp_path, "solve", "DIR/logits.npy", *out) == 0
    labels = np.loadtxt(tmp_path / "labels.csv", dtype=np.int64)
    np.testing.assert_array_equal(np.bincount(labels, minlength=12), sizes)
    np.testing.assert_array_equal(labels, balanced_labels(logits, sizes=sizes).labels)


WRONG = {
    "no such file": (("solve", "DIR/none.npy", "-o", "DIR/x.npy"), "none.npy"),
    "a format that is none": (("solve", "DIR/logits.npy", "-o", "DIR/x.txt"), "a .npy or a .csv"),
    "labels of others": (
        ("verify", "DIR/logits.npy", "DIR/logits.npy", "DIR/logits.npy"),
        "600 in",
    ),
    "an epsilon of 0": (
        ("solve", "DIR/logits.npy", "-o", "DIR/x.npy", "--epsilon", "0"),
        "epsilon must be finite and > 0",
    ),
}


@pytest.mark.parametrize("way", WRONG)
def test_what_cannot_be_is_an_error(tmp_path, logits, capsys, way):
    arguments, message = WRONG[way]
    assert run(tmp_path, *arguments) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize("arguments", [["solv"], ["solve"], ["doctor", "--tol", "1"]])
def test_unknown_arguments_are_errors(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_torchrun_shares_the_rows_out(tmp_path, logits):
    """Two processes write what one does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    files = [str(tmp_path / "logits.npy"), "-o", str(tmp_path / "labels.npy")]
    subprocess.run(
        [*command, "-m", "sinkhorn_ot", "solve", *files, "--epsilon", "0.2"],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    labels = np.load(tmp_path / "labels.npy")
    np.testing.assert_array_equal(labels, sinkhorn(logits, epsilon=0.2).labels)
