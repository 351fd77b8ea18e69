"""``python -m sinkhorn_ot``: what it writes, what it proves, what it refuses."""

import subprocess
import sys

import numpy as np
import pytest

from sinkhorn_ot import SinkhornWarning, balanced_labels, sinkhorn
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


def test_small_logits_are_not_optimal_for_being_small(tmp_path, logits, capsys):
    """What is proved does not depend on the unit of the logits, nor on a g that drowns them."""
    np.save(tmp_path / "small.npy", logits.astype(np.float64) * 1e-11)
    np.save(tmp_path / "any.npy", np.arange(600) % 12)
    for g in (0.0, 1e30):
        np.save(tmp_path / "g.npy", np.full(12, g))
        assert run(tmp_path, "verify", "DIR/small.npy", "DIR/any.npy", "DIR/g.npy") == 1
    files = ("DIR/small.npy", "-o", "DIR/best.npy", "--potentials", "DIR/g.npy")
    assert run(tmp_path, "solve", *files, "--exact") == 0
    assert run(tmp_path, "verify", "DIR/small.npy", "DIR/best.npy", "DIR/g.npy") == 0
    values = logits.astype(np.float64)
    values[3, np.load(tmp_path / "best.npy")[3]] = -np.inf
    np.save(tmp_path / "forbidden.npy", values)
    assert run(tmp_path, "verify", "DIR/forbidden.npy", "DIR/best.npy", "DIR/g.npy") == 1


def test_an_unsolved_problem_is_told_by_the_status(tmp_path, capsys):
    """Of 40 rows all but two can be in class 0 alone; labels are written all the same."""
    logits = np.zeros((40, 2))
    logits[2:, 1] = -np.inf
    np.save(tmp_path / "logits.npy", logits)
    with pytest.warns(SinkhornWarning):
        assert run(tmp_path, "solve", "DIR/logits.npy", "-o", "DIR/labels.npy") == 1
    assert "not solved" in capsys.readouterr().err
    assert (np.load(tmp_path / "labels.npy")[2:] == 0).all()


OUT = ("-o", "DIR/x.npy")
SOLVE = ("solve", "DIR/logits.npy")
MATRIX = "logits must be a .npy matrix (N x K), got "
WRONG = {
    "no such file": (("solve", "DIR/none.npy", *OUT), "none.npy"),
    "a format that is none": ((*SOLVE, "-o", "DIR/x.txt"), "a .npy or a .csv"),
    "labels of others": (
        ("verify", "DIR/logits.npy", "DIR/logits.npy", "DIR/logits.npy"),
        "600 in",
    ),
    "an epsilon of 0": ((*SOLVE, *OUT, "--epsilon", "0"), "epsilon must be finite and > 0"),
    "labels over logits": ((*SOLVE, "-o", "DIR/../DIR_NAME/logits.npy"), "overwrite the logits"),
    "labels over a link to logits": ((*SOLVE, "-o", "DIR/hard.npy"), "overwrite the logits"),
    "g over logits": ((*SOLVE, *OUT, "--potentials", "DIR/logits.npy"), "overwrite the logits"),
    "g over labels": ((*SOLVE, *OUT, "--potentials", "DIR/x.npy"), "overwrite the labels"),
    "labels over sizes": (
        (*SOLVE, "-o", "DIR/vector.npy", "--sizes", "DIR/vector.npy"),
        "overwrite the sizes",
    ),
    "no folder": ((*SOLVE, "-o", "DIR/no/x.npy"), "there is no folder"),
    "no folder for g": ((*SOLVE, *OUT, "--potentials", "DIR/no/x.npy"), "there is no folder"),
    "a folder": ((*SOLVE, "-o", "DIR/folder.npy"), "cannot be written"),
    "g without a suffix": ((*SOLVE, *OUT, "--potentials", "DIR/x"), "potentials go into a .npy"),
    "exact with epsilon": ((*SOLVE, *OUT, "--exact", "--epsilon", "1"), "leave out --epsilon, or"),
    "sizes with tol": ((*SOLVE, *OUT, "--sizes", "DIR/vector.npy", "--tol", "1"), "no tol"),
    "sizes that are no file": ((*SOLVE, *OUT, "--sizes", "1,2,3"), "--sizes must be a file of K"),
    "sizes of words": ((*SOLVE, *OUT, "--sizes", "DIR/words.csv"), "--sizes must be a file of K"),
    "a stack": (("solve", "DIR/stack.npy", *OUT), MATRIX + "shape (2, 6, 3)"),
    "a vector": (("solve", "DIR/vector.npy", *OUT), MATRIX + "shape (12,)"),
    "an archive": (("solve", "DIR/archive.npz", *OUT), MATRIX),
    "text": (("solve", "DIR/words.csv", *OUT), MATRIX),
    "nothing": (("solve", "DIR/empty.npy", *OUT), MATRIX),
    "a stack to verify": (("verify", "DIR/stack.npy", "DIR/vector.npy", "DIR/vector.npy"), MATRIX),
    "g of text": (("verify", "DIR/logits.npy", "DIR/vector.npy", "DIR/words.csv"), "g must be a"),
}


@pytest.mark.parametrize("way", WRONG)
def test_what_cannot_be_is_an_error_and_changes_no_file(tmp_path, logits, capsys, way):
    np.save(tmp_path / "stack.npy", np.zeros((2, 6, 3)))
    np.save(tmp_path / "vector.npy", np.full(12, 50))
    np.savez(tmp_path / "archive.npz", logits=logits)
    (tmp_path / "words.csv").write_text("one\ntwo\n")
    (tmp_path / "empty.npy").touch()
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "hard.npy").hardlink_to(tmp_path / "logits.npy")
    arguments, message = WRONG[way]
    arguments = [argument.replace("DIR_NAME", tmp_path.name) for argument in arguments]
    assert run(tmp_path, *arguments) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("x*"))
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), logits)
    np.testing.assert_array_equal(np.load(tmp_path / "vector.npy"), np.full(12, 50))


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
