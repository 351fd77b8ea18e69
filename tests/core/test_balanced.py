"""Exactly balanced labels against SciPy's assignment, and a proof by a few lines of NumPy."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from optimum import best

from sinkhorn_ot import (
    BalancedResult,
    SinkhornWarning,
    balanced_labels,
    equipartition_labels,
    sinkhorn,
)
from sinkhorn_ot.exact.certificate import bounds

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}


def problem(rng, dtype):
    """Small logits, with ties, equal rows or forbidden pairs, and some wish for the sizes."""
    n, k = int(rng.integers(1, 22)), int(rng.integers(1, 9))
    kind = rng.integers(5)
    logits = rng.normal(size=(n, k))
    if kind == 1:
        logits = rng.integers(-2, 3, size=(n, k)).astype(float)
    elif kind == 2:
        logits = logits[rng.integers(0, max(1, n // 3), n)]
    elif kind == 3:
        logits[rng.random((n, k)) < 0.4] = -np.inf
        logits[np.arange(n), rng.integers(0, k, n)] = rng.normal(size=n)
    elif kind == 4:
        logits = np.round(logits * rng.choice([0.0, 1.0, 10.0])) + 1000 * rng.normal()
    wish = rng.integers(4)
    if wish == 0:
        low, high = np.full(k, n // k), np.full(k, -(-n // k))
        return logits.astype(dtype), {}, low, high
    if wish == 1:
        sizes = np.bincount(rng.integers(0, k, n), minlength=k)
        return logits.astype(dtype), {"sizes": sizes}, sizes, sizes
    if wish == 2:
        b = rng.dirichlet(np.full(k, 0.5))
        exact = n * b / b.sum()
        return (
            logits.astype(dtype),
            {"b": b},
            np.floor(exact).astype(int),
            np.ceil(exact).astype(int),
        )
    sizes = np.bincount(rng.integers(0, k, n), minlength=k)
    low = np.maximum(sizes - rng.integers(0, 4, k), 0)
    high = sizes + rng.integers(0, 4, k)
    return logits.astype(dtype), {"sizes_min": low, "sizes_max": high}, low, high


@pytest.mark.parametrize(("name", "count"), [(n, 3000 if n == "float64" else 1000) for n in DTYPES])
def test_the_optimum_is_scipys(name, count):
    """To 1e-9 relative; where SciPy finds no assignment it is an error that says so."""
    rng = np.random.default_rng(len(name))
    infeasible = 0
    for number in range(count):
        logits, wish, low, high = problem(rng, DTYPES[name])
        expected = best(logits, low, high)
        if expected is None:
            infeasible += 1
            with pytest.raises(ValueError, match=r"no labels have these sizes|-inf"):
                balanced_labels(logits, **wish)
            continue
        result = balanced_labels(logits, **wish)
        counts = np.bincount(result.labels, minlength=logits.shape[1])
        taken = logits.astype(np.float64)[np.arange(len(logits)), result.labels]
        where = f"problem {number}, {logits.shape}, {wish}"
        assert (counts >= low).all(), where
        assert (counts <= high).all(), where
        assert (counts == result.counts).all(), where
        scale = max(abs(expected), np.abs(taken).sum(), 1e-300)
        assert abs(math.fsum(taken) - expected) <= 1e-9 * scale, where
        assert abs(result.objective - expected) <= 1e-9 * scale, where
        assert 0 <= result.gap <= 1e-9 * scale, where
    assert 0 < infeasible < count / 4


def peaked(n, k, seed=0):
    return np.random.default_rng(seed).normal(size=(n, k)).astype(np.float32)


def alike(n, k):
    logits = peaked(n, k)
    logits[: 3 * n // 10] = logits[0]
    return logits


ADVERSARIAL = {
    "normal": peaked,
    "constant": lambda n, k: np.zeros((n, k), np.float32),
    "votes": lambda n, k: (peaked(n, k) > 0.5).astype(np.float32),
    "integers": lambda n, k: np.round(3 * peaked(n, k)),
    "tenths": lambda n, k: np.round(peaked(n, k), 1),
    "equal rows": alike,
    "few different rows": lambda n, k: np.repeat(peaked(n // 100, k), 100, 0),
    "popular columns": lambda n, k: peaked(n, k) + np.linspace(0, 8, k, dtype=np.float32),
    "log-probabilities": lambda n, k: np.log(
        np.random.default_rng(0).dirichlet(np.full(k, 0.05), n) + 1e-30
    ),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_a_larger_problem_is_proved_by_plain_numpy(name):
    """Sizes and gap from labels and g alone: weak duality, none of the package's code."""
    logits = ADVERSARIAL[name](5000, 40)
    result = balanced_labels(logits)
    x = logits.astype(np.float64)
    assert (np.bincount(result.labels, minlength=40) == 125).all()
    objective = math.fsum(x[np.arange(5000), result.labels])
    upper_bound = math.fsum((x + result.g).max(1)) - 125 * math.fsum(result.g)
    assert abs(upper_bound - objective) <= 1e-9 * max(1, abs(objective))
    assert result.upper_bound == pytest.approx(upper_bound, rel=1e-12, abs=1e-9)
    assert result.n_passes < 60


