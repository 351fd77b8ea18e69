"""Small epsilon, huge logits, forbidden pairings, tiny and odd shapes, odd memory."""

import warnings

import numpy as np
import pytest

from sinkhorn_ot import SinkhornWarning, equipartition_labels, sinkhorn

BACKENDS = ["cpu", "reference"]


def true_violation(logits, result, b=None):
    """||m - b||_1 from the returned g alone, in extended precision and the log domain."""
    x = (logits.astype(np.longdouble) + result.g) / result.epsilon
    x -= x.max(1, keepdims=True)
    p = np.exp(x)
    mass = (p / p.sum(1, keepdims=True)).mean(0)
    return np.abs(mass - (1 / logits.shape[1] if b is None else b)).sum()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.01, 1e-3])
@pytest.mark.parametrize("scale", [1e4, 1e2, 1.0])
def test_sound_from_easy_to_extreme(simd, dtype, epsilon, scale):
    """Converged or not, everything that is returned is finite, true and consistent."""
    rng = np.random.default_rng(0)
    logits = rng.uniform(-scale, scale, (400, 20)).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SinkhornWarning)
        result = sinkhorn(logits, epsilon=epsilon, max_iter=200, backend="cpu")
    assert np.isfinite(result.f).all()
    assert np.isfinite(result.g).all()
    allowed = 1e-9 if dtype is np.float64 else 1e-7  # float32 logits: float32 exponentials
    assert abs(result.marginal_violation - true_violation(logits, result)) < allowed
    assert result.converged == (result.marginal_violation <= 1e-3)
    np.testing.assert_array_equal(result.labels, (logits.astype(np.float64) + result.g).argmax(1))
    # the result of the least violation seen is the one returned (1e-6: quick passes are float32)
    seen = min(entry.marginal_violation for entry in result.history)
    assert result.marginal_violation <= seen + 1e-6


def test_extreme_logits_can_converge(simd):
    """Logits of +-1e4 at epsilon 1e-3 where a plan is clear: found, and said to be found."""
    rng = np.random.default_rng(0)
    want = rng.permutation(np.arange(400) % 20)
    logits = np.full((400, 20), -1e4, np.float32)
    logits[np.arange(400), want] = 1e4
    result = sinkhorn(logits, epsilon=1e-3)
    assert result.converged
    np.testing.assert_array_equal(result.labels, want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 4), (3, 8)])
def test_tiny_shapes(backend, shape):
    logits = np.random.default_rng(0).normal(size=shape)
    result = sinkhorn(logits, tol=1e-9, max_iter=10_000, backend=backend)
    plan = result.plan(logits)
    np.testing.assert_allclose(plan.sum(0), 1 / shape[1], rtol=1e-7)
    np.testing.assert_allclose(plan.sum(1), 1 / shape[0], rtol=1e-7)
    assert result.counts.sum() == shape[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_forbidden_pairings_are_never_used(backend):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(200, 10))
    forbidden = rng.random((200, 10)) < 0.4
    forbidden[np.arange(200), rng.integers(0, 10, 200)] = False
    logits[forbidden] = -np.inf
    result = sinkhorn(logits, epsilon=0.1, tol=1e-8, max_iter=20_000, backend=backend)
    assert result.converged
    assert (result.plan(logits)[forbidden] == 0).all()
    assert not forbidden[np.arange(200), result.labels].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_infeasible_pattern_warns_and_still_returns(backend):
    """Three of four samples may only join cluster 0, which has room for two."""
    logits = np.array([[0, -np.inf], [0, -np.inf], [0, -np.inf], [0, 0.0]])
    with pytest.warns(SinkhornWarning, match="no feasible plan"):
        result = sinkhorn(logits, backend=backend, max_iter=50)
    assert not result.converged
    assert result.marginal_violation == pytest.approx(0.5, abs=1e-6)
    np.testing.assert_array_equal(result.labels, [0, 0, 0, 1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_unused_cluster_and_weightless_sample(backend, normal):
    """b_k = 0 keeps a cluster empty, a_i = 0 keeps a sample's mass out: as if both were absent."""
    logits = normal(50, 5)
    b = np.array([0.25, 0.25, 0, 0.25, 0.25])
    a = np.r_[0, np.full(49, 1 / 49)]
    with np.errstate(divide="ignore"):
        result = sinkhorn(logits, a=a, b=b, tol=1e-9, max_iter=10_000, backend=backend)
    keep = [0, 1, 3, 4]
    smaller = sinkhorn(logits[1:, keep], tol=1e-9, max_iter=10_000, backend=backend)
    np.testing.assert_allclose(result.g[keep], smaller.g, atol=1e-7)
    assert result.g[2] == -np.inf
    assert result.f[0] == -np.inf
    assert result.counts[2] == 0
    np.testing.assert_array_equal(result.labels[1:], np.array(keep)[smaller.labels])


@pytest.mark.parametrize("backend", BACKENDS)
def test_tiny_target_mass(backend, normal):
    """A target far below float32's range is met through the log domain."""
    b = np.array([0.5, 0.5 - 1e-40, 1e-40])
    result = sinkhorn(normal(100, 3), b=b, tol=1e-8, max_iter=5000, backend=backend)
    assert result.converged
    assert np.isfinite(result.g).all()


def test_memmap_and_read_only(tmp_path, normal):
    logits = normal(300, 11).astype(np.float32)
    np.save(tmp_path / "logits.npy", logits)
    mapped = np.load(tmp_path / "logits.npy", mmap_mode="r")
    expected = equipartition_labels(logits)
    np.testing.assert_array_equal(equipartition_labels(mapped), expected)
    logits.flags.writeable = False
    np.testing.assert_array_equal(equipartition_labels(logits), expected)


def test_float32_column_sums_do_not_lie():
    """A float32 sum over 300,000 rows would be off by 1e-4; the reported violation is true."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 0.3, (300_000, 8)).astype(np.float32)
    result = sinkhorn(logits, tol=1e-7)
    assert result.marginal_violation == pytest.approx(true_violation(logits, result), abs=1e-12)


def test_denormal_logits_still_decide():
    """Flush-to-zero inside the kernels does not flush float32 input."""
    logits = np.array([[1e-40, 2e-40], [2e-40, 1e-40]], np.float32)
    np.testing.assert_array_equal(equipartition_labels(logits), [1, 0])
