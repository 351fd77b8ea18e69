"""Problems on which an accelerated solve may stall: every one that is feasible is solved.

The bounds on reads are about twice what was seen when they were set; a solve that creeps, as the
textbook iteration does on most of these, takes hundreds.
"""

import numpy as np
import pytest
from problems import (
    any_kind,
    blocks,
    equal_rows,
    few_columns,
    k_means,
    make_logits,
    true_violation,
    wide,
)
from scipy.optimize import linprog

from sinkhorn_ot import SinkhornWarning, sinkhorn
from sinkhorn_ot.solvers import annealing, newton


def violation(logits, result, b=None):
    """``||m - b||_1`` in float64, from the potentials alone."""
    x = (logits.astype(np.float64) + result.g) / result.epsilon
    p = np.exp(x - x.max(1, keepdims=True))
    mass = (p / p.sum(1, keepdims=True)).mean(0)
    return np.abs(mass - (1 / len(mass) if b is None else b)).sum()


@pytest.mark.parametrize("epsilon", [2.0, 0.5, 0.1])
def test_k_means_in_any_order_of_rows(epsilon):
    """Clusters are joined by few rows, which samples need not hold."""
    reads = []
    for seed in range(6):
        logits = k_means(seed)
        for order in (slice(None), np.argsort(logits.argmax(1), kind="stable")):
            result = sinkhorn(logits[order], epsilon=epsilon, tol=1e-4)
            assert result.converged
            assert violation(logits[order], result) <= 1.01e-4
            reads.append(result.n_passes)
    assert np.median(reads) <= 20
    assert max(reads) <= 60


@pytest.mark.parametrize(
    ("n", "k", "shares"),
    [(10_000, 100, [0.3]), (10_000, 100, [0.1] * 5), (20_000, 500, [0.3]), (3_000, 50, [0.5])],
)
@pytest.mark.parametrize("epsilon", [0.02, 0.01])
def test_many_equal_rows(n, k, shares, epsilon):
    """They belong to tens of classes in equal parts, which their largest entry does not tell."""
    for seed in range(3):
        logits = equal_rows(seed, shares, n, k)
        result = sinkhorn(logits, epsilon=epsilon)
        assert result.converged
        assert violation(logits, result) <= 1.01e-3
        assert result.n_passes <= 150


@pytest.mark.parametrize("seed", range(60))
def test_logits_of_any_kind(seed):
    """Ties, blocks, heavy tails, ...: none is left unsolved, at any spread."""
    logits = any_kind(seed)
    result = sinkhorn(logits, epsilon=1.0)
    assert result.converged
    assert violation(logits, result) <= 1.01e-3


def test_a_solve_that_creeps_is_no_worse_for_the_larger_epsilons(monkeypatch):
    """Of the attempts at its own epsilon the best one counts, though steps ran out in another."""
    logits = equal_rows(0, [0.3], 10_000, 100)
    ends = []
    solve = newton.solve

    def watched(watch, g, **options):
        end, n_iter = solve(watch, g, **options)
        ends.append((watch.problem.epsilon, end.violation))
        return end, n_iter

    monkeypatch.setattr(annealing.newton, "solve", watched)
    with pytest.warns(SinkhornWarning):
        result = sinkhorn(logits, epsilon=0.02, max_iter=12)
    assert [epsilon for epsilon, _ in ends] == [0.02, 0.1, 0.02]
    assert result.n_iter == 12
    assert result.marginal_violation == min(end for epsilon, end in ends if epsilon == 0.02)
    assert violation(logits, result) == pytest.approx(result.marginal_violation, rel=1e-4)
    assert len(result.history) >= 12  # of both attempts at 0.02


def test_an_epsilon_between_is_one_that_can_help():
    assert annealing.between(0.02, np.inf, 1.0) == pytest.approx(0.1)
    assert annealing.between(0.02, 0.08, 1.0) == pytest.approx(0.04)
    assert annealing.between(0.02, 0.028, 1.0) is None  # so close
    assert annealing.between(0.3, np.inf, 1.0) is None  # the logits do not spread over it
    assert annealing.between(0.3, np.inf, np.inf) is None