def test_pot_finds_the_same_optimum():
    ot = pytest.importorskip("ot")
    logits = peaked(1500, 30).astype(np.float64)
    plan = ot.emd(np.full(1500, 1.0), np.full(30, 50.0), -logits, numItermax=10**7)
    assert balanced_labels(logits).objective == pytest.approx((plan * logits).sum(), rel=1e-12)


def test_sizes_between_bounds_are_those_that_serve_best():
    """Bounds that do not matter give the argmax; those that do are met with equality."""
    logits = peaked(4000, 20) + np.linspace(0, 3, 20, dtype=np.float32)
    free = balanced_labels(logits, sizes_min=0)
    np.testing.assert_array_equal(free.labels, logits.argmax(1))
    result = balanced_labels(logits, sizes_min=100, sizes_max=400)
    counts = np.bincount(result.labels, minlength=20)
    assert counts.min() == 100
    assert counts.max() == 400
    proof = bounds(logits, result.labels, result.g, result.sizes_min, result.sizes_max)
    assert abs(proof.gap) <= 1e-9 * proof.objective
    assert proof.objective < free.objective


def test_the_certificate_of_worse_labels_shows_it():
    logits = peaked(1000, 10)
    result = balanced_labels(logits)
    labels = result.labels.copy()
    i, j = 0, int(np.flatnonzero(labels != labels[0])[0])
    labels[[i, j]] = labels[[j, i]]
    proof = bounds(logits, labels, result.g, result.sizes_min, result.sizes_max)
    lost = result.objective - math.fsum(logits.astype(np.float64)[np.arange(1000), labels])
    assert lost > 0
    assert proof.gap == pytest.approx(lost, rel=1e-6)


def test_the_program_of_the_documentation_proves_it(tmp_path, monkeypatch):
    text = Path(__file__).parents[2].joinpath("docs/exact.md").read_text()
    program = re.search(r"```python\n(.*?)```", text, re.S)[1]
    logits = peaked(30_000, 10)
    result = balanced_labels(logits)
    for name, array in (("logits", logits), ("labels", result.labels), ("g", result.g)):
        np.save(tmp_path / f"{name}.npy", array)
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(program, found)
    assert abs(found["gap"]) <= 1e-9 * result.objective
    assert math.fsum(found["objective"]) == pytest.approx(result.objective, rel=1e-12)
    assert (found["counts"] == 3000).all()


@pytest.mark.parametrize("equal", ["x[:2000] = x[0]", "x[:9000], x[9000:18000] = x[-1], x[-2]"])
def test_the_bits_do_not_depend_on_threads(equal):
    """Nor on the seed of Python's hashes, by which equal rows are found."""
    program = (
        "import hashlib, numpy as np, sinkhorn_ot\n"
        "x = np.random.default_rng(0).normal(size=(20000, 50)).astype(np.float32)\n"
        f"{equal}\n"
        "r = sinkhorn_ot.balanced_labels(x)\n"
        "bits = r.labels.tobytes() + r.g.tobytes() + repr((r.objective, r.gap)).encode()\n"
        "print(hashlib.sha256(bits).hexdigest())\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
        ).stdout
        for threads in "123"
    }
    assert len(printed) == 1


