"""The Triton kernels of csrc/cuda/read_rows.cuh: the read of rows, in tiles of rows times columns.

Those of what a read leaves behind are in triton_sums.py; triton.py launches both, and
csrc/cuda/passes.hpp tells what they do. An argument that is None is left out of the kernel, with
all that it would do; arguments in capitals are constants.

The kernels run in every Triton from 3.2 on, compiled and interpreted. Hence these rules, for both
files:

- The arguments of `read_rows` are a long flat list, and no tuples that would group them: Triton
  3.2, which torch 2.6 brings, takes no tuples as arguments.
- A float64 argument comes as the int64 of its bits, and `float64_of` makes the number of it: Triton
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
FIBONACCI = tl.constexpr(0x9E3779B97F4A7C15)
INFINITY = tl.constexpr(float("inf"))
NAN = tl.constexpr(float("nan"))
NO_ROW = tl.constexpr(1 << 62)

#: Sizes and strides, of which a kernel must not be compiled for each value.
SIZES = ("row_stride", "col_stride", "stride", "count", "rows_per_block")
PIECES = ("pieces", "step")
#: Numbers of a solve, for which the same is true.
NUMBERS = ("n", "epsilon_bits", "log_n_bits", "exact_rate_bits")


@triton.jit
def float64_of(bits):
    """The float64 number that has these bits."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def _on_grid(x):
    return tl.floor(x / GRID + 0.5) * GRID


@triton.jit
def sampled(turn, stride, SAMPLED: tl.constexpr):
    """The rows of a sample: one of each `stride` neighbours (Fibonacci hashing), as on the CPU."""
    row = turn
    if SAMPLED:
        hashed = ((turn.to(tl.uint64) * FIBONACCI) >> 32).to(tl.int64)
        row = turn * stride + hashed % stride
    return row


@triton.jit
def widened(x):
    """Numbers of 16 bits as float32; others as they are."""
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
    log_n_bits: tl.int64,
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
    exact_rate = float64_of(exact_rate_bits)

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
            i = sampled(j, stride, SAMPLED)
            address = x + (i * row_stride * VECTOR)[:, None] + at
            values = tl.load(address, mask=inside[:, None] & readable[None, :], other=0.0)
            values = tl.where(real[None, :], widened(values), -INFINITY)
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
                    potential = float64_of(log_n_bits) - log_total / exact_rate
                    if a is not None:
                        potential += tl.log(row_weight) * float64_of(epsilon_bits)
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
