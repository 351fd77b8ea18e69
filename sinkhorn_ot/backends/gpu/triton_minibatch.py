"""The Triton kernels of the step of SwAV and DINOv2: passes over batches of rows of scores.

`minibatch_rows` finds a number of each row, `minibatch_columns` sums columns or writes codes, and
`minibatch_finish` adds the slabs of the sums; gpu/minibatch.py puts them together.  The rules that
they keep are in triton_read.py.
"""

# mypy: disable-error-code="import-untyped,import-not-found,no-untyped-def,untyped-decorator"

import triton
import triton.language as tl

from sinkhorn_ot.backends import minibatch
from sinkhorn_ot.backends.gpu.triton_read import INFINITY, float64_of, widened
from sinkhorn_ot.backends.gpu.triton_sums import _sum_of_slabs

#: The least mass of a column, over K.
TINY = tl.constexpr(minibatch.TINY)
#: Sizes and strides, of which a kernel must not be compiled for each value.
SIZES = ("rate_bits", "n", "batch_stride", "row_stride", "col_stride")
OUT_SIZES = ("out_batch_stride", "out_row_stride", "out_col_stride", "rows_per_block", "blocks")


@triton.jit
def _rows_that_count(n_valid, batch, n):
    count = n + batch * 0
    if n_valid is not None:
        count = tl.minimum(tl.maximum(tl.load(n_valid + batch), 0), count)
    return count


@triton.jit
def _scores(
    start,
    i,
    inside,
    columns,
    row_stride,
    col_stride,
    K: tl.constexpr,
    VECTOR: tl.constexpr,
    UNIT: tl.constexpr,
):
    """Scores of some rows and columns; -inf where there are none."""
    at = columns.to(tl.int64)[None, :]
    if not UNIT:
        at = at * col_stride
    # the last vector may reach beyond the end of the row
    readable = columns < (K + VECTOR - 1) // VECTOR * VECTOR
    held = inside[:, None] & readable[None, :]
    values = widened(tl.load(start + (i * row_stride * VECTOR)[:, None] + at, mask=held, other=0.0))
    return tl.where(inside[:, None] & (columns < K)[None, :], values, -INFINITY)


@triton.jit
def _inverse(mass, K: tl.constexpr):
    return 1.0 / tl.where(mass < TINY * K, TINY * K, mass)  # NaN stays