def test_rounding_is_no_reason_to_return_a_worse_result(normal):
    """Below the rounding of float64 a solve creeps, and what it reached stays exact."""
    logits = normal(3000, 30).astype(np.float32)
    with pytest.warns(SinkhornWarning):
        few, more = (sinkhorn(logits, epsilon=0.1, tol=1e-17, max_iter=m) for m in (21, 24))
    assert more.marginal_violation <= few.marginal_violation <= 1e-14
    assert violation(logits, more) <= 1e-14
    rows = np.exp((logits.astype(np.float64) + more.f[:, None] + more.g) / 0.1).sum(1)
    np.testing.assert_allclose(3000 * rows, 1.0, rtol=1e-12)


def test_a_heavy_row_belongs_to_many_classes(normal):
    """The same as many equal rows, by its mass."""
    logits = normal(10_000, 100)
    a = np.full(10_000, 0.7 / 9_999)
    a[0] = 0.3
    result = sinkhorn(logits, a=a, epsilon=0.02)
    assert result.converged
    assert result.n_passes <= 100


@pytest.mark.parametrize("seed", range(8))
def test_logits_of_any_kind_with_uneven_marginals(seed):
    logits, rng = any_kind(seed), np.random.default_rng(seed)
    a = rng.pareto(1.5, len(logits)) + 0.1
    b = rng.dirichlet(np.full(logits.shape[1], 2.0)).clip(0.1 / logits.shape[1])
    result = sinkhorn(logits, a=a / a.sum(), b=b / b.sum(), epsilon=1.0)
    assert result.converged


def test_a_callback_stops_a_solve_at_a_larger_epsilon():
    """After that the matrix is read once more, and the best g so far is returned."""
    logits = equal_rows(0, [0.3], 10_000, 100)
    seen = []

    def stop(progress):
        seen.append(progress)
        return len(seen) == 13

    result = sinkhorn(logits, epsilon=0.02, callback=stop)
    assert len(seen) == 14
    assert not result.converged
    reads = [progress.n_passes for progress in seen]
    assert reads == sorted(reads)
    assert len(result.history) < 14  # some were at the larger epsilon
    assert result.marginal_violation == min(p.marginal_violation for p in result.history)


def test_potentials_that_mislead():
    """A warm solve that creeps goes by way of larger epsilons too."""
    logits = equal_rows(1, [0.3], 10_000, 100)
    g = np.random.default_rng(0).normal(size=100)
    result = sinkhorn(logits, epsilon=0.02, g_init=g)
    assert result.converged
    assert result.n_passes <= 150


def test_what_cannot_be_solved_is_not_tried_for_ever(normal):
    """Half of the rows may only go to one class of ten: larger epsilons do not help."""
    logits = normal(200, 10)
    logits[:100, 1:] = -np.inf
    with pytest.warns(SinkhornWarning, match="-inf entries may leave no feasible plan"):
        result = sinkhorn(logits, epsilon=0.02, max_iter=300)
    assert result.n_iter == 300
    assert result.marginal_violation == pytest.approx(0.8, rel=1e-3)