def same(one: BalancedResult, other: BalancedResult) -> None:
    """The same labels and bounds; g up to the rounding of another library's sums."""
    np.testing.assert_array_equal(np.asarray(one.labels), np.asarray(other.labels))
    np.testing.assert_allclose(np.asarray(one.g), np.asarray(other.g), atol=1e-9)
    assert one.objective == other.objective
    assert one.gap == pytest.approx(other.gap, abs=1e-9)


def test_every_way_to_hold_the_rows_gives_the_same(tmp_path):
    logits = peaked(700, 12)
    expected = balanced_labels(logits)
    padded = np.full((1400, 24), np.nan, np.float32)
    padded[::2, ::2] = logits
    same(balanced_labels(padded[::2, ::2]), expected)
    same(balanced_labels(np.asfortranarray(logits)), expected)
    file = np.memmap(tmp_path / "logits", np.float32, "w+", shape=logits.shape)
    file[:] = logits
    same(balanced_labels(file), expected)
    tensor = balanced_labels(torch.from_numpy(logits))
    assert isinstance(tensor.labels, torch.Tensor)
    assert tensor.labels.dtype == torch.int64
    same(tensor, expected)
    one, two = balanced_labels(np.stack((logits, -logits)))
    same(one, expected)
    same(two, balanced_labels(-logits))


def test_a_bfloat16_tensor_is_read_as_it_is_stored():
    tensor = torch.from_numpy(peaked(600, 20)).to(torch.bfloat16)
    assert balanced_labels(tensor).objective == balanced_labels(tensor.double()).objective


def test_a_warm_start_takes_two_reads():
    logits = peaked(3000, 30)
    first = balanced_labels(logits)
    again = balanced_labels(logits, g_init=first.g)
    assert again.n_passes == 2
    assert again.objective == pytest.approx(first.objective, rel=1e-12)


def test_potentials_that_are_far_off_are_mended_first():
    """Paths alone would move most of the samples, some of them often."""
    rng = np.random.default_rng(0)
    points = 3 * rng.normal(size=(40, 8)) + rng.normal(size=(100, 40, 8))
    points = points.reshape(-1, 8)

    def logits(centres):
        return 2 * points @ centres.T - (centres**2).sum(1)

    before = balanced_labels(logits(points[:400:10]))
    means = np.stack([points[before.labels == k].mean(0) for k in range(40)])
    cold = balanced_labels(logits(means))
    warm = balanced_labels(logits(means), g_init=before.g)
    assert warm.objective == pytest.approx(cold.objective, rel=1e-12)
    assert cold.n_moved < 1000
    assert warm.n_moved < 1000


@pytest.mark.parametrize("seed", range(3))
def test_its_potentials_are_a_start_for_a_tiny_epsilon(seed):
    """A spread of 100,000 epsilon; by way of larger epsilons it takes 37 reads."""
    logits = np.random.default_rng(seed).normal(0, 4000, (2100, 300)).astype(np.float32)
    result = sinkhorn(logits, g_init=balanced_labels(logits).g)
    assert result.converged
    assert result.n_passes <= 25


def test_a_gap_that_is_allowed_is_kept():
    logits = alike(3000, 30)
    result = balanced_labels(logits, max_gap=0.01, g_init=np.zeros(30))
    assert (np.bincount(result.labels) == 100).all()
    assert result.gap <= 0.01 * abs(result.objective)


def test_progress_is_told():
    told = []
    balanced_labels(peaked(3000, 30), callback=told.append)
    assert told[0].to_repair is None
    assert told[-1].to_repair == 0
    passes = [info.n_passes for info in told]
    assert passes == sorted(passes)


def test_what_a_callback_raises_ends_the_call():
    def stop(info):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        balanced_labels(peaked(300, 10), callback=stop)


def test_a_conflict_is_named():
    """Samples 3 to 7 may only join classes 1 and 2, which hold four."""
    logits = np.zeros((8, 4))
    logits[3:, [0, 3]] = -np.inf
    with pytest.raises(
        ValueError, match=r"leaves 5 samples .* only the 2 classes 1, 2.* at most 4"
    ):
        balanced_labels(logits, sizes=[2, 2, 2, 2])
    logits = np.zeros((8, 4))
    logits[2:, 3] = -np.inf
    with pytest.raises(ValueError, match=r"class 3 must hold at least 3 .* all but 2"):
        balanced_labels(logits, sizes_min=[0, 0, 0, 3])


