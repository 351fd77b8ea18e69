"""The Triton kernels that go column by column, and those over kept entries.

`finish` adds up the slabs of a read, `read_log` and `finish_log` do both in the log domain, and
`add_segments` sums kept entries by row or by column. The rules that they keep are in
triton_read.py.
"""

# mypy: disable-error-code="import-untyped,import-not-found,no-untyped-def,untyped-decorator"

import triton
import triton.language as tl

from sinkhorn_ot.backends.gpu.triton_read import INFINITY, SIZES, float64_of, sampled, widened

#: A mass (in units of the mean row's) below this has lost entries to underflow.
UNDERFLOW = tl.constexpr(1e-25)
LOG_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _sum_of_slabs(sums, slabs, width, column, mask, SLABS: tl.constexpr, COLUMNS: tl.constexpr):
    total = tl.zeros([SLABS, COLUMNS], tl.float64)
    for first in range(0, slabs, SLABS):
        slab = (first + tl.arange(0, SLABS)).to(tl.int64)[:, None]
        total += tl.load(sums + slab * width + column, mask=mask & (slab < slabs), other=0.0)
    return tl.sum(total, axis=0)


@triton.jit(do_not_specialize=("n", "quick_slabs", "exact_slabs", "k"))
def finish(
    quick,
    exact,
    odd,
    g,
    out,
    low_mass,
    n: tl.int64,
    quick_slabs: tl.int64,
    exact_slabs: tl.int64,
    k: tl.int64,
    SLABS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Add the slabs: the log of the masses, which sum to 1, and the weight of all rows."""
    columns = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    c = columns[None, :]
    sums, slabs = quick, quick_slabs
    if odd is not None:  # noqa: SIM102
        if tl.load(odd) != 0:
            sums, slabs = exact, exact_slabs
    total = _sum_of_slabs(sums, slabs, k + 1, c, c <= k, SLABS, COLUMNS)
    # the weight of all rows is in the last column: the same sum in every lane
    last = tl.zeros([1, COLUMNS], tl.int64) + k
    weight = _sum_of_slabs(sums, slabs, k + 1, last, c <= k, SLABS, COLUMNS)
    mass = total / weight
    tl.store(out + columns, tl.where(columns < k, tl.log(mass), weight), mask=columns <= k)
    allowed = tl.load(g + columns, mask=columns < k, other=-INFINITY) > -INFINITY
    low = allowed & (mass * n.to(tl.float64) < UNDERFLOW)
    if tl.max(low.to(tl.int32), axis=0) > 0:
        tl.atomic_or(low_mass, 1)


@triton.jit
def _add_powers(top, total, terms, factors):
    """Add factors * 2^terms to total * 2^top; all of one shape."""
    larger = tl.maximum(top, terms)
    shift = tl.where(larger == -INFINITY, 0.0, larger)
    total = total * tl.exp2(top - shift) + factors * tl.exp2(terms - shift)
    return larger, total


@triton.jit
def _fold_powers(top, total):
    """Add the rows of total * 2^top."""
    largest = tl.max(top, axis=0)
    shift = tl.where(largest == -INFINITY, 0.0, largest)
    return largest, tl.sum(total * tl.exp2(top - shift[None, :]), axis=0)


@triton.jit(do_not_specialize=("exact_rate_bits", *SIZES))
def read_log(
    x,
    g,
    f,
    gate,
    tops,
    totals,
    exact_rate_bits: tl.int64,
    row_stride: tl.int64,
    col_stride: tl.int64,
    stride: tl.int64,
    count: tl.int64,
    rows_per_block: tl.int64,
    K: tl.constexpr,
    SAMPLED: tl.constexpr,
    UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The column masses in the log domain, of rows whose f is known."""
    if tl.load(gate) == 0:
        return
    block = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    real = columns < K
    at = columns.to(tl.int64)[None, :]
    if not UNIT:
        at = at * col_stride
    potential = tl.load(g + columns, mask=real, other=0.0)
    start = block * rows_per_block
    stop = tl.minimum(start + rows_per_block, count)
    top = tl.full([ROWS, COLUMNS], -INFINITY, tl.float64)
    total = tl.zeros([ROWS, COLUMNS], tl.float64)
    for turn in range(start, stop, ROWS):
        j = (turn + tl.arange(0, ROWS)).to(tl.int64)
        inside = j < stop
        i = sampled(j, stride, SAMPLED)
        address = x + (i * row_stride)[:, None] + at
        held = inside[:, None] & real[None, :]
        values = widened(tl.load(address, mask=held, other=0.0)).to(tl.float64)
        own = tl.load(f + i, mask=inside, other=0.0)
        terms = (values + potential[None, :] + own[:, None]) * float64_of(exact_rate_bits)
        terms = tl.where(held, terms, -INFINITY)
        top, total = _add_powers(top, total, terms, 1.0)
    top, total = _fold_powers(top, total)
    tl.store(tops + block * K + columns, top, mask=real)
    tl.store(totals + block * K + columns, total, mask=real)


@triton.jit(do_not_specialize=("n", "slabs", "k"))
def finish_log(
    tops,
    totals,
    gate,
    out,
    n: tl.int64,
    slabs: tl.int64,
    k: tl.int64,
    SLABS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Add what `read_log` left: f holds the rows' weights as parts of 1, the slabs n times that."""
    if tl.load(gate) == 0:
        return
    columns = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    top = tl.full([SLABS, COLUMNS], -INFINITY, tl.float64)
    total = tl.zeros([SLABS, COLUMNS], tl.float64)
    for first in range(0, slabs, SLABS):
        slab = (first + tl.arange(0, SLABS)).to(tl.int64)[:, None]
        held = (slab < slabs) & (columns < k)[None, :]
        spot = slab * k + columns[None, :]
        terms = tl.load(tops + spot, mask=held, other=-INFINITY)
        factors = tl.load(totals + spot, mask=held, other=0.0)
        top, total = _add_powers(top, total, terms, factors)
    top, total = _fold_powers(top, total)
    log_mass = tl.log(total) + top * LOG_2 - tl.log(tl.load(out + k) / n.to(tl.float64))
    tl.store(out + columns, log_mass, mask=columns < k)


@triton.jit(do_not_specialize=("segments",))
def add_segments(
    begin,
    end,
    value,
    index,
    p,
    q,
    first,
    second,
    segments: tl.int64,
    SEGMENTS: tl.constexpr,
    LANES: tl.constexpr,
):
    """The sums over the entries of each segment, in an order of their own: no atomics."""
    segment = tl.program_id(0).to(tl.int64) * SEGMENTS + tl.arange(0, SEGMENTS)
    inside = segment < segments
    begins = tl.load(begin + segment, mask=inside, other=0)
    ends = tl.load(end + segment, mask=inside, other=0)
    sums = tl.zeros([SEGMENTS, LANES], tl.float64)
    squares = tl.zeros([SEGMENTS, LANES], tl.float64)
    for offset in range(0, tl.max(ends - begins, axis=0), LANES):
        j = begins[:, None] + offset + tl.arange(0, LANES)[None, :]
        held = j < ends[:, None]
        v = tl.load(value + j, mask=held, other=0.0).to(tl.float64)
        i = tl.load(index + j, mask=held, other=0)
        sums += v * tl.load(p + i, mask=held, other=0.0)
        if q is not None:
            squares += v * v * tl.load(q + i, mask=held, other=0.0)
    tl.store(first + segment, tl.sum(sums, axis=1), mask=inside)
    if q is not None:
        tl.store(second + segment, tl.sum(squares, axis=1), mask=inside)