@pytest.mark.parametrize("k", [2, 3, 5, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_very_many_short_rows(k, dtype):
    """Kept entries get the memory they need, though it is more than the input."""
    result = sinkhorn(few_columns(0, k, 300_000).astype(dtype))
    assert result.converged
    assert result.n_passes <= 8


def test_larger_epsilons_fall_by_five_from_a_spread_of_fifty_at_most():
    """And none is solved where the spread is not wide, or not finite."""
    assert annealing.levels(0.5, 5_000.0) == pytest.approx([312.5, 62.5, 12.5, 2.5])
    assert annealing.levels(0.5, 201.0) == [12.5, 2.5]
    assert annealing.levels(0.5, 200.0) == annealing.levels(0.5, np.inf) == []


@pytest.mark.parametrize("spread", [10_000, 100_000])
@pytest.mark.parametrize("seed", range(3))
def test_tiny_epsilon(seed, spread):
    """A spread of 10,000 and 100,000 epsilon: larger ones are solved first, by itself."""
    logits = wide(seed, spread)
    result = sinkhorn(logits)
    assert result.converged
    assert violation(logits, result) <= 1.01e-3
    assert result.n_passes <= 60


def test_rows_of_one_number_in_a_period_hide_no_spread(normal):
    """The spread is that of some rows, which are not those at equal distances."""
    logits = 400 * normal(4000, 130).astype(np.float32)
    logits[::500] = 0
    result = sinkhorn(logits, epsilon=4e-4)
    assert result.converged
    assert result.n_passes < 70


def test_tiny_epsilon_is_nearly_the_linear_programme():
    """Points in the plane: the objective of the plan is that of SciPy's optimum within epsilon."""
    rng = np.random.default_rng(0)
    points = rng.random((40, 2))
    logits = -((points[:, None] - points[rng.choice(40, 10, replace=False)]) ** 2).sum(-1)
    result = sinkhorn(logits, epsilon=1e-4)
    assert result.converged
    rows, columns = np.kron(np.eye(40), np.ones(10)), np.kron(np.ones(40), np.eye(10))
    marginals = np.r_[np.full(40, 1 / 40), np.full(10, 1 / 10)]
    best = linprog(-logits.ravel(), A_eq=np.r_[rows, columns], b_eq=marginals).fun
    plan = result.plan(logits)
    assert -(plan * logits).sum() == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize(("n", "k"), [(16, 1000), (64, 3000), (7, 7), (2, 50)])
def test_fewer_rows_than_clusters(n, k):
    """Unnormalised scores of a small batch, as in SwAV."""
    for seed in range(5):
        logits = np.random.default_rng(seed).normal(size=(n, k))
        result = sinkhorn(logits, epsilon=0.05, tol=1e-4)
        assert result.converged
        assert result.n_passes <= 60


def test_repeated_and_quantised_rows():
    rng = np.random.default_rng(2)
    repeated = np.repeat(rng.normal(size=(30, 50)), 100, 0)
    quantised = rng.integers(-3, 4, size=(20_000, 64)).astype(np.float32)
    for logits, epsilon in ((repeated, 0.05), (quantised, 0.1)):
        result = sinkhorn(logits, epsilon=epsilon, tol=1e-4)
        assert result.converged
        assert violation(logits, result) <= 1.01e-4
        assert result.n_passes <= 40


def test_a_heavy_tailed_marginal():
    b = 1 / np.arange(1, 301.0) ** 2
    b /= b.sum()
    logits = make_logits("middle", 20_000, 300)
    result = sinkhorn(logits, b=b, tol=1e-4)
    assert result.converged
    assert violation(logits, result, b) <= 1.01e-4
    assert result.n_passes <= 40


@pytest.mark.parametrize(("seed", "joining"), [(5, 50), (5, 0), (18, 50)])
def test_blocks_that_hardly_any_row_joins(seed, joining):
    """Ten groups of clusters; their masses are right only once mass goes from one to another.

    With seed 18, a solve that goes on with entries kept near by, as g has hardly moved, takes 70
    tiny steps.
    """
    logits = blocks(seed, joining)
    result = sinkhorn(logits, epsilon=1.0, tol=1e-4)
    assert result.converged
    assert result.n_passes <= 60


def test_half_of_all_pairings_forbidden():
    logits = make_logits("middle", 20_000, 300)
    logits[np.random.default_rng(6).random(logits.shape) < 0.5] = -np.inf
    result = sinkhorn(logits, tol=1e-4)
    assert result.converged
    assert result.n_passes <= 20


def test_it_is_never_much_dearer_than_the_textbook():
    """Easy problems, where Sinkhorn's own steps are the best there are."""
    for seed in range(3):
        logits = np.random.default_rng(seed).normal(0, 0.04, (20_000, 50)).astype(np.float32)
        plain = sinkhorn(logits, tol=1e-4, method="sinkhorn")
        assert sinkhorn(logits, tol=1e-4).n_passes <= plain.n_passes + 3
        assert true_violation(logits, plain.g) <= 1.01e-4


def test_what_cannot_be_solved_ends_with_the_best_g():
    """A third of the rows may go to one of ten clusters only: masses stay off by 7/15 at least."""
    logits = np.random.default_rng(0).normal(size=(3000, 10))
    logits[:1000, 1:] = -np.inf
    with pytest.warns(SinkhornWarning, match="no feasible plan"):
        result = sinkhorn(logits, epsilon=0.3, max_iter=60)
    assert not result.converged
    assert 2 * (1 / 3 - 1 / 10) - 1e-9 <= result.marginal_violation <= 0.5
    least = min(entry.marginal_violation for entry in result.history)
    assert result.marginal_violation == pytest.approx(least, rel=1e-5)


def test_a_step_of_sinkhorns_is_never_taken_back(monkeypatch):
    """Its slope at the end can look bad; a solve that refused it would stay where it is.

    From a lam of 1 such a step is met here; from others it may not be.
    """
    monkeypatch.setattr(newton, "NEAR", 1.0)
    rng = np.random.default_rng(0)
    n, ten = 60_000, np.log(10)
    rows = np.where(
        np.arange(n)[:, None] < 0.99 * n, [0.0, -14 * ten, -40 * ten], [-60.0, -60.0, 0.0]
    )
    logits = rows + 0.05 * rng.normal(size=(n, 3))
    b = np.array([0.0099, 0.0099, 0.9802])
    b /= b.sum()
    result = sinkhorn(logits, b=b, epsilon=1.0, g_init=np.zeros(3), max_iter=60)
    assert result.converged
    assert violation(logits, result, b) <= 1.01e-3


def test_a_column_that_hardly_any_row_may_join():
    """No kept entry may belong to it; its mass is known from the read all the same."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(100_000, 50)).astype(np.float32)
    logits[rng.random(100_000) > 4e-4, 0] = -np.inf
    b = np.r_[1e-4, np.full(49, (1 - 1e-4) / 49)]
    result = sinkhorn(logits, b=b, epsilon=0.1, tol=1e-6)
    assert result.converged
    assert result.n_passes <= 15  # 23 if it had none


@pytest.mark.parametrize("family", ["late", "middle", "peaked"])
def test_a_warm_start_is_cheaper_than_a_cold_one(family):
    logits = make_logits(family, 50_000, 200)
    first = sinkhorn(logits)
    moved = logits + np.random.default_rng(0).normal(0, 0.01, logits.shape).astype(np.float32)
    warm = sinkhorn(moved, g_init=first.g)
    assert warm.converged
    assert warm.n_passes <= min(4, sinkhorn(moved).n_passes)


def test_a_callback_stops_a_solve_of_larger_epsilons():
    logits = 400 * np.random.default_rng(0).normal(size=(2000, 300))
    asked = []
    result = sinkhorn(logits, callback=lambda info: bool(asked.append(info)) or len(asked) == 3)
    assert len(asked) == 4  # the last reading, at the epsilon that was asked for, is told too
    assert result.epsilon == 0.04
    assert result.marginal_violation == pytest.approx(violation(logits, result), rel=1e-6)
    assert [entry.seconds for entry in asked] == sorted(entry.seconds for entry in asked)


@pytest.mark.parametrize("shape", [(5, 1), (4, 2)])
def test_nothing_to_do(shape):
    """Every plan is balanced: violations are 0, also where it may not stop for that."""
    result = sinkhorn(np.ones(shape), tol=0, method="newton", max_iter=5)
    assert result.n_iter == 5
    assert result.marginal_violation <= 1e-15


def test_logits_beyond_the_square_root_of_the_largest_number():
    logits = 1e200 * np.random.default_rng(0).normal(size=(300, 10))
    assert sinkhorn(logits, epsilon=1e200, tol=1e-6).converged


def test_accelerated_steps_without_a_goal_end_in_float64():
    """Nothing would tell when float32 is no longer enough: f is that of float64 arithmetic."""
    logits = make_logits("late", 3000, 50)
    result = sinkhorn(logits, tol=0, method="newton", max_iter=1)
    x = (logits.astype(np.float64) + result.g) / result.epsilon
    top = x.max(1)
    truth = -np.log(3000) - top - np.log(np.exp(x - top[:, None]).sum(1))
    np.testing.assert_allclose(result.f, result.epsilon * truth, rtol=0, atol=1e-13)
