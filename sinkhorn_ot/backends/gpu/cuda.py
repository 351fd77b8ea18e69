"""The compiled GPU kernels (csrc/cuda), launched through addresses and a stream."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from sinkhorn_ot.arrays import Array, Place, dtype_name, is_torch
from sinkhorn_ot.backends.gpu.kernels import (
    KEPT_TENSORS,
    LEAST,
    MinibatchRead,
    Read,
    Segments,
    Sums,
    Tile,
    filling,
)
from sinkhorn_ot.backends.gpu.minibatch import DeviceMinibatch
from sinkhorn_ot.backends.gpu.passes import DevicePasses, needs_of, not_on_gpu
from sinkhorn_ot.passes import Needs, Problem

try:
    import sinkhorn_ot._cuda as _cuda
except ImportError as error:
    _cuda = None  # type: ignore[assignment]
    _import_error = (
        f"the CUDA kernels are not built ({error}); install the CUDA toolkit (or "
        "'cuda-toolkit[nvcc,cudart,cccl]' from PyPI) and reinstall with SINKHORN_OT_CUDA=1"
    )

#: Multiprocessors of a device that is not there (the kernels then run on the host, for tests).
HOST_PROCESSORS = 2
#: A warp sums a row of kept entries, a block a column.
ROW_THREADS, COLUMN_THREADS = 32, 256


def why_not(place: Place | None) -> str | None:
    """None, or why the kernels cannot run."""
    if _cuda is None:
        return _import_error
    reason = _cuda.why_not()
    if reason:
        return str(reason)
    return None if place is None else not_on_gpu(place)


def needs(logits: Array, n: int) -> Needs:
    """What kept entries take."""
    return needs_of(logits, n, CudaKernels(_cuda))


def passes(problem: Problem) -> DevicePasses:
    """The passes over rows on the GPU."""
    return DevicePasses(problem, CudaKernels(_cuda))


def minibatch(scores: Array, epsilon: float, n_valid: Array | None) -> DeviceMinibatch:
    """The passes over a minibatch on the GPU."""
    return DeviceMinibatch(scores, epsilon, n_valid, CudaKernels(_cuda))


class CudaKernels:
    """Launches of the functions of csrc/cuda/passes.hpp; see `Kernels`."""

    holds_rows = False

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def tile(self, k: int, exact: bool, on: Any) -> Tile:
        """Return how rows of k entries are cut up."""
        kind = self.module.Kind.exact if exact else self.module.Kind.quick
        tile = self.module.tile_of(k, kind)
        return Tile(
            width=tile.lanes * tile.per,
            chunks=tile.chunks,
            rows=tile.threads // tile.lanes,
            blocks=filling(tile.threads, on, HOST_PROCESSORS),
            launch=tile,
        )

    def prepare(self, g: Array, epsilon: float, padded: Array, high: Array, low: Array) -> None:
        """Split g for float32, and pad it."""
        self._queue(self.module.prepare, g, len(g), len(padded), epsilon, padded, high, low, on=g)

    def read_rows(self, read: Read) -> None:
        """Read rows, in the `mode` of the read."""
        m = self.module
        kind = m.Kind.exact if read.exact else m.Kind.quick
        mode = getattr(m.Mode, read.mode)
        self._queue(m.read_rows, self._pass(read), self._dtype(read.x), kind, mode, read.blocks,
                    on=read.x)  # fmt: skip

    def finish(self, sums: Sums, n: int, g: Array, out: Array, low_mass: Array) -> None:
        """Add the slabs: log masses, and the weight of the rows."""
        self._queue(
            self.module.finish, sums.quick, len(sums.quick), sums.exact, len(sums.exact), sums.odd,
            len(g), n, g, out, low_mass, on=g,
        )  # fmt: skip

    def read_log(self, read: Read, tops: Array, totals: Array) -> None:
        """Sum the columns in the log domain."""
        self._queue(
            self.module.read_log, self._pass(read), self._dtype(read.x), read.blocks, tops, totals,
            on=read.x,
        )  # fmt: skip

    def finish_log(self, tops: Array, totals: Array, n: int, gate: Array, out: Array) -> None:
        """Add what `read_log` left."""
        blocks, k = tops.shape
        self._queue(self.module.finish_log, tops, totals, blocks, k, n, gate, out, on=out)

    def add_segments(
        self, segments: Segments, p: Array, q: Array | None, first: Array, second: Array | None
    ) -> None:
        """Sum ``value * p[index]`` over each segment, and ``value**2 * q[index]``."""
        threads = COLUMN_THREADS if segments.long else ROW_THREADS
        self._queue(
            self.module.add_segments, segments.begin, segments.end, len(segments.begin),
            segments.value, segments.index, p, q, first, second, threads, on=p,
        )  # fmt: skip

    def minibatch_rows(self, read: MinibatchRead) -> None:
        """Find the largest score of each row, or with masses its scale."""
        m = self.module
        self._queue(m.minibatch_rows, self._minibatch(read), self._dtype(read.x), on=read.x)

    def minibatch_columns(self, read: MinibatchRead) -> None:
        """Sum columns into slabs, or write codes."""
        m = self.module
        self._queue(m.minibatch_columns, self._minibatch(read), self._dtype(read.x), on=read.x)

    def minibatch_finish(self, sums: Array, masses: Array) -> None:
        """Add the slabs of each batch."""
        finish = self.module.minibatch_finish
        self._queue(finish, sums, self._dtype(sums), *sums.shape, masses, on=sums)

    def _minibatch(self, read: MinibatchRead) -> Any:
        of = self.module.Minibatch()
        for name in ("x", "n_valid", "masses", "tops", "scales", "largest", "sums", "out"):
            setattr(of, name, self.address(getattr(read, name)))
        for name in ("rate", "rows_per_block", "blocks"):
            setattr(of, name, getattr(read, name))
        of.batches, of.n, of.k = read.x.shape
        of.batch_stride, of.row_stride, of.col_stride = read.x.stride()
        if read.out is not None:
            of.out_batch_stride, of.out_row_stride, of.out_col_stride = read.out.stride()
        return of

    def address(self, x: Array | None) -> int:
        """Return where a tensor lies; 0 for None."""
        return 0 if x is None else int(x.data_ptr())

    def _dtype(self, x: Array) -> Any:
        return getattr(self.module.Dtype, dtype_name(x))

    def _pass(self, read: Read) -> Any:
        p = self.module.RowPass()
        for name in (
            "x", "g", "high", "low", "a", "sums", "odd", "bad_row", "gate", "f", "labels",
            "log_sum", "best", "best_column",
        ):  # fmt: skip
            setattr(p, name, self.address(getattr(read, name)))
        for name in ("vectors", "n", "k", "epsilon", "stride", "count", "rows_per_block"):
            setattr(p, name, getattr(read, name))
        p.row_stride, p.col_stride = read.x.stride()
        p.tile = read.tile.launch
        if read.kept is not None:
            rows = self.module.KeptRows()
            rows.pieces, rows.step = read.kept.pieces, read.kept.step(read.tile)
            rows.least = LEAST
            for name in KEPT_TENSORS:
                setattr(rows, name, self.address(getattr(read.kept, name)))
            p.kept = rows
        return p

    def _queue(self, function: Any, *arguments: Any, on: Array) -> None:
        """Call with addresses in place of tensors, on the device and the stream of `on`."""
        plain = [self.address(x) if x is None or is_torch(x) else x for x in arguments]
        if on.device.type != "cuda":
            function(*plain, 0)
            return
        cuda = sys.modules["torch"].cuda
        with cuda.device(on.device):
            function(*plain, cuda.current_stream(on.device).cuda_stream)
