"""Independent truth: POT, SciPy's linear programme, and answers worked out by hand."""

import numpy as np
import ot
import pytest
from scipy.optimize import linprog

from sinkhorn_ot import equipartition_labels, sinkhorn

BACKENDS = ["cpu", "reference"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("uniform", [True, False])
def test_plan_equals_pot(backend, uniform, normal):
    n, k = 60, 13
    logits = normal(n, k)
    rng = np.random.default_rng(2)
    a = np.full(n, 1 / n) if uniform else rng.dirichlet(np.ones(n) * 5)
    b = np.full(k, 1 / k) if uniform else rng.dirichlet(np.ones(k) * 5)
    pot = ot.bregman.sinkhorn_log(a, b, -logits, reg=0.1, stopThr=1e-12, numItermax=100_000)
    ours = sinkhorn(logits, a=a, b=b, epsilon=0.1, tol=1e-12, max_iter=100_000, backend=backend)
    np.testing.assert_allclose(n * k * ours.plan(logits), n * k * pot, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(4))
def test_small_epsilon_reaches_the_linear_programme(backend, seed, normal):
    """As epsilon goes to 0 the plan's value tends to the optimum of the transport LP."""
    n, k = 12, 4
    logits = normal(n, k, seed=seed)
    rows = np.kron(np.eye(n), np.ones(k))
    columns = np.kron(np.ones(n), np.eye(k))
    lp = linprog(
        -logits.ravel(),
        A_eq=np.vstack([rows, columns]),
        b_eq=np.r_[np.full(n, 1 / n), np.full(k, 1 / k)],
    )
    for epsilon in (0.3, 0.1, 0.03):
        result = sinkhorn(logits, epsilon=epsilon, tol=1e-4, max_iter=50_000, backend=backend)
        value = (result.plan(logits) * logits).sum()
        # the entropy of a row given its mass is at most log k; the violation moves mass <= tol
        assert -lp.fun - epsilon * np.log(k) <= value + 1e-4 * np.ptp(logits)
        assert value <= -lp.fun + 1e-4 * np.ptp(logits)
    # n / k is whole, so a vertex of the LP is a labelling
    np.testing.assert_array_equal(result.labels, lp.x.reshape(n, k).argmax(1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_clusters_by_hand(backend):
    """Four samples, one preference each way: the two that want cluster 0 least must leave it."""
    logits = np.array([[4.0, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    result = sinkhorn(logits, epsilon=0.5, tol=1e-10, backend=backend)
    np.testing.assert_array_equal(result.labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(result.counts, [2, 2])
    # the boundary lies half way between 2 and 3: g_1 - g_0 = 2.5, centred
    np.testing.assert_allclose(result.g, [-1.25, 1.25], atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_iteration_by_hand(backend):
    """G after one step is epsilon * log(b / softmax column means), centred."""
    logits = np.log(np.array([[0.8, 0.2], [0.6, 0.4]]))
    result = sinkhorn(logits, epsilon=1.0, tol=0, max_iter=1, backend=backend)
    g = np.log(0.5 / np.array([0.7, 0.3]))
    np.testing.assert_allclose(result.g, g - g.mean(), atol=1e-6)
    assert result.n_iter == 1
    assert result.n_passes == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_permutation_is_found(backend):
    """N = K with one clear match each: the plan is that permutation."""
    permutation = np.random.default_rng(0).permutation(40)
    logits = np.zeros((40, 40))
    logits[np.arange(40), permutation] = 5.0
    np.testing.assert_array_equal(equipartition_labels(logits, backend=backend), permutation)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_take_the_lowest_index(backend):
    np.testing.assert_array_equal(equipartition_labels(np.zeros((5, 3)), backend=backend), 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sela_scaling_form(backend, normal):
    """The original's diag(u) P^lambda diag(v), written out, has the same fixed point."""
    logits = normal(80, 6)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    q = (p**5.0).T
    v = np.full(80, 1 / 80)
    for _ in range(3000):
        u = (1 / 6) / (q @ v)
        v = (1 / 80) / (u @ q)
    truth = (u[:, None] * q * v).T
    result = sinkhorn(np.log(p), epsilon=1 / 5.0, tol=1e-12, max_iter=5000, backend=backend)
    np.testing.assert_allclose(result.plan(np.log(p)), truth, rtol=1e-8)
    np.testing.assert_array_equal(result.labels, truth.argmax(1))
