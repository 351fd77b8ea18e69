"""The objective of a plan, and the proof of how far it is from the optimum."""

import itertools
import math
import warnings

import numpy as np
import ot
import pytest
import torch
from scipy.special import logsumexp

from sinkhorn_ot import SinkhornWarning, sinkhorn


def random_problem(seed):
    """Random marginals, of which some are 0, and forbidden pairings in each third problem."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(5, 60)), int(rng.integers(1, 12))
    logits = rng.normal(size=(n, k)) * rng.choice([0.1, 1.0, 3.0])
    a, b = rng.random(n) + 0.01, rng.random(k) + 0.1
    if seed % 4 == 1:
        a[rng.random(n) < 0.3] = 0
        a[0] = 1
    if seed % 4 == 2 and k > 1:
        b[rng.integers(k)] = 0
    if seed % 3 == 0:
        forbidden = rng.random((n, k)) < 0.2
        forbidden[:, b.argmax()] = False  # there is room for all: some plan is feasible
        b = np.where(np.arange(k) == b.argmax(), 3 * b.sum(), b)
        logits[forbidden] = -np.inf
    return logits, a / a.sum(), b / b.sum(), float(rng.choice([0.05, 0.2, 1.0]))


def entropic(plan, logits, epsilon):
    """``<P, logits> + epsilon * H(P)``, where a pairing of no mass counts nothing."""
    some = plan > 0
    p = plan[some]
    return float(p @ logits[some] - epsilon * p @ np.log(p))


def optimum(logits, a, b, epsilon):
    """The largest objective, by Sinkhorn's iteration in the log domain down to rounding."""
    some, used = a > 0, b > 0
    scores, log_a, log_b = logits[some][:, used] / epsilon, np.log(a[some]), np.log(b[used])
    g = np.zeros(used.sum())
    for _ in range(200_000):
        f = log_a - logsumexp(scores + g, axis=1)
        step = log_b - logsumexp(scores + f[:, None], axis=0) - g
        g = g + step
        if abs(step).max() < 1e-13:
            break
    f = log_a - logsumexp(scores + g, axis=1)
    return -epsilon * float(a[some] @ f + b[used] @ g)


@pytest.mark.parametrize("seed", range(60))
def test_the_distance_from_the_optimum_is_never_above_the_gap(seed):
    """Both signs occur: a plan whose columns are only nearly right may exceed the optimum."""
    logits, a, b, epsilon = random_problem(seed)
    best = optimum(logits, a, b, epsilon)
    for tol in (0.3, 1e-2, 1e-4, 1e-9):
        result = sinkhorn(logits, a=a, b=b, epsilon=epsilon, tol=tol, max_iter=20_000)
        gap = result.gap(logits)
        assert abs(result.objective - best) <= gap
        plan = result.plan(logits)
        assert result.objective == pytest.approx(entropic(plan, logits, epsilon), abs=1e-10)
    assert gap <= 1e-7  # of the last tol


def test_the_optimum_is_that_of_pot(normal):
    """The truth above agrees with POT, whose cost is -logits."""
    logits, epsilon = normal(40, 6), 0.1
    a, b = np.full(40, 1 / 40), np.full(6, 1 / 6)
    plan = ot.sinkhorn(a, b, -logits, epsilon, "sinkhorn_log", stopThr=1e-13, numItermax=100_000)
    best = entropic(plan, logits, epsilon)
    assert optimum(logits, a, b, epsilon) == pytest.approx(best, abs=1e-11)
    result = sinkhorn(logits, epsilon=epsilon)
    assert abs(result.objective - best) <= result.gap(logits)


def test_the_gap_falls_with_tol(normal):
    logits = normal(3000, 20)
    gaps = [
        sinkhorn(logits, epsilon=0.1, tol=tol, method="sinkhorn").gap(logits)
        for tol in (1e-1, 1e-3, 1e-5, 1e-7, 1e-9)
    ]
    assert all(less < gap / 5 for gap, less in itertools.pairwise(gaps))
    assert gaps[-1] < 1e-9


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("n", [500, 20_000])
def test_stored_values_are_what_counts(dtype, n, normal):
    """The float32 error of f is within the gap; some rows prove what all would (n = 20,000)."""
    logits = torch.as_tensor(normal(n, 16)).to(getattr(torch, dtype))
    exact = sinkhorn(logits.double(), epsilon=0.1, tol=1e-12, backend="reference")
    for tol in (1e-2, 1e-6):
        result = sinkhorn(logits, epsilon=0.1, tol=tol)
        gap = result.gap(logits)
        assert abs(result.objective - exact.objective) <= gap <= 30 * tol


def test_a_plan_that_has_not_converged_is_bounded_too(normal):
    """One iteration on a hard problem: the proof does not need `tol`."""
    logits = normal(6000, 12, std=3)
    logits[:, 3] += 4
    best = sinkhorn(logits, epsilon=0.1, tol=1e-12, max_iter=5000).objective
    with pytest.warns(SinkhornWarning):
        result = sinkhorn(logits, epsilon=0.1, max_iter=1, method="sinkhorn")
    assert result.marginal_violation > 0.05
    distance = abs(result.objective - best)
    assert distance <= result.gap(logits) <= 20 * distance


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_forbidden_pairings_leave_a_gap(backend, normal):
    """Three in ten pairings are forbidden: mass moves around them."""
    rng = np.random.default_rng(3)
    logits = normal(9000, 40)
    forbidden = rng.random(logits.shape) < 0.3
    forbidden[np.arange(9000), rng.integers(0, 40, 9000)] = False
    logits[forbidden] = -np.inf
    best = sinkhorn(logits, epsilon=0.1, tol=1e-12).objective
    result = sinkhorn(logits, epsilon=0.1, tol=1e-3, backend=backend)
    assert abs(result.objective - best) <= result.gap(logits) < 1e-2


def test_mass_that_cannot_move_has_no_finite_gap():
    """No plan is feasible: cluster 1 is open to a quarter of the samples only."""
    logits = np.zeros((8, 2))
    logits[2:, 1] = -math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SinkhornWarning)
        result = sinkhorn(logits, epsilon=0.1, max_iter=20)
    assert result.gap(logits) == math.inf


def test_gap_names_rows_that_do_not_fit(normal):
    logits = normal(50, 5)
    result = sinkhorn(logits)
    with pytest.raises(ValueError, match="gap needs the 50 rows that were solved, got 49"):
        result.gap(logits[1:])
    logits[7, 2] = np.nan
    with pytest.raises(ValueError, match=r"logits\[7, 2\] is nan"):
        result.gap(logits)


def test_each_head_has_its_own(normal):
    stack = torch.as_tensor(np.stack([normal(60, 4), 2 * normal(60, 4)]))
    for head, result in zip(stack, sinkhorn(stack, epsilon=0.3), strict=True):
        alone = sinkhorn(head, epsilon=0.3)
        assert (result.objective, result.gap(head)) == (alone.objective, alone.gap(head))


@pytest.mark.parametrize("seed", [27, 49, 60, 108, 123, 339])
def test_mass_that_is_shared_out_slowly_still_gives_a_bound(seed):
    """Small feasible problems with forbidden pairings, where 30 sweeps were too few."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(5, 60)), int(rng.integers(3, 8))
    logits = rng.normal(size=(n, k))
    logits[rng.random((n, k)) < 0.3] = -np.inf
    result = sinkhorn(logits, epsilon=0.3)
    best = sinkhorn(logits, epsilon=0.3, tol=1e-8, max_iter=100_000)
    assert abs(result.objective - best.objective) <= result.gap(logits) + 1e-7
    assert result.gap(logits) < 0.1