ERRORS = {
    "sum of sizes": ({"sizes": [5, 4]}, ValueError, "add up to the 10 samples, got a sum of 9"),
    "negative size": ({"sizes": [11, -1]}, ValueError, r"sizes\[1\] is -1"),
    "float sizes": ({"sizes": [5.0, 5.0]}, TypeError, "must be integers"),
    "length": ({"sizes": [5, 4, 1]}, ValueError, r"shape \(2,\), got \(3,\)"),
    "crossed": ({"sizes_min": [6, 0], "sizes_max": 5}, ValueError, "class 0 they are 6 and 5"),
    "too small": ({"sizes_max": 4}, ValueError, "8, which is less than the 10 samples"),
    "too large": ({"sizes_min": 6}, ValueError, "12, which is more than the 10 samples"),
    "two wishes": ({"b": [0.5, 0.5], "sizes": [5, 5]}, ValueError, "three ways"),
    "sum of b": ({"b": [0.5, 0.6]}, ValueError, "must sum to 1, got 1.1"),
    "negative b": ({"b": [1.5, -0.5]}, ValueError, r"b\[1\] is -0.5"),
    "g_init": ({"g_init": [0.0]}, ValueError, r"g_init must have shape \(2,\)"),
    "max_gap": ({"max_gap": -1.0}, ValueError, "max_gap must be finite and >= 0"),
    "epsilon": ({"epsilon": 0.0}, ValueError, "epsilon must be finite and > 0"),
    "memory": ({"memory_limit": 100}, ValueError, "memory_limit=100 is too little"),
    "group": ({"process_group": object()}, ValueError, "gather the logits"),
    "callback": ({"callback": 3}, TypeError, "callback must be callable"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_wrong_arguments_are_named(name):
    keywords, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        balanced_labels(peaked(10, 2), **keywords)


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, r"logits\[7, 1\] is nan"), (np.inf, r"logits\[7, 1\] is inf")],
)
def test_a_bad_entry_is_named(value, message):
    logits = peaked(10, 3)
    logits[7, 1] = value
    for start in (None, np.zeros(3)):
        with pytest.raises(ValueError, match=message):
            balanced_labels(logits, g_init=start)


def test_a_row_that_can_go_nowhere_is_named():
    logits = peaked(10, 3)
    logits[4] = -np.inf
    with pytest.raises(ValueError, match="row 4 of logits is -inf"):
        balanced_labels(logits)


def test_the_repr_is_one_line():
    assert repr(balanced_labels(np.zeros((5, 2)))).startswith("BalancedResult(5 x 2, sizes 2 to 3")


def test_rounding_makes_labels_exact():
    """300 equal items among 1,000 fill one of 64 clusters by argmax, with a word; or none."""
    rng = np.random.default_rng(0)
    items = rng.normal(size=(1000, 32))
    items[:300] = items[0]
    logits = -((items[:, None] - rng.normal(size=(64, 32))) ** 2).sum(-1)
    with pytest.warns(SinkhornWarning, match="far from N .* rounding='exact'"):
        argmax = equipartition_labels(logits, epsilon=0.5, tol=1e-4)
    assert np.bincount(argmax).max() > 250
    labels = equipartition_labels(logits, epsilon=0.5, tol=1e-4, rounding="exact")
    assert set(np.bincount(labels, minlength=64)) == {15, 16}
    np.testing.assert_array_equal(labels, balanced_labels(logits).labels)
    stack = equipartition_labels(np.stack([logits] * 2), rounding="exact")
    np.testing.assert_array_equal(stack, [labels] * 2)
    with pytest.raises(ValueError, match="rounding must be 'argmax' or 'exact', got 'round'"):
        equipartition_labels(logits, rounding="round")


def test_ordinary_sizes_are_no_warning(normal):
    """Settings make warnings errors."""
    for seed in range(5):
        equipartition_labels(normal(5000, 40, seed=seed), epsilon=0.2)
