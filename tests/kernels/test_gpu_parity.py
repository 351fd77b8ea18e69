"""Reads and kept entries of the GPU kernels against float64, on every machine that can run them.

The same file runs on stand-ins (see machines.py) and on a GPU (``make test-gpu``).
"""

import math

import numpy as np
import pytest
import torch

from sinkhorn_ot.backends.gpu import cuda
from sinkhorn_ot.backends.gpu.kept import WORDS_PER_ENTRY
from sinkhorn_ot.backends.reference import ReferencePasses
from sinkhorn_ot.entropic.checks import room_for_entries
from sinkhorn_ot.passes import REACH, Problem

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
# around the widths of tiles (32, 128, 256, 8192 columns), odd ones that no vector fits, and rows
# that must be cut into chunks (9001 in float32, 5001 in float64)
SIZES = [(1, 1), (1, 7), (3, 2), (17, 32), (300, 33), (257, 129), (131, 264), (70, 1000),
         (9, 5001), (5, 9001)]  # fmt: skip
# of the log of a mass that is one entry of one row: float32 rounds exponents near -20 to 1e-6
SINGLE = 4e-6


def both(machine, logits, a=None, epsilon=0.3):
    b = torch.full((logits.shape[1],), 1 / logits.shape[1], dtype=torch.float64,
                   device=logits.device)  # fmt: skip
    problem = Problem(logits, a, b, epsilon)
    return machine.backend.passes(problem), ReferencePasses(problem)


