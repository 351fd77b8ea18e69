"""Whole solves with the GPU kernels, on every machine that can run them (see machines.py)."""

import math

import pytest
import torch

from sinkhorn_ot import backends, sinkhorn


@pytest.fixture
def solve(machine, monkeypatch):
    """`sinkhorn` on this machine, whatever the device of the tensors."""
    known = [one for one in backends.BACKENDS if one.name != machine.backend.name]
    monkeypatch.setattr(backends, "BACKENDS", (*known, machine.backend))
    return lambda logits, **options: sinkhorn(logits, backend=machine.backend.name, **options)


@pytest.mark.parametrize("method", ["newton", "sinkhorn"])
def test_whole_solve_equals_the_reference(solve, make, method):
    logits = make(2500, 64, std=0.5, dtype=torch.float32)
    ours = solve(logits, tol=1e-8, method=method, max_iter=5000)
    reference = sinkhorn(logits.cpu(), tol=1e-9, max_iter=5000, backend="reference")
    assert ours.converged
    torch.testing.assert_close(ours.g.cpu(), reference.g, rtol=0, atol=1e-7)
    assert (ours.labels.cpu() == reference.labels).all()
    assert ours.labels.device == ours.f.device == logits.device


def test_a_fixed_number_of_iterations(solve, make):
    """``tol=0``: the iterates are those of the textbook."""
    logits = make(200, 12, dtype=torch.float32)
    ours = solve(logits, tol=0, max_iter=7)
    reference = sinkhorn(logits.cpu(), tol=0, max_iter=7, backend="reference")
    torch.testing.assert_close(ours.g.cpu(), reference.g, rtol=0, atol=1e-12)
    assert ours.n_iter == 7
    assert ours.marginal_violation == pytest.approx(reference.marginal_violation, rel=1e-9)


@pytest.mark.parametrize("tol", [0, 1e-3])
@pytest.mark.parametrize("method", ["newton", "sinkhorn"])
def test_bad_input_is_named(solve, make, tol, method):
    logits = make(20_000 if method == "newton" else 50, 64, dtype=torch.float32)
    logits[17, 3] = math.nan
    with pytest.raises(ValueError, match=r"logits\[17, 3\] is nan"):
        solve(logits, tol=tol, method=method, max_iter=5)
    logits[17, 3] = 0
    logits[:, 4] = -math.inf
    with pytest.raises(ValueError, match="column 4 of logits is -inf"):
        solve(logits, tol=tol, method=method, max_iter=5)


def test_a_bad_row_in_the_first_sample_is_named(solve, make):
    """Also where the sample's kept entries do not see all columns, and would learn from its NaN."""
    logits = make(20_000, 64, dtype=torch.float32)
    logits[:, 5] -= 20
    logits[590, 3] = math.nan  # the first sample takes row 590
    with pytest.raises(ValueError, match=r"logits\[590, 3\] is nan"):
        solve(logits, epsilon=0.04)


def test_rows_in_chunks_are_solved_with_kept_entries(solve, make):
    """Ten thousand clusters are no reason for textbook steps."""
    logits = make(8, 4200)
    result = solve(logits, epsilon=0.1, tol=1e-4)
    reference = sinkhorn(logits.cpu(), epsilon=0.1, tol=1e-7, max_iter=5000, backend="reference")
    textbook = sinkhorn(logits.cpu(), epsilon=0.1, tol=1e-4, method="sinkhorn")
    assert result.converged
    assert result.n_iter < textbook.n_iter / 3
    torch.testing.assert_close(result.g.cpu(), reference.g, rtol=0, atol=1e-3)
