"""The PTX that nvcc and Triton make, executed: values, bounds, alignment, races, traffic.

What a GPU's own compiler and clock do with it is not seen here. Shapes are tiny: an instruction of
a block takes the interpreter some microseconds.
"""

import math
import shutil

import pytest
import torch
from cuda_compiler import compile_ptx
from machines import SOURCES
from ptx import Machine, PtxError
from ptx_machine import PtxKernels, TritonPtxKernels

from sinkhorn_ot.backends.gpu.kept import WORDS_PER_ENTRY
from sinkhorn_ot.backends.gpu.minibatch import DeviceMinibatch
from sinkhorn_ot.backends.gpu.passes import DevicePasses
from sinkhorn_ot.backends.minibatch import ArrayMinibatch
from sinkhorn_ot.backends.reference import ReferencePasses
from sinkhorn_ot.passes import REACH, Problem

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module", params=["cuda-80", "cuda-90", "triton-80", "triton-90"])
def kernels(request):
    kind, arch = request.param.split("-")
    if kind == "triton":
        return TritonPtxKernels(int(arch))
    library, ptx = map(request.getfixturevalue, ("host_library", "ptx"))
    return PtxKernels(library, lambda unit: ptx(unit, int(arch)))


def both(kernels, logits, a=None):
    k = logits.shape[1]
    problem = Problem(logits, a, torch.full((k,), 1 / k, dtype=torch.float64), 0.3)
    return DevicePasses(problem, kernels), ReferencePasses(problem)


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