@triton.jit(do_not_specialize=SIZES)
def minibatch_rows(
    x,
    n_valid,
    masses,
    tops,
    scales,
    rate_bits: tl.int64,
    n: tl.int64,
    batch_stride: tl.int64,
    row_stride: tl.int64,
    col_stride: tl.int64,
    K: tl.constexpr,
    EXACT: tl.constexpr,
    VECTOR: tl.constexpr,
    UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The largest score of each row, -inf where it does not count; or with masses its v."""
    FLOAT: tl.constexpr = tl.float64 if EXACT else tl.float32
    rate = float64_of(rate_bits).to(FLOAT)
    blocks = (n + ROWS - 1) // ROWS
    batch = tl.program_id(0).to(tl.int64) // blocks
    i = tl.program_id(0).to(tl.int64) % blocks * ROWS + tl.arange(0, ROWS)
    inside = i < _rows_that_count(n_valid, batch, n)
    start = x + batch * batch_stride * VECTOR
    spot = batch * n + i
    if masses is None:
        top = tl.full([ROWS], -INFINITY, FLOAT)
        for first in range(0, K, WIDTH):
            columns = first + tl.arange(0, WIDTH)
            values = _scores(start, i, inside, columns, row_stride, col_stride, K, VECTOR, UNIT)
            top = tl.maximum(top, tl.max(values, axis=1))
        tl.store(tops + spot, top, mask=i < n)
    else:
        top = tl.load(tops + spot, mask=inside, other=0.0)
        total = tl.zeros([ROWS], FLOAT)
        for first in range(0, K, WIDTH):
            columns = first + tl.arange(0, WIDTH)
            values = _scores(start, i, inside, columns, row_stride, col_stride, K, VECTOR, UNIT)
            mass = tl.load(masses + batch * K + columns, mask=columns < K, other=1.0)
            entry = tl.exp2((values - top[:, None]) * rate)
            total += tl.sum(entry * _inverse(mass, K).to(FLOAT)[None, :], axis=1)
        tl.store(scales + spot, 1.0 / total, mask=i < n)


@triton.jit(do_not_specialize=SIZES + OUT_SIZES)
def minibatch_columns(
    x,
    n_valid,
    tops,
    largest,
    masses,
    scales,
    sums,
    out,
    rate_bits: tl.int64,
    n: tl.int64,
    batch_stride: tl.int64,
    row_stride: tl.int64,
    col_stride: tl.int64,
    out_batch_stride: tl.int64,
    out_row_stride: tl.int64,
    out_col_stride: tl.int64,
    rows_per_block: tl.int64,
    blocks: tl.int64,
    K: tl.constexpr,
    EXACT: tl.constexpr,
    VECTOR: tl.constexpr,
    UNIT: tl.constexpr,
    OUT_UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Sums of columns relative to the largest score, or with masses those of the next iterate.

    With `out` the codes of that iterate are written instead.  v of a row is made here if no
    `scales` have it: a program then holds whole rows.
    """
    FLOAT: tl.constexpr = tl.float64 if EXACT else tl.float32
    rate = float64_of(rate_bits).to(FLOAT)
    batch = tl.program_id(0).to(tl.int64) // blocks
    block = tl.program_id(0).to(tl.int64) % blocks
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    real = columns < K
    count = _rows_that_count(n_valid, batch, n)
    from_row = block * rows_per_block
    to_row = tl.minimum(from_row + rows_per_block, n)
    input_rows = x + batch * batch_stride * VECTOR
    if masses is not None:
        mass = tl.load(masses + batch * K + columns, mask=real, other=1.0)
        u = _inverse(mass, K).to(FLOAT)[None, :]
    if largest is not None:
        shift = tl.load(largest + batch)
    if sums is not None:
        total = tl.zeros([ROWS, WIDTH], FLOAT)
    for turn in range(from_row, to_row, ROWS):
        i = (turn + tl.arange(0, ROWS)).to(tl.int64)
        held = i < to_row
        inside = held & (i < count)
        values = _scores(input_rows, i, inside, columns, row_stride, col_stride, K, VECTOR, UNIT)
        if largest is not None:
            entry = tl.exp2((values - shift) * rate)
        else:
            top = tl.load(tops + batch * n + i, mask=inside, other=0.0)
            entry = tl.exp2((values - top[:, None]) * rate)
            if scales is None:
                scale = 1.0 / tl.sum(entry * u, axis=1)
            else:
                scale = tl.load(scales + batch * n + i, mask=inside, other=0.0)
            if out is not None:
                entry = entry * u
            entry = entry * scale[:, None]
        if sums is not None:
            total += tl.where(inside[:, None], entry, 0.0)
        if out is not None:
            at = columns.to(tl.int64)[None, :]
            if not OUT_UNIT:
                at = at * out_col_stride
            to = out + batch * out_batch_stride + (i * out_row_stride)[:, None] + at
            codes = tl.where(inside[:, None], entry, 0.0)
            tl.store(to, codes.to(out.dtype.element_ty), mask=held[:, None] & real[None, :])
    if sums is not None:
        slab = sums + (batch * blocks + block) * K
        tl.store(slab + columns, tl.sum(total, axis=0), mask=real)


@triton.jit(do_not_specialize=("blocks", "k"))
def minibatch_finish(
    sums, masses, blocks: tl.int64, k: tl.int64, SLABS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Add the slabs of each batch, in float64."""
    batch = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    c = columns[None, :]
    total = _sum_of_slabs(sums + batch * blocks * k, blocks, k, c, c < k, SLABS, COLUMNS)
    tl.store(masses + batch * k + columns, total, mask=columns < k)
