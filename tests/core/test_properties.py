"""What must hold for any input: shifts, permutations, scales, duality."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sinkhorn_ot import sinkhorn

problems = st.tuples(
    st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0.1, 1.5)
)
kwargs = {"epsilon": 1.0, "tol": 1e-10, "max_iter": 20_000}
quickly = settings(max_examples=40, deadline=None)


def make(problem):
    n, k, seed, std = problem
    rng = np.random.default_rng(seed)
    return rng, rng.normal(0, std, (n, k))


@quickly
@given(problems)
def test_shifts_change_nothing_but_the_potentials(problem):
    """A row constant moves f only, a column constant moves g only; the plan stays."""
    rng, logits = make(problem)
    rows, columns = rng.normal(0, 10, len(logits)), rng.normal(0, 1, logits.shape[1])
    moved = logits + rows[:, None] + columns
    plan = sinkhorn(logits, **kwargs).plan(logits)
    shifted = sinkhorn(moved, **kwargs)
    np.testing.assert_allclose(shifted.plan(moved), plan, rtol=1e-6, atol=1e-12)


@quickly
@given(problems)
def test_permutations_are_followed(problem):
    rng, logits = make(problem)
    rows, columns = rng.permutation(logits.shape[0]), rng.permutation(logits.shape[1])
    result, permuted = sinkhorn(logits, **kwargs), sinkhorn(logits[rows][:, columns], **kwargs)
    np.testing.assert_allclose(permuted.g, result.g[columns], atol=1e-7)
    np.testing.assert_allclose(permuted.f, result.f[rows], atol=1e-7)


@quickly
@given(problems, st.floats(0.01, 100))
def test_logits_and_epsilon_scale_together(problem, scale):
    _, logits = make(problem)
    result = sinkhorn(logits, **kwargs)
    scaled = sinkhorn(logits * scale, **{**kwargs, "epsilon": scale})
    np.testing.assert_allclose(scaled.g, result.g * scale, rtol=1e-5, atol=1e-6 * scale)


@quickly
@given(problems)
def test_marginals_and_duality(problem):
    """Rows are exact, columns within the violation, and the dual value equals the primal's."""
    _, logits = make(problem)
    n, k = logits.shape
    result = sinkhorn(logits, **kwargs)
    plan = result.plan(logits)
    np.testing.assert_allclose(plan.sum(1), 1 / n, rtol=1e-9)
    violation = np.abs(plan.sum(0) - 1 / k).sum()
    assert abs(violation - result.marginal_violation) < 1e-9
    assert result.converged
    entropy = -(plan * np.log(np.maximum(plan, 1e-300))).sum()
    primal = (plan * logits).sum() + entropy
    dual = -result.f.mean() - result.g.mean()
    np.testing.assert_allclose(primal, dual, rtol=1e-6, atol=1e-6)
    assert abs(result.g.mean()) < 1e-9


@quickly
@given(problems, st.integers(1, 4))
def test_labels_are_the_argmax_of_the_returned_g(problem, digits):
    """Even with many near ties, in float32: the label is decided in float64."""
    _, logits = make(problem)
    logits = np.round(logits, digits).astype(np.float32)
    result = sinkhorn(logits, epsilon=0.5)
    np.testing.assert_array_equal(result.labels, (logits.astype(np.float64) + result.g).argmax(1))