# several rows to a warp, a row to a warp, warps to a row; vectors that fit, and those that do not
@pytest.mark.parametrize("size", [(11, 29), (9, 128), (5, 300), (3, 1000)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reads_equal_the_reference(kernels, dtype, size):
    logits, g = normal(*size, dtype=dtype), normal(size[1], seed=1)
    ours, reference = both(kernels, logits)
    truth = reference.read(g, assign=True)
    for exact in (False, True):
        reading = ours.read(g, exact=exact, assign=True)
        tolerance = 1e-12 if exact or dtype == torch.float64 else 4e-6
        torch.testing.assert_close(reading.log_mass, truth.log_mass, rtol=0, atol=tolerance)
        torch.testing.assert_close(reading.f, truth.f, rtol=0, atol=tolerance)
        assert (reading.labels == truth.labels).all()
    plain = ours.read(g).log_mass
    torch.testing.assert_close(plain, truth.log_mass, rtol=0, atol=4e-6)


def test_rows_in_chunks_equal_the_reference(kernels):
    logits, g = normal(2, 9001, dtype=torch.float32), normal(9001, seed=1)
    ours, reference = both(kernels, logits)
    truth, reading = reference.read(g, assign=True), ours.read(g, assign=True)
    torch.testing.assert_close(reading.log_mass, truth.log_mass, rtol=0, atol=4e-6)
    assert (reading.labels == truth.labels).all()


def test_the_log_domain_and_bad_rows(kernels):
    """What waits behind gates."""
    logits = normal(20, 9, dtype=torch.float32)
    logits[:, 4:] -= 1e3
    ours, reference = both(kernels, logits)
    zero = torch.zeros(9, dtype=torch.float64)
    truth = reference.read(zero).log_mass
    torch.testing.assert_close(ours.read(zero).log_mass, truth, rtol=1e-12, atol=0)
    logits[7, 2] = torch.nan
    ours, _ = both(kernels, logits)
    assert ours.read(zero).log_mass.isnan().any()
    assert ours.first_bad_row() == 7


@pytest.mark.parametrize("k", [21, 300])
def test_kept_entries_equal_plain_arrays(kernels, k):
    logits, (g, delta, v) = normal(12, k, dtype=torch.float32), normal(3, k, seed=1)
    ours, _ = both(kernels, logits)
    kept = ours.keep(12 * k * WORDS_PER_ENTRY)
    ours.read(g, kept=kept)
    p = torch.softmax((logits.double() + g) / 0.3, 1)
    large = p >= math.exp(-REACH) * p.amax(1, keepdim=True)
    assert 0.1 < large.double().mean() < 0.9
    assert kept.counts.words == WORDS_PER_ENTRY * int(large.sum())
    p = p * large * delta.exp()
    p /= p.sum(1, keepdim=True)
    m, s, weight = kept.mass(delta)
    assert weight.item() == 12
    torch.testing.assert_close(m, p.sum(0), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(s, (p**2).sum(0), rtol=1e-5, atol=1e-8)
    product = ((p @ v)[:, None] * p).sum(0)
    torch.testing.assert_close(kept.second_moment(v), product, rtol=1e-5, atol=1e-5)


def test_kept_entries_of_rows_in_chunks(kernels):
    """One by one: products with them are those of short rows."""
    logits, g = normal(2, 9001, dtype=torch.float32), normal(9001, seed=1)
    ours, _ = both(kernels, logits)
    kept = ours.keep(2 * 9001 * WORDS_PER_ENTRY)
    ours.read(g, kept=kept)
    p = torch.softmax((logits.double() + g) / 0.3, 1)
    rows = kept.by_row
    for row, (begin, end) in enumerate(zip(rows.begin, rows.end, strict=True)):
        found = torch.zeros(9001, dtype=torch.float64)
        found.index_add_(0, rows.index[begin:end].long(), rows.value[begin:end].double())
        least = math.exp(-REACH) * p[row].max()
        sure = (p[row] / least).log().abs() > 1e-4  # not on the very edge
        torch.testing.assert_close(
            found[sure], (p[row] * (p[row] > least))[sure], rtol=1e-5, atol=0
        )


# rows that a program holds, which it reads once in an iteration; and rows in chunks
@pytest.mark.parametrize(
    ("dtype", "k"), [*((dtype, 29) for dtype in DTYPES), (DTYPES[1], 300), (DTYPES[3], 4100)]
)
def test_codes_of_a_minibatch_equal_the_array_operations(kernels, dtype, k):
    """Of which some rows hold NaN and do not count."""
    scores = normal(2, 3, k).mul(0.3).clamp(-1, 1).to(dtype)
    scores[1, 2:] = torch.nan
    found, expected = torch.empty_like(scores), torch.empty_like(scores, dtype=torch.float64)
    n_valid = torch.tensor([3, 2])
    for step, out in (
        (DeviceMinibatch(scores, 0.05, n_valid, kernels), found),
        (ArrayMinibatch(scores.double(), 0.05, n_valid), expected),
    ):
        step.last(step.next(step.first()[0]), out)
    tolerance = {8: 1e-12, 4: 1e-6, 2: 2e-3}[dtype.itemsize]
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)


def test_many_batches_lie_along_the_first_axis_of_a_grid(kernels, monkeypatch):
    """CUDA starts no grid of more than 65,535 blocks along its second axis."""
    grids = []
    monkeypatch.setattr(Machine, "launch", lambda self, kernel, grid, *rest: grids.append(grid))
    kernels.minibatch_finish(torch.empty(70_000, 1, 40), torch.empty(70_000, 40))
    assert [grid[0] for grid in grids] == [70_000]
    assert max(grids[0][1:]) <= 65_535


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_matrix_is_read_once(kernels, dtype):
    """And, where rows are aligned, 16 bytes at a time: every sector is asked for once."""
    logits, g = normal(16, 512, dtype=dtype), normal(512, seed=1)
    ours, _ = both(kernels, logits)
    kernels.launches.clear()
    ours.read(g)
    x = logits.untyped_storage().data_ptr()
    ran = [(interpreter, places) for _, interpreter, places, *_ in kernels.launches]
    traffic = [interpreter.traffic[places[x]] for interpreter, places in ran if x in places]
    size = logits.numel() * logits.element_size()
    assert sum(t.bytes_read for t in traffic) == size
    assert sum(t.sectors_read for t in traffic) == size // 32
    assert sum(t.bytes_written for t in traffic) == 0


PLANTED = {
    "a missing barrier": (
        "groups.cuh",
        "if (threadIdx.x % kWarp == 0) board[threadIdx.x / kWarp] = v;\n  __syncthreads();",
        "if (threadIdx.x % kWarp == 0) board[threadIdx.x / kWarp] = v;",
        (RuntimeError, "race"),
    ),
    "a plain add across blocks": (
        "read_rows.cuh",
        "p.sums + blockIdx.x * (p.k + 1) + chunk",
        "p.sums + chunk",
        (RuntimeError, "race"),
    ),
    "a row read one entry too far": (
        "rows.cuh", "if (C::column(j) < left)", "if (C::column(j) <= left)",
        (PtxError, "out of bounds"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_fault_is_found(what, host_library, nvcc, tmp_path):
    """Were these not found, the tests above would say less than they seem to."""
    file, right, wrong, (error, message) = PLANTED[what]
    sources = tmp_path / "cuda"
    shutil.copytree(SOURCES, sources)
    text = (sources / file).read_text()
    assert text.count(right) == 1, "the line to change is not there any more"
    (sources / file).write_text(text.replace(right, wrong))
    kernels = PtxKernels(host_library, lambda unit: compile_ptx(nvcc, unit, 80, tmp_path, sources))
    logits = normal(40, 600, dtype=torch.float32)
    with pytest.raises(error, match=message):
        both(kernels, logits[:, :599].contiguous())[0].read(normal(599, seed=1))
