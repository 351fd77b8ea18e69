"""The result object, history, callback, warm start, warnings."""

import itertools

import numpy as np
import pytest
import torch

import sinkhorn_ot
from sinkhorn_ot import Progress, SinkhornWarning, equipartition_labels, sinkhorn

BACKENDS = ["cpu", "reference"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_plan_soft_labels_predict_counts(backend, normal):
    logits = normal(500, 7).astype(np.float32)
    result = sinkhorn(logits, epsilon=0.2, tol=1e-8, max_iter=10_000, backend=backend)
    plan, soft = result.plan(logits), result.soft_labels(logits)
    assert plan.dtype == soft.dtype == np.float32
    np.testing.assert_allclose(soft, plan * 500, rtol=1e-5)
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(result.predict(logits), result.labels)
    np.testing.assert_array_equal(result.predict(logits[100:103]), result.labels[100:103])
    np.testing.assert_array_equal(soft.argmax(1), result.labels)
    np.testing.assert_array_equal(result.counts, np.bincount(result.labels, minlength=7))
    np.testing.assert_array_equal(
        equipartition_labels(logits, epsilon=0.2, tol=1e-8, max_iter=10_000, backend=backend),
        result.labels,
    )
    assert result.backend == backend
    assert result.epsilon == 0.2


def test_target_sizes_are_followed(normal):
    b = np.array([0.5, 0.3, 0.15, 0.05])
    result = sinkhorn(normal(20_000, 4), b=b, tol=1e-6)
    np.testing.assert_allclose(result.counts / 20_000, b, atol=0.01)


@pytest.mark.parametrize("backend", BACKENDS)
def test_history_falls_and_ends_with_the_result(backend, normal):
    result = sinkhorn(normal(300, 20), tol=1e-6, method="sinkhorn", backend=backend)
    violations = [entry.marginal_violation for entry in result.history]
    assert all(isinstance(entry, Progress) for entry in result.history)
    assert all(b <= a + 1e-6 for a, b in itertools.pairwise(violations))
    assert violations[-1] == result.marginal_violation <= 1e-6
    assert result.history[-1].n_passes == result.n_passes
    passes = [entry.n_passes for entry in result.history]
    assert passes[: result.n_iter] == list(range(1, result.n_iter + 1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_callback_sees_and_stops(backend, normal):
    seen = []

    def stop_at_third(info):
        seen.append(info)
        return np.bool_(len(seen) == 3)

    result = sinkhorn(normal(300, 20), tol=1e-9, callback=stop_at_third, backend=backend)
    assert result.n_iter == 2  # stopped by the user: no warning, which the settings make an error
    assert tuple(seen) == result.history[:-1]  # the last entry is the result itself
    assert seen[2].marginal_violation < seen[0].marginal_violation


@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_tol_runs_exactly_max_iter_in_silence(backend, normal):
    result = sinkhorn(normal(300, 20), tol=0, max_iter=4, backend=backend)
    watched = sinkhorn(
        normal(300, 20), tol=0, max_iter=4, backend=backend, callback=lambda info: np.False_
    )
    np.testing.assert_array_equal(watched.g, result.g)
    assert len(watched.history) == 5
    assert result.n_iter == 4
    assert result.n_passes == 5
    assert len(result.history) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_tol_reaches_float64(backend, normal):
    result = sinkhorn(normal(50, 5), epsilon=0.3, tol=0, max_iter=500, backend=backend)
    assert result.marginal_violation < 1e-14


def test_predict_takes_an_empty_batch(normal):
    result = sinkhorn(normal(50, 5))
    assert result.predict(normal(1, 5)[:0]).shape == (0,)
    assert result.soft_labels(normal(1, 5)[:0]).shape == (0, 5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_not_converged_warns_and_names_the_lever(backend, normal):
    with pytest.warns(
        SinkhornWarning, match=r"after 2 iterations .*raise max_iter \(now 2\)"
    ) as record:
        result = sinkhorn(normal(300, 20, std=3), max_iter=2, backend=backend)
    assert record[0].filename == __file__
    assert not result.converged
    assert result.n_iter == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_warm_start_takes_no_further_step(backend, normal):
    logits = normal(300, 20)
    result = sinkhorn(logits, tol=1e-6, max_iter=5000, backend=backend)
    again = sinkhorn(logits, tol=1e-6, g_init=result.g + 3.0, backend=backend)
    assert again.n_iter == 0
    np.testing.assert_allclose(again.g, result.g, atol=1e-12)
    np.testing.assert_array_equal(again.labels, result.labels)


def test_a_result_is_one_line_and_the_module_lists_its_public_names():
    result = sinkhorn(np.zeros((6, 3)), backend="cpu")
    assert repr(result) == (
        "SinkhornResult(6 x 3, converged, marginal_violation=0, n_iter=0, n_passes=2, "
        "epsilon=0.04, backend='cpu')"
    )
    public = [*sinkhorn_ot.__all__, "BalancedKMeans", "__version__"]  # a star import leaves it out
    assert sorted(dir(sinkhorn_ot)) == sorted(public)


@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_stacks_are_predicted_head_by_head(library, normal):
    logits = library(normal(60, 5))
    result = sinkhorn(logits, epsilon=0.5)
    stack = logits.reshape(3, 20, 5)
    labels, soft = result.predict(stack), result.soft_labels(stack)
    assert labels.reshape(60).tolist() == result.labels.tolist()
    np.testing.assert_array_equal(soft.reshape(60, 5), result.soft_labels(logits))


def test_a_stack_may_ask_which_backends_can_run(normal):
    found = sinkhorn_ot.available_backends(normal(60, 5).reshape(3, 20, 5))
    assert found == sinkhorn_ot.available_backends(normal(20, 5))
