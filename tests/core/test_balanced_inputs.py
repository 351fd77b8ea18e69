"""What `balanced_labels` does with numbers at the ends of float64, and with wishes that are odd."""

import math

import numpy as np
import pytest
import torch

from sinkhorn_ot import (
    BalancedKMeans,
    SinkhornWarning,
    balanced_labels,
    equipartition_labels,
)


@pytest.fixture
def small():
    """A 20 x 4 matrix, and a mask of pairings that leaves each row one."""
    rng = np.random.default_rng(0)
    logits, mask = rng.normal(size=(20, 4)), rng.random((20, 4)) < 0.3
    mask[np.arange(20), rng.integers(0, 4, 20)] = False
    return logits, mask


@pytest.mark.parametrize("scale", [1e-320, 1e-308, 1e155, 1e306])
def test_the_scale_of_the_logits_does_not_matter(small, scale):
    """The squares of these overflow, or are 0."""
    result = balanced_labels(small[0] * scale)
    best = balanced_labels(small[0])
    assert result.objective == pytest.approx(best.objective * scale, rel=1e-3, abs=0)
    assert result.gap <= 1e-9 * result.objective


def test_the_least_float_forbids_like_minus_infinity(small):
    logits, mask = small
    expected = balanced_labels(np.where(mask, -np.inf, logits))
    result = balanced_labels(np.where(mask, np.finfo(np.float64).min, logits))
    np.testing.assert_array_equal(result.labels, expected.labels)
    assert result.objective == pytest.approx(expected.objective)


def test_a_huge_epsilon_changes_nothing(small):
    """It made candidates of what lies beyond the end of a row."""
    logits = np.random.default_rng(1).normal(size=(300, 6)).astype(np.float32)
    result = balanced_labels(logits, epsilon=1e308)
    assert result.objective == pytest.approx(balanced_labels(logits).objective)


def test_clusters_far_apart_are_found(small):
    near = BalancedKMeans(3, random_state=0).fit(small[0])
    far = BalancedKMeans(3, random_state=0).fit(small[0] * 1e100)
    assert sorted(far.sizes_) == [6, 7, 7]
    assert far.inertia_ == pytest.approx(near.inertia_ * 1e200, rel=0.5)


@pytest.mark.parametrize("seed", range(8))
def test_sums_that_overflow_are_an_error_or_right(seed):
    """There was no end to some of these, and a gap of 0 beside an objective of nan."""
    rng = np.random.default_rng(seed)
    for number in range(25):
        n, k = rng.integers(1, 8), rng.integers(1, 5)
        logits = rng.choice([1e308, -1e308, 1.7e308, -1.7e308, -np.inf, 0.0, 1.0], size=(n, k))
        wish = {"sizes_min": 0, "sizes_max": int(-(-n // k)) + 1} if number % 2 else {}
        try:
            result = balanced_labels(logits, **wish)
        except ValueError as error:
            named = "sums of them overflow float64", "-inf everywhere", "no labels have these sizes"
            assert any(text in str(error) for text in named), error  # noqa: PT017
            continue
        assert math.fsum(logits[np.arange(n), result.labels]) == pytest.approx(result.objective)
        assert math.isfinite(result.upper_bound)


def test_wishes_may_be_bfloat16_tensors():
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 4)))
    b = torch.full((4,), 0.25, dtype=torch.bfloat16)
    result = balanced_labels(logits, b, g_init=torch.zeros(4, dtype=torch.bfloat16))
    assert result.counts.tolist() == [10] * 4
    with pytest.raises(TypeError, match="sizes must be integers, got dtype float64"):
        balanced_labels(logits, sizes=40 * b)


def test_sizes_do_not_wrap():
    """Beyond int64 they added up to 20, or were called -1."""
    logits = np.random.default_rng(0).normal(size=(20, 4))
    with pytest.raises(ValueError, match=f"got a sum of {2 * (2**63 - 1) + 22}"):
        balanced_labels(logits, sizes=[2**63 - 1, 2**63 - 1, 12, 10])
    free = balanced_labels(logits, sizes_max=np.uint64(2**64 - 1))
    np.testing.assert_array_equal(free.labels, logits.argmax(1))


def test_a_conflict_names_only_classes_that_may_hold_samples():
    logits = np.zeros((5, 4))
    logits[:, 1] = -np.inf
    with pytest.raises(ValueError, match=r": class 1 must hold at least 1 samples"):
        balanced_labels(logits, sizes_min=[1, 1, 0, 0], sizes_max=[3, 4, 2, 0])


def test_a_callback_may_raise_what_it_likes():
    """An error of another constructor was lost, and one of the callback rewritten."""

    class Odd(ValueError):
        def __init__(self, number, text):
            super().__init__(number, text)

    mine = ValueError("mine")
    stack = np.random.default_rng(0).normal(size=(2, 30, 3))
    for error in (Odd(1, "x"), mine):

        def stop(info, error=error):
            raise error

        with pytest.raises(ValueError) as caught:  # noqa: PT011
            balanced_labels(stack, callback=stop)
        assert caught.value is error
        assert error.__notes__ == ["This was raised while head 0 was solved."]
    stack[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"head 1: logits\[2, 0\] is nan"):
        balanced_labels(stack)


def test_exact_rounding_takes_heads_as_argmax_does():
    stack = np.random.default_rng(0).normal(size=(2, 30, 3))
    g = np.stack([balanced_labels(head).g for head in stack])
    labels = equipartition_labels(stack, g_init=g, rounding="exact")
    expected = [result.labels for result in balanced_labels(stack)]
    np.testing.assert_array_equal(labels, expected)
    for rounding in ("argmax", "exact"):
        with pytest.raises(ValueError, match=r"head 1: logits have 29 rows, but .* have 30"):
            equipartition_labels(iter([stack[0], stack[1][:29]]), rounding=rounding)
        with pytest.raises(ValueError, match="g_init has 1 rows, but there is a head 2"):
            equipartition_labels(stack, g_init=g[:1], rounding=rounding)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"callback": print}, "has no violation to tell a callback"),
        ({"process_group": object()}, "in one process.*rounding='argmax'"),
        ({"method": "fast"}, "method must be one of auto, sinkhorn, newton, got 'fast'"),
        ({"epsilon": -1.0}, "epsilon must be finite and > 0"),
        ({"tol": -1.0}, "tol must be finite and >= 0"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1"),
    ],
)
def test_exact_rounding_checks_what_it_does_not_use(wish, message):
    with pytest.raises(ValueError, match=message):
        equipartition_labels(np.eye(4), rounding="exact", **wish)


def test_uneven_heads_are_one_warning():
    """Of the worst of three: the second, where more rows are equal."""
    stack = np.random.default_rng(0).normal(size=(3, 400, 4))
    for head, equal in zip(stack, (250, 390, 250), strict=True):
        head[:equal] = head[0]
    with pytest.warns(SinkhornWarning, match="class sizes of head 1 are far from N") as caught:
        equipartition_labels(stack)
    assert len(caught) == 1
