"""The passes over minibatches of the GPU kernels against float64, on every machine.

The same file runs on stand-ins (see machines.py) and on a GPU (``make test-gpu``).
"""

import pytest
import torch

from sinkhorn_ot.backends.gpu.minibatch import DeviceMinibatch
from sinkhorn_ot.backends.gpu.triton import TritonKernels, interpreted
from sinkhorn_ot.backends.minibatch import ArrayMinibatch

TOLERANCES = {
    torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-3,
    # half of the last place; Triton's interpreter cuts where compiled code rounds, as
    # test_ptx_kernels.py sees
    torch.bfloat16: 4e-3 if interpreted() else 2e-3,
}  # fmt: skip
# around the widths of tiles, odd ones that no vector fits, rows that are cut into chunks
SIZES = [(1, 1), (16, 7), (70, 33), (40, 264), (33, 1000), (20, 3000), (9, 5001), (5, 9001)]


def codes(make, scores, n_valid=None, n_iter=3, out=None):
    step = make(scores, 0.05, n_valid)
    masses, _ = step.first()
    for _ in range(n_iter - 1):
        masses = step.next(masses)
    out = torch.full_like(scores, torch.nan) if out is None else out
    step.last(masses, out)
    return out


def truth(scores, n_valid=None, n_iter=3):
    return codes(ArrayMinibatch, scores.double(), n_valid, n_iter)


@pytest.fixture
def step(machine):
    """What a user of that machine gets: its kernels, or without any the array operations."""
    return machine.backend.minibatch or ArrayMinibatch


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_codes_equal_the_array_operations(step, make, dtype, size):
    scores = make(1, *size, std=0.3).clamp(-1, 1).to(dtype)
    for n_iter in (1, 3):
        found = codes(step, scores, n_iter=n_iter).double()
        expected = truth(scores, n_iter=n_iter)
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCES[dtype])


@pytest.mark.parametrize("k", [40, 5001])
def test_batches_with_rows_that_do_not_count(step, make, k):
    """They may hold anything, and get codes of 0; a batch may have none that count."""
    scores = make(4, 12, k, std=0.3, dtype=torch.float32)
    n_valid = torch.tensor([12, 5, 0, 40], device=scores.device)
    scores[1, 5:], scores[2] = torch.nan, torch.inf
    found = codes(step, scores, n_valid)
    assert not found[1, 5:].any()
    assert not found[2].any()
    for batch in (0, 1, 3):
        count = min(int(n_valid[batch]), 12)
        expected = truth(scores[batch : batch + 1, :count])
        torch.testing.assert_close(found[batch, :count].double(), expected[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_and_columns_may_lie_anywhere(step, make, dtype):
    wide = make(2, 97, 48, std=0.3).clamp(-1, 1).to(dtype)
    scores = wide[:, 1::2].mT  # columns 48 apart
    out = torch.zeros_like(wide)[:, ::2].mT[..., :-1]
    found = codes(step, scores, out=out)
    torch.testing.assert_close(found.double(), truth(scores), rtol=0, atol=TOLERANCES[dtype])
    aligned = scores.contiguous()
    assert torch.equal(codes(step, aligned, out=aligned), found)


def test_large_scores_neither_overflow_nor_vanish(step, make):
    scores = make(1, 30, 50, std=0.3, dtype=torch.float32)
    far = scores.clone()
    far[0, 7] -= 300.0
    found = codes(step, far)
    torch.testing.assert_close(found.sum(2), torch.ones_like(found[..., 0]))
    shifted = (scores.bfloat16().float() + 1024.0).bfloat16()
    expected = truth(shifted)
    tolerance = TOLERANCES[torch.bfloat16]
    torch.testing.assert_close(codes(step, shifted).double(), expected, rtol=0, atol=tolerance)


def test_first_masses_and_largest_scores(step, make):
    """What processes agree upon and add up."""
    scores = make(2, 30, 50, std=0.3, dtype=torch.float32)
    masses, largest = step(scores, 0.05, None).first()
    torch.testing.assert_close(largest, scores.amax((1, 2)), rtol=0, atol=0)
    expected = ((scores.double() - largest[:, None, None]) / 0.05).exp().sum(1)
    torch.testing.assert_close(masses, expected, rtol=1e-5, atol=0)


def test_no_rows(step, make):
    """As a process may have."""
    masses, largest = step(make(1, 0, 5, dtype=torch.float32), 0.05, None).first()
    assert masses.tolist() == [[0.0] * 5]
    assert largest.tolist() == [-torch.inf]


@pytest.mark.parametrize("k", [300, 5001])
def test_nan_is_not_hidden(step, make, k):
    scores = make(1, 20, k, std=0.3, dtype=torch.float32)
    scores[0, 3, 5] = torch.nan
    assert codes(step, scores).isnan().all()


def test_the_same_bits_every_time(step, make):
    scores = make(3, 100, 700, std=0.3, dtype=torch.float32)
    assert torch.equal(codes(step, scores), codes(step, scores))


@pytest.mark.parametrize("k", [2000, 5001])
def test_rows_sum_to_one_where_many_columns_have_no_mass(step, make, k):
    """Their inverses are so small that a row of them can be added up in float32."""
    scores = make(1, 3, k, std=0.0, dtype=torch.float32)
    scores[0, 0, 0] = 10.0
    found = codes(step, scores)
    torch.testing.assert_close(found.double(), truth(scores), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.sum(2), torch.ones_like(found[..., 0]))


def test_grids_have_room_for_many_batches():
    """CUDA starts no grid of more than 65,535 programs along its second axis."""
    grids = []

    class Recorder(TritonKernels):
        def _queue(self, name, grid, *_, **__):
            grids.append(grid)

    for k in (40, 5001):
        scores = torch.empty(70_000, 2, k, device="meta")
        step = DeviceMinibatch(scores, 0.05, None, Recorder())
        step.last(step.next(step.first()[0]), scores)
    assert len(grids) == 6 + 8
    assert max(max(grid[1:], default=1) for grid in grids) <= 65_535
