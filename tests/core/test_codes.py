"""`sinkhorn_codes` against the published loops, written here from their papers."""

import numpy as np
import pytest
import sharded
import torch

from sinkhorn_ot import sinkhorn_codes


def swav(scores, epsilon, n_iter):
    """Caron et al., NeurIPS 2020, appendix A: Q of K rows and B columns, normalised in turn."""
    q = torch.exp(scores / epsilon).T
    q = q / q.sum()
    k, b = q.shape
    for _ in range(n_iter):
        q = q / q.sum(1, keepdim=True) / k
        q = q / q.sum(0, keepdim=True) / b
    return (q / q.sum(0, keepdim=True)).T


def scores_of(b=96, k=40, seed=0, dtype=torch.float64):
    return torch.randn(b, k, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1).to(dtype)


@pytest.mark.parametrize("n_iter", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float32, 1e-6), (torch.bfloat16, 2e-3), (torch.float16, 2e-3)],
    ids=str,
)
def test_it_is_the_published_loop_iterate_for_iterate(n_iter, dtype, tolerance):
    scores = scores_of(dtype=dtype)
    codes = sinkhorn_codes(scores, 0.05, n_iter)
    assert codes.dtype == dtype
    truth = swav(scores.double(), 0.05, n_iter)
    torch.testing.assert_close(codes.double(), truth, rtol=0, atol=tolerance)


def test_numpy_and_batches_and_out():
    scores = torch.stack([scores_of(seed=seed) for seed in range(3)])
    codes = sinkhorn_codes(scores.numpy())
    for batch, one in zip(codes, scores, strict=True):
        np.testing.assert_allclose(batch, swav(one, 0.05, 3), atol=1e-12)
    out = torch.empty_like(scores)
    assert sinkhorn_codes(scores, out=out) is out
    np.testing.assert_array_equal(out, sinkhorn_codes(scores))


def test_large_scores_neither_overflow_nor_vanish():
    """A shift of all changes nothing; in float16 the published loop is infinite at once."""
    scores = scores_of(dtype=torch.float16)
    assert not swav(scores, 0.05, 3).isfinite().all()
    shifted = scores_of() + 1e4
    torch.testing.assert_close(
        sinkhorn_codes(shifted), sinkhorn_codes(scores_of()), rtol=0, atol=1e-9
    )
    far = torch.tensor([[0.0, 0.1], [-300.0, -300.1], [0.3, 0.0]])
    assert sinkhorn_codes(far).sum(1).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("of", [int, torch.tensor], ids=["int", "tensor"])
def test_only_valid_rows_count(of):
    scores = scores_of()
    codes = sinkhorn_codes(scores, n_valid=of(60))
    torch.testing.assert_close(codes[:60], swav(scores[:60], 0.05, 3))
    assert not codes[60:].any()
    ragged = sinkhorn_codes(torch.stack([scores, scores]), n_valid=torch.tensor([96, 60]))
    torch.testing.assert_close(ragged[1], codes)
    torch.testing.assert_close(ragged[0], swav(scores, 0.05, 3))


def test_a_graph_without_breaks_serves_all_batch_sizes():
    graphs = []

    def count(module, _):
        graphs.append(module)
        return module.forward

    compiled = torch.compile(sinkhorn_codes, fullgraph=True, dynamic=True, backend=count)
    for b in (64, 65, 96):
        scores = scores_of(b, dtype=torch.float32)
        torch.testing.assert_close(compiled(scores), sinkhorn_codes(scores))
    assert len(graphs) == 1


def in_parts(rank, size, group):
    scores = scores_of()
    return sinkhorn_codes(scores[:30] if rank == 0 else scores[30:], process_group=group)


def test_two_processes_give_the_codes_of_one(tmp_path):
    parts = sharded.run(tmp_path, 2, in_parts)
    torch.testing.assert_close(torch.cat(parts), swav(scores_of(), 0.05, 3), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0]],), TypeError, "got list"),
        ((np.ones((2, 2), int),), TypeError, "got int64"),
        ((np.ones(3),), ValueError, r"got \(3,\)"),
        ((np.ones((2, 2)), 0.0), ValueError, "epsilon must be finite and > 0, got 0.0"),
        ((np.ones((2, 2)), 0.1, 0), ValueError, "n_iter must be an integer >= 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        sinkhorn_codes(*arguments)
