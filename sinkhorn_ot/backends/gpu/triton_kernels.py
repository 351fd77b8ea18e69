"""The Triton kernels: those of csrc/cuda, in tiles of rows times columns.

An argument that is None is left out of the kernel, with all that it would do; arguments in capitals
are constants. See triton.py for who launches them, and csrc/cuda/passes.hpp for what they do.

They run in every Triton from 3.2 on, compiled and interpreted. Hence these rules:

- A float64 argument comes as the int64 of its bits, and `_float64` makes the number of it: Triton
  before 3.4 hands every Python float over as a float32.
- A float32 argument is a plain Python number in the interpreter: assigning it to a name would round
  it, or widen it.
- A scalar condition is neither a mask nor part of one: it stands in an ``if``, or chooses a number
  that columns are compared with. The interpreter of 3.2 forgets a scalar mask that is false, and
  that of 3.9 refuses a mask that a scalar was broadcast into.
- An ``and`` with a condition that is known at compile time is two ``if``, and no three conditions
  are chained: 3.2 evaluates both sides, and takes no chains.
"""

# mypy: disable-error-code="import-untyped,import-not-found,no-untyped-def,untyped-decorator"

import triton
import triton.language as tl

GRID = tl.constexpr(1.0 / 1024)
#: |top| beyond this: high - top may no longer be exact, and the row takes the float64 way.
FAST_RANGE = tl.constexpr(8192.0)
#: Kept entries below this are too small to count.
SMALLEST = tl.constexpr(1e-37)
#: A mass (in units of the mean row's) below this has lost entries to underflow.
UNDERFLOW = tl.constexpr(1e-25)
FIBONACCI = tl.constexpr(0x9E3779B97F4A7C15)
INFINITY = tl.constexpr(float("inf"))
NAN = tl.constexpr(float("nan"))
LOG_2 = tl.constexpr(0.6931471805599453)
NO_ROW = tl.constexpr(1 << 62)

#: Sizes and strides, of which a kernel must not be compiled for each value.
SIZES = ("row_stride", "col_stride", "stride", "count", "rows_per_block")
PIECES = ("pieces", "step")
#: Numbers of a solve, for which the same is true.
NUMBERS = ("n", "epsilon_bits", "share_bits", "exact_rate_bits")


