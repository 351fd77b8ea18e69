"""The `cpu` backend against the float64 reference, at every SIMD level, dtype, size and stride."""

import ml_dtypes
import numpy as np
import pytest
import torch

from sinkhorn_ot import _cpu, sinkhorn
from sinkhorn_ot.arrays import place_of
from sinkhorn_ot.backends import named
from sinkhorn_ot.backends.reference import ReferencePasses
from sinkhorn_ot.group import Group, GroupPasses
from sinkhorn_ot.passes import Problem, sampled_row

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]
# odd sizes around the vector widths, the 64-row runs and 256-row blocks and the 512-column runs
SIZES = [(1, 1), (1, 7), (3, 2), (17, 15), (300, 33), (257, 129), (515, 64), (40, 5001)]


def both(logits, a=None, b=None, epsilon=0.3):
    b = np.full(logits.shape[1], 1 / logits.shape[1]) if b is None else b
    problem = Problem(logits, a, b, epsilon)
    cpu = GroupPasses(problem, Group(), named("cpu", place_of(logits)))
    return cpu, ReferencePasses(problem)


def float32_mass(logits, g, epsilon):
    """The column masses by the same formulas in float32: the yardstick of the quick pass."""
    x = logits.astype(np.float32) + g.astype(np.float32)
    weights = np.exp((x - x.max(1, keepdims=True)) / np.float32(epsilon))
    return (weights / weights.sum(1, keepdims=True)).mean(0, dtype=np.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_passes_equal_the_reference(simd, dtype, size, normal):
    logits = normal(*size).astype(dtype)
    g = normal(1, size[1], seed=1)[0]
    cpu, reference = both(logits)
    true_f, true_labels = reference.read(g, assign=True)[2:]
    truth = np.exp(reference.read(g).log_mass)

    log_mass, _, f, labels = cpu.read(g, exact=True, assign=True)
    exact = np.exp(log_mass)
    np.testing.assert_allclose(exact, truth, rtol=1e-12)

    np.testing.assert_array_equal(labels, true_labels)
    np.testing.assert_allclose(f, true_f, rtol=1e-12, atol=1e-12)

    log_mass, _, f, labels = cpu.read(g, exact=False, assign=True)
    allowed = 2 * np.abs(float32_mass(logits, g, 0.3) - truth).max() + 2e-7 * truth.max()
    assert np.abs(np.exp(log_mass) - truth).max() <= allowed
    np.testing.assert_array_equal(labels, true_labels)
    np.testing.assert_allclose(f, true_f, atol=3e-7)


def test_log_pass_equals_the_reference(simd, normal):
    """Masses far below the smallest float are right too (the log-domain kernel)."""
    logits = normal(300, 37)
    logits[:, 5:] -= 1e3
    cpu, reference = both(logits, epsilon=0.5)
    truth = reference.read(np.zeros(37)).log_mass
    assert truth.min() < -800  # exp() of this is zero even in float64
    np.testing.assert_allclose(cpu.read(np.zeros(37)).log_mass, truth, rtol=1e-12)
    assert cpu.reads == 2  # the linear pass that underflowed is counted


@pytest.mark.parametrize("n", [1, 3, 257])
@pytest.mark.parametrize("size", [1e10, -1e10, 1e30])
def test_huge_rows_where_rows_go_in_pairs(simd, n, size, normal):
    """The odd row at the end of a block of the two-row kernel, far beyond float32's exponents."""
    logits = normal(n, 5).astype(np.float32)
    logits[[n // 2, -1]] += np.float32(size)  # blocks of 257 rows are 0 to 128 and 129 to 256
    cpu, _ = both(logits)
    g = normal(1, 5, seed=1)[0]
    shifted = logits.astype(np.float64) + g  # the log-domain reference loses f in rows of 1e30
    plan = np.exp((shifted - shifted.max(1, keepdims=True)) / 0.3)
    truth = (plan / plan.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(np.exp(cpu.read(g).log_mass), truth, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 7, 257])
def test_gathered_columns_where_rows_go_in_pairs(simd, n, normal):
    """Columns that are not contiguous are copied row by row; odd numbers of rows included."""
    logits = normal(n, 40).astype(np.float32)[:, ::2]
    cpu, reference = both(logits)
    g = normal(1, 20, seed=1)[0]
    truth, *_, labels = reference.read(g, assign=True)
    reading = cpu.read(g, assign=True)
    np.testing.assert_allclose(reading.log_mass, truth, atol=1e-5)
    np.testing.assert_array_equal(reading.labels, labels)


def test_sample_weights_equal_the_reference(simd, normal):
    logits = normal(700, 21).astype(np.float32)
    a = np.random.default_rng(3).dirichlet(np.ones(700))
    a[5] = 0
    a /= a.sum()
    cpu, reference = both(logits, a=a)
    g = normal(1, 21, seed=1)[0]
    truth = reference.read(g).log_mass
    np.testing.assert_allclose(cpu.read(g, exact=True).log_mass, truth, rtol=1e-12)
    np.testing.assert_allclose(cpu.read(g).log_mass, truth, atol=1e-6)
    np.testing.assert_allclose(
        cpu.read(g, exact=True, assign=True).f, reference.read(g, assign=True).f, rtol=1e-12
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_every_16_bit_value_is_read_exactly(simd, dtype):
    """All 65,536 bit patterns, denormals and infinities included, widen as NumPy widens them."""
    values = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        values = values[~np.isnan(values.astype(np.float64)) & (values != np.inf)]
    logits = np.stack([values, np.zeros_like(values)], 1)
    cpu, reference = both(logits, epsilon=1.0)
    *_, f, labels = cpu.read(np.zeros(2), exact=True, assign=True)
    *_, true_f, true_labels = reference.read(np.zeros(2), assign=True)
    np.testing.assert_array_equal(labels, true_labels)
    np.testing.assert_allclose(f, true_f, rtol=1e-13, atol=1e-13)


LAYOUTS = {
    "row slice": lambda x: x[::3],
    "column slice": lambda x: x[:, 2:31],
    "column step": lambda x: x[:, ::2],
    "fortran": lambda x: np.asfortranarray(x),
    "reversed": lambda x: x[::-1, ::-1],
    "broadcast rows": lambda x: np.broadcast_to(x[0], (50, x.shape[1])),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(layout, normal):
    x = LAYOUTS[layout](normal(300, 40).astype(np.float32))
    before = x.copy()
    cpu, reference = (sinkhorn(x, tol=1e-9, backend=name) for name in ("cpu", "reference"))
    np.testing.assert_array_equal(cpu.labels, reference.labels)
    np.testing.assert_allclose(cpu.g, reference.g, atol=1e-7)
    np.testing.assert_array_equal(x, before)


def test_field_of_a_packed_record(normal):
    """Rows at addresses that are no multiple of the item size."""
    record = np.zeros(50, dtype=[("flag", "u1"), ("logits", "f4", (9,))])
    record["logits"] = normal(50, 9)
    assert not record["logits"].flags.aligned
    expected = sinkhorn(np.ascontiguousarray(record["logits"]))
    np.testing.assert_array_equal(sinkhorn(record["logits"]).labels, expected.labels)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_torch_equals_numpy(backend, dtype, normal):
    tensor = torch.tensor(normal(400, 23)).to(dtype)[:, 1:].requires_grad_()
    result = sinkhorn(tensor, backend=backend, epsilon=0.2, tol=1e-8)
    expected = sinkhorn(
        tensor.detach().double().numpy(), backend="reference", epsilon=0.2, tol=1e-8
    )
    assert isinstance(result.labels, torch.Tensor)
    assert result.labels.dtype == torch.int64
    assert result.g.dtype == result.f.dtype == torch.float64
    np.testing.assert_array_equal(result.labels.numpy(), expected.labels)
    np.testing.assert_allclose(result.g.numpy(), expected.g, atol=2e-6)
    assert result.plan(tensor).dtype == dtype


def test_torch_lazy_negation_is_read(normal):
    """A view whose storage holds the negated values."""
    x = torch.tensor(normal(100, 5))
    lazy = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert lazy.is_neg()
    torch.testing.assert_close(sinkhorn(lazy).labels, sinkhorn(x).labels)


def test_output_stays_on_the_device_of_the_logits(normal):
    x = torch.tensor(normal(20, 5))
    result = sinkhorn(x)
    with torch.device("meta"):  # a default device that is not the logits'
        again = sinkhorn(x)
        plan = again.plan(x)
    torch.testing.assert_close(again.g, result.g)
    assert plan.device == x.device


@pytest.mark.parametrize("n", [300, 5000])
def test_whole_solve_equals_the_reference(simd, n, normal):
    logits = normal(n, 50, std=0.5).astype(np.float32)
    cpu = sinkhorn(logits, tol=1e-10, max_iter=5000, backend="cpu")
    reference = sinkhorn(logits, tol=1e-10, max_iter=5000, backend="reference")
    np.testing.assert_allclose(cpu.g, reference.g, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(cpu.labels, reference.labels)
    assert cpu.converged
    assert reference.converged


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_a_strided_read_takes_the_rows_it_should(simd, dtype, normal):
    """One row of each seven, spread by the documented hash; masses and errors are of these."""
    logits = normal(1000, 33).astype(dtype)
    turn = np.arange(1000 // 7)
    fibonacci = (turn.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    rows = turn * 7 + (fibonacci % np.uint64(7)).astype(int)
    cpu, _ = both(logits)
    g = normal(1, 33, seed=1)[0]
    log_mass = cpu.read(g, stride=7).log_mass
    np.testing.assert_allclose(log_mass, both(logits[rows])[1].read(g).log_mass, atol=1e-6)
    assert cpu.reads == pytest.approx(1 / 7)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_kept_entries_equal_those_of_the_reference(simd, dtype, weighted, share, normal):
    """The same rows, and their masses, second moments and products against float64 arrays."""
    logits = normal(700, 21).astype(dtype)
    a = np.random.default_rng(3).dirichlet(np.ones(700)) if weighted else None
    cpu, reference = both(logits, a=a)
    g, delta, v = normal(3, 21, seed=1)
    ours, truth = cpu.local.keep(700 * 21 * 3), reference.keep(1 << 20)
    cpu.local.read(g, kept=ours, share=share)
    reference.read(g, kept=truth, share=share)
    assert ours.counts.rows == truth.counts.rows == pytest.approx(share * 700, abs=3)
    for mine, exact in zip(ours.mass(delta), truth.mass(delta), strict=True):
        np.testing.assert_allclose(mine, exact, rtol=2e-4, atol=1e-4)
    np.testing.assert_allclose(ours.second_moment(v), truth.second_moment(v), rtol=1e-3, atol=1e-3)


def test_some_rows_stand_for_all(normal):
    """Their masses are those of all rows, up to what so many random rows would be off by."""
    logits = normal(20_000, 30, std=0.3).astype(np.float32)
    cpu, _ = both(logits)
    kept = cpu.local.keep(60_000)
    mass = np.exp(cpu.local.read(np.zeros(30), kept=kept, share=0.05).log_mass)
    rows = kept.counts.rows
    assert rows == pytest.approx(1000, abs=3)
    m, s, weight = kept.mass(np.zeros(30))
    assert weight == pytest.approx(rows)
    noise = np.sqrt((s / rows - (m / rows) ** 2) / rows)
    assert (abs(m / rows - mass) < 5 * noise).all()


@pytest.mark.parametrize(
    "vector",
    [np.ones(4, np.float32), np.ones(8)[::2], np.ones(4, ">f8"), [1.0] * 4, None],
    ids=["float32", "strided", "swapped", "list", "None"],
)
def test_the_core_takes_no_vector_that_it_would_misread(vector):
    kept = _cpu.Kept(4, 1000, 7.0, "plain")
    with pytest.raises(TypeError, match="contiguous numpy"):
        kept.second_moment(vector, np.ones(4), np.empty(4), 1)


def test_the_core_takes_no_g_of_another_length(normal):
    passes, _ = both(normal(10, 4))
    with pytest.raises(ValueError, match="an array of 3 numbers, not 4"):
        passes.local.read(np.zeros(3))


def test_the_spread_is_that_within_rows_in_whatever_process_they_lie(normal):
    """Forbidden pairings and columns that are not used do not count, nor does a row's offset."""
    logits = normal(300, 100) * np.geomspace(1, 9, 300)[:, None] + 1e4 * normal(300, 1, seed=1)
    logits[normal(300, 100, seed=2) > 1] = -np.inf
    b = np.full(100, 1 / 99)
    b[7] = 0
    sample = logits[sampled_row(np.arange(10), 30)]
    rows = [row[(row > -np.inf) & (b > 0)] for row in sample]
    truth = np.sqrt(np.mean([row.var() for row in rows]))
    cpu = named("cpu", place_of(logits))
    for cut in (300, 130, 131, 1):
        parts = [
            Problem(part, None, b, 0.3, total=300, first=first)
            for first, part in ((0, logits[:cut]), (cut, logits[cut:]))
        ]
        spreads = [GroupPasses(part, Group(), cpu).spread() for part in parts]
        assert np.hypot(*spreads) == pytest.approx(truth, rel=1e-9)