def float32_mass(logits, g, epsilon=0.3):
    """The column masses by the same formulas in float32: the yardstick of the quick pass."""
    x = logits.to(torch.float32) + g.to(torch.float32)
    return torch.softmax(x / epsilon, 1).mean(0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_passes_equal_the_reference(machine, make, dtype, size):
    logits, g = make(*size, dtype=dtype), make(size[1], seed=1)
    ours, reference = both(machine, logits)
    truth = reference.read(g, assign=True)
    mass = truth.log_mass.exp()

    exact = ours.read(g, exact=True, assign=True)
    torch.testing.assert_close(exact.log_mass.exp(), mass, rtol=1e-12, atol=1e-16)
    torch.testing.assert_close(exact.f, truth.f, rtol=1e-12, atol=1e-12)
    assert (exact.labels == truth.labels).all()

    quick = ours.read(g, assign=True)
    allowed = 2 * (float32_mass(logits, g) - mass).abs().max() + 2e-7 * mass.max()
    assert (quick.log_mass.exp() - mass).abs().max() <= allowed
    torch.testing.assert_close(quick.f, truth.f, rtol=0, atol=3e-7)
    assert (quick.labels == truth.labels).all()
    # a read without labels is another kernel
    plain = ours.read(g).log_mass
    assert (plain.exp() - mass).abs().max() <= allowed
    exact_reads, quick_reads = (min(ours.tile(exact).chunks, 2) for exact in (True, False))
    assert ours.reads == exact_reads + 2 * (exact_reads if dtype == DTYPES[0] else quick_reads)


def test_the_longest_rows(machine, make):
    """262,144 clusters: column numbers beyond 16 bits, many chunks."""
    logits, g = make(2, 1 << 18, dtype=torch.float32), make(1 << 18, seed=1)
    ours, reference = both(machine, logits)
    truth, reading = reference.read(g, assign=True), ours.read(g, assign=True)
    torch.testing.assert_close(reading.log_mass, truth.log_mass, rtol=0, atol=2 * SINGLE)
    assert (reading.labels == truth.labels).all()


def test_masses_far_below_the_smallest_float(machine, make):
    """The read in the log domain starts by itself, and is counted."""
    logits = make(300, 37)
    logits[:, 5:] -= 1e3
    ours, reference = both(machine, logits, epsilon=0.5)
    zero = torch.zeros_like(logits[0])
    truth = reference.read(zero).log_mass
    assert truth.min() < -800  # exp() of this is zero even in float64
    torch.testing.assert_close(ours.read(zero).log_mass, truth, rtol=1e-12, atol=0)
    assert ours.reads == 3  # one for the row sums, one for the columns


@pytest.mark.parametrize("size", [1e10, -1e10, 1e30])
def test_rows_that_are_too_large_for_float32(machine, make, size):
    """The read in float64 starts by itself; its labels, f and masses replace the others."""
    logits = make(257, 5, dtype=torch.float32)
    logits[[128, -1]] += size
    ours, _ = both(machine, logits)
    g = make(5, seed=1)
    shifted = logits.double() + g  # the log-domain reference loses f in rows of 1e30
    plan = ((shifted - shifted.amax(1, keepdim=True)) / 0.3).exp()
    truth = (plan / plan.sum(1, keepdim=True)).mean(0)
    reading = ours.read(g, assign=True)
    torch.testing.assert_close(reading.log_mass.exp(), truth, rtol=1e-12, atol=0)
    assert (reading.labels == shifted.argmax(1)).all()
    assert ours.reads == 2


def test_potentials_that_are_too_large_for_float32(machine, make):
    logits, g = make(50, 40, dtype=torch.float32), 1e6 * make(40, seed=1)
    ours, reference = both(machine, logits)
    truth = reference.read(g, assign=True)
    reading = ours.read(g, assign=True)
    torch.testing.assert_close(reading.log_mass, truth.log_mass, rtol=1e-9, atol=1e-9)
    assert (reading.labels == truth.labels).all()


@pytest.mark.parametrize("size", [(700, 21), (9, 9001)], ids=str)
def test_sample_weights_equal_the_reference(machine, make, size):
    logits, g = make(*size, dtype=torch.float32), make(size[1], seed=1)
    a = make(size[0], seed=3).exp()
    a[5] = 0
    a /= a.sum()
    ours, reference = both(machine, logits, a=a)
    truth = reference.read(g, assign=True)
    exact = ours.read(g, exact=True, assign=True)
    torch.testing.assert_close(exact.log_mass, truth.log_mass, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(exact.f, truth.f, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.read(g).log_mass, truth.log_mass, rtol=0, atol=SINGLE)


@pytest.mark.parametrize("size", [(60, 21), (60, 300), (6, 9001)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_forbidden_pairings_and_unused_clusters(machine, make, dtype, size):
    """-inf here and there (a whole chunk of a long row too), and g of -inf where b is 0."""
    logits, g = make(*size, dtype=dtype), make(size[1], seed=1)
    logits[make(*size, seed=2) > 1] = -math.inf
    logits[1, : size[1] // 2 + 200 * (size[1] > 300)] = -math.inf
    g[3] = -math.inf
    ours, reference = both(machine, logits)
    truth = reference.read(g, assign=True)
    for exact in (False, True):
        reading = ours.read(g, exact=exact, assign=True)
        assert (reading.labels == truth.labels).all()
        torch.testing.assert_close(reading.log_mass, truth.log_mass, rtol=0, atol=SINGLE)
    once = [min(ours.tile(exact).chunks, 2) for exact in (dtype == DTYPES[0], True)]
    assert ours.reads == sum(once)  # nothing of this needs another read


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("size", [(60, 21), (60, 300), (6, 9001)], ids=str)
def test_the_first_bad_row_is_found(machine, make, value, size):
    """The masses are then no numbers, so that nobody goes on with them."""
    for dtype in (torch.float32, torch.float64):
        logits, g = make(*size, dtype=dtype), make(size[1], seed=1)
        for row in (4, 5):
            logits[row, slice(None) if value == -math.inf else 7] = value
        ours, _ = both(machine, logits)
        assert ours.first_bad_row() is None
        reading = ours.read(g, assign=True)
        assert reading.log_mass.isnan().any()
        assert ours.first_bad_row() == 4
        assert reading.labels.tolist()[4:6] == [-1, -1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_16_bit_value_is_read_exactly(machine, dtype):
    """All bit patterns, denormals and infinities included."""
    patterns = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype)
    values = patterns.double()
    values = patterns[~values.isnan() & (values != math.inf)].to(machine.device)
    logits = torch.stack([values, torch.zeros_like(values)], 1)
    ours, reference = both(machine, logits, epsilon=1.0)
    zero = torch.zeros(2, dtype=torch.float64, device=machine.device)
    truth = reference.read(zero, assign=True)
    reading = ours.read(zero, exact=True, assign=True)
    assert (reading.labels == truth.labels).all()
    torch.testing.assert_close(reading.f, truth.f, rtol=1e-13, atol=1e-13)


LAYOUTS = {
    "row slice": lambda x: x[::3],
    "aligned column slice": lambda x: x[:, 4:36],
    "odd end of aligned rows": lambda x: x[:, :37],
    "column slice": lambda x: x[:, 2:31],
    "column step": lambda x: x[:, ::2],
    "transposed": lambda x: x.t(),
    "broadcast rows": lambda x: x[0].expand(50, x.shape[1]),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(machine, make, layout, dtype):
    x = LAYOUTS[layout](make(60, 40, dtype=dtype))
    before = x.clone()
    g = make(x.shape[1], seed=1)
    ours, reference = both(machine, x)
    truth, reading = reference.read(g, assign=True), ours.read(g, assign=True)
    torch.testing.assert_close(reading.log_mass, truth.log_mass, rtol=0, atol=SINGLE)
    assert (reading.labels == truth.labels).all()
    assert x.equal(before)


def test_offsets_beyond_32_bits(machine, make):
    """Three rows, 2^30 entries apart: only what is touched takes memory on the stand-ins."""
    far = 1 << 30
    logits = torch.empty(2 * far + 40, dtype=torch.float16, device=machine.device)
    logits = logits.as_strided((3, 40), (far, 1))
    logits.copy_(make(3, 40))
    g = make(40, seed=1)
    ours, reference = both(machine, logits)
    truth, reading = reference.read(g, assign=True), ours.read(g, assign=True)
    torch.testing.assert_close(reading.log_mass, truth.log_mass, rtol=0, atol=SINGLE)
    assert (reading.labels == truth.labels).all()


def rows_of_a_sample(n, stride):
    """One row of each `stride`, spread by the documented hash."""
    turn = np.arange(n // stride)
    fibonacci = (turn.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    return turn * stride + (fibonacci % np.uint64(stride)).astype(int)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_strided_read_takes_the_rows_it_should(machine, make, dtype):
    logits, g = make(1000, 33, dtype=dtype), make(33, seed=1)
    rows = torch.tensor(rows_of_a_sample(1000, 7), device=machine.device)
    ours, _ = both(machine, logits)
    truth = both(machine, logits[rows])[1].read(g).log_mass
    torch.testing.assert_close(ours.read(g, stride=7).log_mass, truth, rtol=0, atol=SINGLE)
    assert ours.reads == pytest.approx(1 / 7)


def compare_kept(machine, logits, a, vectors):
    """Masses, second moments, weight and products against the probabilities themselves.

    Returns the passes, and the part of the entries that is kept.
    """
    (n, k), (g, delta, v) = logits.shape, vectors
    ours, _ = both(machine, logits, a=a)
    kept = ours.keep(n * k * WORDS_PER_ENTRY)
    ours.read(g, kept=kept)

    p = torch.softmax((logits.double() + g) / 0.3, 1)
    large = p >= math.exp(-REACH) * p.amax(1, keepdim=True)
    assert kept.counts.rows == n
    words = WORDS_PER_ENTRY * int(large.sum())
    assert kept.counts.words == pytest.approx(words, abs=120)  # some lie on the cut
    p = p * large * delta.exp()
    p = p / p.sum(1, keepdim=True)
    w = n * a
    m, s, weight = kept.mass(delta)
    edge = 0.02 * n * math.exp(-REACH)  # what entries on the cut may change
    torch.testing.assert_close(weight, w.sum().reshape(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(m, w @ p, rtol=1e-5, atol=edge)
    torch.testing.assert_close(s, w @ p**2, rtol=1e-5, atol=edge)
    torch.testing.assert_close(
        kept.second_moment(v), (w * (p @ v)) @ p, rtol=1e-5, atol=1e-6 * n + edge
    )
    return ours, large.double().mean()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("std", "least", "most"), [(0.15, 1, 1), (0.5, 0.5, 0.99), (2, 0.1, 0.4)])
def test_kept_entries_equal_plain_arrays(machine, make, dtype, weighted, std, least, most):
    """Where all entries of a row are within reach of its largest, most of them, and few."""
    logits, vectors = make(700, 21, dtype=dtype, std=std), make(3, 21, seed=1)
    vectors[0] *= std
    a = make(700, seed=3).exp() if weighted else torch.ones_like(logits[:, 0], dtype=torch.float64)
    _, part = compare_kept(machine, logits, a / a.sum(), vectors)
    assert least <= part <= most


@pytest.mark.parametrize(("dtype", "k"), [(torch.float32, 9001), (torch.float64, 5001)], ids=str)
def test_kept_entries_of_rows_in_chunks_equal_plain_arrays(machine, make, dtype, k):
    """A whole chunk that is forbidden, too."""
    logits, vectors = make(6, k, dtype=dtype, std=2.0), make(3, k, seed=1)
    logits[1, : k // 2 + 200] = -math.inf
    a = make(6, seed=3).exp()
    compare_kept(machine, logits, a / a.sum(), vectors)


@pytest.mark.parametrize("k", [21, 5001])
def test_kept_entries_of_rows_that_are_too_large_for_float32(machine, make, k):
    """What float64 counts replaces what float32 did, piece by piece."""
    logits, vectors = make(6, k, dtype=torch.float32), make(3, k, seed=1)
    logits[4] += 1e10
    a = torch.full_like(logits[:, 0], 1 / 6, dtype=torch.float64)
    ours, _ = compare_kept(machine, logits, a, vectors)
    reads_in_float64 = min(ours.tile(True).chunks, 2)
    assert float(ours.gated) == reads_in_float64 + 1  # and the one that kept the entries


def test_some_rows_stand_for_all(machine, make):
    """Rows are passed over where there is no room, evenly."""
    logits = make(4000, 30, std=0.3, dtype=torch.float32)
    ours, _ = both(machine, logits)
    kept = ours.keep(15_000 * WORDS_PER_ENTRY)
    zero = torch.zeros_like(logits[0], dtype=torch.float64)
    mass = ours.read(zero, kept=kept).log_mass.exp()
    rows, words, *_ = kept.counts
    assert 400 < rows <= 500
    assert words <= 15_000 * WORDS_PER_ENTRY
    m, s, weight = kept.mass(zero)
    assert weight.item() == rows
    noise = ((s / rows - (m / rows) ** 2) / rows).sqrt()
    assert ((m / rows - mass).abs() < 5 * noise).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_few_kept_entries_of_a_sample_of_rows_in_chunks(machine, make, dtype):
    """They are those of the same rows alone, up to their weight; some rows are passed over."""
    logits, g = make(90, 9001, dtype=dtype, std=0.2), make(9001, std=0.2, seed=1)
    a = make(90, seed=3).exp()
    rows = torch.tensor(rows_of_a_sample(90, 7), device=machine.device)
    room = 5 * 9001 * WORDS_PER_ENTRY
    found = []
    for x, masses, stride in ((logits, a, 7), (logits[rows], a[rows], 1)):
        passes, _ = both(machine, x, a=masses / a.sum())
        kept = passes.keep(room)
        passes.read(g, stride=stride, kept=kept)
        m, s, weight = kept.mass(0.1 * g)
        found.append((kept.counts, m / weight, s / weight))
    counts = found[0][0]
    assert counts == found[1][0]
    assert 2 <= counts.rows < len(rows) - 2
    assert counts.words <= room
    for one, other in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=0)


def peak_bytes(machine, work):
    """Return the most that tensors made by some work took at a time."""
    if machine.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        work()
    events = profile.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return max(np.cumsum([nbytes for _, nbytes in sorted(changes, key=lambda change: change[0])]))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "k"), [(10_000, 10), (40, 9001)])
def test_kept_entries_take_no_more_than_they_say(machine, make, n, k, weighted):
    """Few entries of very many rows, or of long ones: what telling which to keep takes.

    As a whole, and what is added by as many rows again.
    """
    if machine.backend.name == "triton" and machine.device == "cpu":
        pytest.skip("Triton's interpreter copies what it is given; the machine host shows this")
    words, zero = 1000 * WORDS_PER_ENTRY, make(k, std=0)
    took, allowed = [], []
    for rows in (n, 2 * n):
        logits = make(rows, k, dtype=torch.float32)
        a = make(rows, std=0) + 1 / rows if weighted else None
        ours, _ = both(machine, logits, a=a)
        kept = ours.keep(words)

        def work(ours=ours, kept=kept):
            for _ in range(2):
                ours.read(zero, assign=True, kept=kept)
                for product in (kept.mass, kept.second_moment):
                    product(zero)

        took.append(peak_bytes(machine, work))
        returned = 16 * rows  # labels and f
        allowed.append(returned + machine.backend.needs(logits, rows).besides + 4 * words)
    assert took[0] <= allowed[0]
    assert took[1] - took[0] <= allowed[1] - allowed[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_bits_every_time(machine, make, dtype):
    logits, g = make(500, 70, dtype=dtype), make(70, seed=1)
    first, second = (both(machine, logits)[0].read(g, assign=True) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.equal(other)


@pytest.mark.parametrize(
    ("n", "k"),
    [(1_000_000, 10), (2000, 1000), (1_000_000, 10_000), (5000, 10_000), (2000, 50_000),
     (3000, 1 << 18)],
)  # fmt: skip
def test_there_is_room_for_kept_entries(machine, monkeypatch, n, k):
    """On an H100, by default: of many short rows, of all of a small matrix, of long rows."""
    monkeypatch.setattr(cuda, "HOST_PROCESSORS", 132)
    logits = torch.empty((n, k), dtype=torch.float16, device="meta")
    words = room_for_entries(logits, n, None, machine.backend.needs(logits, n))
    assert words >= WORDS_PER_ENTRY * min(n * k // 2, 1 << 20)


def test_a_sample_of_rows_in_chunks(machine, make):
    logits, g = make(40, 9001, dtype=torch.float32), make(9001, seed=1)
    ours, _ = both(machine, logits)
    rows = torch.tensor(rows_of_a_sample(40, 7), device=machine.device)
    truth = both(machine, logits[rows])[1].read(g).log_mass
    torch.testing.assert_close(ours.read(g, stride=7).log_mass, truth, rtol=0, atol=SINGLE)