@triton.jit
def _float64(bits):
    """The float64 number that has these bits."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def _on_grid(x):
    return tl.floor(x / GRID + 0.5) * GRID


@triton.jit
def _sampled(turn, stride, SAMPLED: tl.constexpr):
    """The rows of a sample: one of each `stride` neighbours (Fibonacci hashing), as on the CPU."""
    row = turn
    if SAMPLED:
        hashed = ((turn.to(tl.uint64) * FIBONACCI) >> 32).to(tl.int64)
        row = turn * stride + hashed % stride
    return row


@triton.jit
def _widen(x):
    if x.dtype == tl.bfloat16:  # by its bits: the interpreter's own way loses denormals
        x = (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    elif x.dtype == tl.float16:
        x = x.to(tl.float32)
    return x


@triton.jit
def _exponents(x, rate, high, low, top):
    """With `top` and high on one grid, high - top is exact: only entries far below it are rounded.

    The larger the logits and g, the more that matters: an exponent is rounded once, at its size.
    """
    return tl.fma(x, rate, high - top[:, None]) + low


@triton.jit
def _decide(value, columns):
    """The largest value of each row, and the lowest column that has it."""
    top = tl.max(value, axis=1)
    return top, tl.min(tl.where(value == top[:, None], columns[None, :], 1 << 30), axis=1)


@triton.jit
def _matters(weight, least, tops):
    """Which entries are at least `least` of the largest of their row."""
    return weight.to(tl.float32) >= tl.maximum(tops * least, SMALLEST)[:, None]


@triton.jit
def _count(matters):
    """How many entries of each row matter.

    The sum that 3.2's interpreter calls int32 has 64 bits, and would be stored over what lies
    behind: it is cast forth and back, which compiled kernels do nothing for.
    """
    return tl.sum(matters.to(tl.int32), axis=1).to(tl.int64).to(tl.int32)


@triton.jit(do_not_specialize=NUMBERS + SIZES + PIECES)
def read_rows(
    x,
    a,
    g,
    high,
    low,
    sums,
    odd,
    bad_row,
    gate,
    f,
    labels,
    log_sum,
    best,
    best_column,
    entries,
    tops,
    chunk_top,
    begin,
    end,
    entry,
    column,
    row,
    n: tl.int64,
    epsilon_bits: tl.int64,
    share_bits: tl.int64,
    exact_rate_bits: tl.int64,
    rate: tl.float32,
    least: tl.float32,
    row_stride: tl.int64,
    col_stride: tl.int64,
    stride: tl.int64,
    count: tl.int64,
    rows_per_block: tl.int64,
    pieces: tl.int64,
    step: tl.int64,
    K: tl.constexpr,
    MODE: tl.constexpr,
    EXACT: tl.constexpr,
    SAMPLED: tl.constexpr,
    VECTOR: tl.constexpr,
    UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    TURNS: tl.constexpr,
):
    """One read of the rows: a program takes `rows_per_block` of them, and one chunk of each.

    `share` is what the mass 1/n adds to f. `row_stride` counts vectors, of VECTOR neighbours: that
    rows start at multiples of them is then seen by the compiler.
    """
    if gate is not None:  # noqa: SIM102
        if tl.load(gate) == 0:
            return
    FLOAT: tl.constexpr = tl.float64 if EXACT else tl.float32
    SUMS: tl.constexpr = MODE == "whole" or MODE == "apply"
    KNOWN: tl.constexpr = MODE == "apply" or MODE == "fill"  # the sum of the row
    CHOOSE: tl.constexpr = labels is not None or best is not None
    exact_rate = _float64(exact_rate_bits)

    block = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    columns = chunk * WIDTH + tl.arange(0, WIDTH)
    real = columns < K
    # the last vector may reach beyond the end of the row
    readable = columns < (K + VECTOR - 1) // VECTOR * VECTOR
    at = columns.to(tl.int64)[None, :]
    if not UNIT:
        at = at * col_stride
    if not EXACT:
        high_part = tl.load(high + columns[None, :])
        low_part = tl.load(low + columns[None, :])
    if SUMS:
        slab = sums + block * (K + 1)

    start = block * rows_per_block
    stop = tl.minimum(start + rows_per_block, count)
    row_weights = tl.zeros([ROWS], tl.float64)
    first_bad = tl.full([ROWS], NO_ROW, tl.int64)
    for run in range(start, stop, ROWS * TURNS):
        mass = tl.zeros([ROWS, WIDTH], FLOAT)
        for turn in range(run, tl.minimum(run + ROWS * TURNS, stop), ROWS):
            j = (turn + tl.arange(0, ROWS)).to(tl.int64)
            inside = j < stop
            piece = j * pieces + chunk * step
            if MODE == "fill":
                begins = tl.load(begin + piece, mask=inside, other=0)
                ends = tl.load(end + piece, mask=inside, other=0)
                inside = inside & (begins < ends)
            i = _sampled(j, stride, SAMPLED)
            address = x + (i * row_stride * VECTOR)[:, None] + at
            values = tl.load(address, mask=inside[:, None] & readable[None, :], other=0.0)
            values = tl.where(real[None, :], _widen(values), -INFINITY)
            row_weight = tl.where(inside, 1.0, 0.0).to(tl.float64)
            if a is not None:
                row_weight = tl.load(a + i, mask=inside, other=0.0) * n.to(tl.float64)

            if EXACT or CHOOSE:
                value = values.to(tl.float64) + tl.load(g + columns[None, :])
            if KNOWN:
                log_total = tl.load(log_sum + j, mask=inside, other=0.0)
                if EXACT:
                    shift = log_total / exact_rate
                    weight = tl.exp2((value - shift[:, None]) * exact_rate)
                else:
                    top = _on_grid(log_total.to(tl.float32))
                    weight = tl.exp2(_exponents(values, rate, high_part, low_part, top))
                    weight = weight * tl.exp2((top - log_total).to(tl.float32))[:, None]
                scale = row_weight.to(FLOAT)
                if entries is not None:
                    matter = _matters(weight, least, tl.load(tops + j, mask=inside, other=0.0))
                    tl.store(entries + piece, _count(matter), mask=inside)
            else:
                if CHOOSE:
                    best_value, best_at = _decide(value, columns)
                if EXACT:
                    wrong = (values == INFINITY) | (values != values)
                    top = tl.max(tl.where(wrong, INFINITY, value), axis=1)
                    bad = top == INFINITY
                    # a chunk may be forbidden altogether; a row that is has no finite sum
                    shift = tl.where(bad, NAN, tl.where(top == -INFINITY, 0.0, top))
                    weight = tl.exp2((value - shift[:, None]) * exact_rate)
                    total = tl.sum(weight, axis=1)
                    bad = bad | (total == 0) | (total != total)
                    offset = shift * exact_rate
                else:
                    top = tl.max(tl.fma(values, rate, high_part), axis=1)
                    top = tl.where(top == -INFINITY, 0.0, _on_grid(top))
                    weight = tl.exp2(_exponents(values, rate, high_part, low_part, top))
                    total = tl.sum(weight, axis=1)
                    # NaN compares as false
                    bad = ((total > 0) & (tl.abs(top) <= FAST_RANGE)) == 0
                    offset = top.to(tl.float64)
                log_total = offset + tl.log2(total.to(tl.float64))
                scale = row_weight.to(FLOAT) / total

                bad = bad & inside
                if MODE == "stats":
                    spot = j * tl.num_programs(1) + chunk
                    tl.store(log_sum + spot, log_total, mask=inside)
                    bad = bad & (total != 0)
                    if chunk_top is not None:
                        largest = tl.max(weight, axis=1).to(tl.float64)
                        tl.store(chunk_top + spot, offset + tl.log2(largest), mask=inside)
                if MODE == "whole" or odd is not None:
                    first_bad = tl.minimum(first_bad, tl.where(bad, i, NO_ROW))
                if CHOOSE:
                    if labels is not None:
                        tl.store(labels + i, tl.where(bad, -1, best_at).to(tl.int64), mask=inside)
                    else:
                        tl.store(best + spot, best_value, mask=inside)
                        tl.store(best_column + spot, best_at.to(tl.int64), mask=inside)
                if f is not None:
                    potential = _float64(share_bits) - log_total / exact_rate
                    if a is not None:
                        potential += tl.log(row_weight) * _float64(epsilon_bits)
                    tl.store(f + i, potential, mask=inside)
                if entries is not None:
                    largest = tl.max(weight, axis=1).to(tl.float32)
                    matter = _matters(weight, least, largest)
                    tl.store(entries + piece, _count(matter), mask=inside)
                    tl.store(tops + j, largest / total.to(tl.float32), mask=inside)
                    tl.store(log_sum + j, log_total, mask=inside)

            if MODE == "fill":
                largest = tl.load(tops + j, mask=inside, other=0.0)
                matters = _matters(weight, least, largest)
                upto = tl.cumsum(matters.to(tl.int32), axis=1)
                before = upto - matters.to(tl.int32)
                held = _count(matters)
                # others come behind: an entry on the very edge may have been counted, with another
                # rounding, and not be found again
                rank = tl.where(matters, before, held[:, None] + columns[None, :] - before)
                to = begins[:, None] + rank
                room = inside[:, None] & (to < ends[:, None])
                tl.store(entry + to, tl.where(matters, weight, 0.0).to(tl.float32), mask=room)
                tl.store(column + to, tl.where(matters, columns[None, :], 0), mask=room)
                tl.store(row + to, j[:, None].to(tl.int32), mask=room)
            if SUMS:
                mass += weight * scale[:, None]
                row_weights += row_weight
        if SUMS:
            part = tl.sum(mass.to(tl.float64), axis=0)
            written = real
            if MODE != "apply":  # by this program, in the run before
                written = columns < tl.where(run > start, K, 0)
            tl.debug_barrier()
            so_far = tl.load(slab + columns, mask=written, other=0.0)
            tl.store(slab + columns, so_far + part, mask=real)
    if SUMS:
        weights = tl.sum(row_weights, axis=0)
        if chunk == 0:
            if MODE == "apply":
                weights += tl.load(slab + K)
            tl.store(slab + K, weights)
    if MODE == "whole" or odd is not None:
        least_bad = tl.min(first_bad, axis=0)
        if least_bad < NO_ROW:
            if odd is not None:
                tl.atomic_or(odd, 1)
            else:
                tl.atomic_min(bad_row, least_bad)


@triton.jit(do_not_specialize=("k", "padded"))
def prepare(
    g,
    padded_g,
    high,
    low,
    rate: tl.float32,
    k: tl.int64,
    padded: tl.int64,
    WIDTH: tl.constexpr,
):
    """Split rate * g: high on the grid, low what is left; NaN where float32 cannot do that.

    The rate is NaN if it is itself beyond float32.
    """
    columns = tl.program_id(0).to(tl.int64) * WIDTH + tl.arange(0, WIDTH)
    value = tl.load(g + columns, mask=columns < k, other=0.0)
    scaled = value * rate
    coarse = _on_grid(scaled)
    forbidden = scaled == -INFINITY
    fits = forbidden | (tl.abs(scaled) <= FAST_RANGE)
    inside = columns < padded
    tl.store(padded_g + columns, value, mask=inside)
    tl.store(high + columns, tl.where(fits, coarse, NAN).to(tl.float32), mask=inside)
    tl.store(low + columns, tl.where(forbidden, 0.0, scaled - coarse).to(tl.float32), mask=inside)


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
        i = _sampled(j, stride, SAMPLED)
        address = x + (i * row_stride)[:, None] + at
        held = inside[:, None] & real[None, :]
        values = _widen(tl.load(address, mask=held, other=0.0)).to(tl.float64)
        own = tl.load(f + i, mask=inside, other=0.0)
        terms = (values + potential[None, :] + own[:, None]) * _float64(exact_rate_bits)
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
