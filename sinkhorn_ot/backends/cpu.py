"""The compiled core: one fused read per pass, SIMD and threads (csrc/cpu)."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from sinkhorn_ot.arrays import Array, BadRow, Needs, Reading, dtype_name, exact_parts, is_torch
from sinkhorn_ot.problem import Problem

try:
    import sinkhorn_ot._cpu as _cpu
    from sinkhorn_ot.backends.cpu_blocks import Blocks
except ImportError as error:
    _cpu = None  # type: ignore[assignment]
    _import_error = (
        f"the compiled core is missing ({error}); install a C++17 compiler and reinstall"
    )

#: Below this many entries a second thread costs more than it brings.
SMALL = 1 << 16
#: A float32 column sum (in units of the mean row mass) below this has lost entries to underflow.
UNDERFLOW = 1e-25
#: Part of all mass below which an exact sum has no digits left.
UNSEEN = 1e-18
#: Stands for the logarithm of 0 in sums of the log domain; as in csrc/cpu/kernels.inl.
LOG_ZERO = -1e300

Vector = np.ndarray[Any, Any]

_forked = False


def _after_fork() -> None:
    # OpenMP's threads did not survive the fork: a parallel region would wait for them for ever.
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_after_fork)


def why_not(logits: Array | None) -> str | None:
    """None, or why the compiled core cannot run."""
    if _cpu is None:
        return _import_error
    if logits is not None and is_torch(logits) and logits.device.type != "cpu":
        return f"the logits are on {logits.device}"
    return None


def needs(logits: Array, n: int) -> Needs:
    """What a sketch takes: a row 12 bytes besides, every block its sums and room for a row."""
    k = logits.shape[1]
    blocks = min(128, n // 256 + 1)
    return Needs(
        # sums: of a block in the log domain, of a thread (at most 16) in a sketch
        held=12 * n,
        besides=12 * n + k * (16 * blocks + 64 * min(blocks, 16)),
        least=(2 * k + 16) * blocks,
        everything=(n + blocks) * k + 16 * blocks,
    )


def simd_level() -> str:
    """The instruction set in use: the best one, or what SINKHORN_OT_SIMD names."""
    levels = _cpu.simd_levels()
    asked = os.environ.get("SINKHORN_OT_SIMD")
    if asked and asked not in levels:
        raise ValueError(
            f"SINKHORN_OT_SIMD={asked!r} is not one of what this build and processor offer: "
            f"{', '.join(levels)}"
        )
    return asked or levels[0]


def threads() -> int:
    """OMP_NUM_THREADS, torch's setting once torch is loaded, or 1 in a forked child."""
    if _forked:
        return 1
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch is not None else _cpu.max_threads()


@dataclass(frozen=True)
class Piece:
    """Rows of a pass that lie together: from the `first` to before the `last` of it."""

    rows: _cpu.Rows
    a: Vector | None
    stride: int
    first: int
    last: int
    origin: int  # which row of the matrix lies first
    memory: object = None  # that is kept alive


class CpuPasses:
    """The passes over rows in CPU memory, read as they are; K-vectors are NumPy or torch."""

    def __init__(self, problem: Problem) -> None:
        logits = problem.logits
        self.problem = problem  # keeps the memory behind the addresses alive
        self.shard = problem.shard
        self.n, self.k = problem.n, logits.shape[1]
        if is_torch(logits):
            data, strides = logits.data_ptr(), logits.stride()
        else:
            if not logits.flags.aligned or any(s % logits.itemsize for s in logits.strides):
                logits = logits.copy()  # rows inside a packed record; rare, and C++ needs aligned
            data = logits.ctypes.data
            strides = tuple(s // logits.itemsize for s in logits.strides)
        self.logits = logits
        self.itemsize = int(logits.itemsize)
        self.dtype = getattr(_cpu.Dtype, dtype_name(logits))
        self.rows = _cpu.Rows(data, self.dtype, self.n, self.k, *strides)
        self.a = None if problem.a is None else np.ascontiguousarray(problem.a)
        self.simd = simd_level()
        self.threads = 1 if logits.shape[0] * self.k < SMALL else threads()
        self.cut: dict[int, tuple[Blocks, list[Piece]]] = {}  # by stride
        self.reads = 0.0
        self.may_wait = True

    def number(self, x: Array) -> float:
        """Return a number; see `Passes`."""
        return float(x)

    def first_bad_row(self) -> int | None:
        """None: a bad row raises at once."""
        return None

    def read(
        self,
        g: Array,
        *,
        exact: bool = False,
        stride: int = 1,
        assign: bool = False,
        sketch: CpuSketch | None = None,
    ) -> Reading:
        """Read the rows once; see `Passes`."""
        vector = _numpy(g)
        exact = exact or (assign and self.dtype is _cpu.Dtype.float64)
        kind = _cpu.Kind.exact if exact else _cpu.Kind.quick
        blocks, pieces = self._cut(stride)
        f = labels = None
        if assign:
            f, labels = (np.empty(len(self.logits), dtype) for dtype in (np.float64, np.int64))
        if sketch is not None:
            sketch.core.start(blocks.number, blocks.rows, blocks.first, blocks.last)
        # masses and weight, their coarse and fine parts; rows and words of the sketch, bad pieces
        out = np.zeros(2 * (self.k + 1) + 3)
        bad = None
        for piece in pieces:
            try:
                out[:-3] += self._run(piece, vector, kind, blocks, f, labels, sketch)
            except BadRow as error:  # all are to raise it
                bad, out[-1] = error.row if bad is None else min(bad, error.row), 1
        if sketch is not None:
            out[-3:-1] = sketch.core.rows, sketch.core.words
        out = self.shard.sum(out)
        if out[-1]:
            self.shard.raise_least(bad)
        if assign:
            for first, last in (blocks.head, (blocks.whole[1], blocks.end)):
                if first < last:  # they are summed elsewhere, or in a copy
                    self._run(self._held(1, first, last), vector, kind, blocks, f, labels)
        self.reads += 1 / stride
        if sketch is not None:
            sketch.rows, sketch.words = map(int, out[-3:-1])
        sums = _whole(out[:-3])
        with np.errstate(divide="ignore", invalid="ignore"):
            mass = sums[:-1] / sums[-1]
            if bool(np.any(mass[vector > -np.inf] < max(UNDERFLOW / self.n, UNSEEN))):
                log_mass = self._read_log(vector, stride)
            else:
                log_mass = np.log(mass)
        like = functools.partial(_like, g)
        return Reading(
            like(log_mass),
            None if f is None else like(f),
            None if labels is None else like(labels),
        )

    def sketch(self, words: int) -> CpuSketch:
        """Return room for a sketch; see `Passes`."""
        return CpuSketch(self, words)

    def _read_log(self, vector: Vector, stride: int) -> Vector:
        """Read the rows again, in the log domain."""
        k, (blocks, pieces) = self.k, self._cut(stride)
        tables = [self._run(piece, vector, _cpu.Kind.log, blocks) for piece in pieces]
        table = np.concatenate([np.empty((0, 2 * k + 1)), *tables])
        tops, sums, weights = table[:, :k], table[:, k:-1], table[:, -1:]
        top = self.shard.max(np.max(tops, axis=0, initial=LOG_ZERO))
        sums = np.concatenate((sums * np.exp(tops - top), weights), axis=1)
        total = _whole(self.shard.sum(exact_parts(sums, self.n).ravel()))
        self.reads += 1 / stride
        log_mass: Vector = top + np.log(total[:-1] / total[-1])
        return log_mass

    def _cut(self, stride: int) -> tuple[Blocks, list[Piece]]:
        """The blocks of a pass, and where the rows lie of those that are run here."""
        if stride not in self.cut:
            self.cut = {s: cut for s, cut in self.cut.items() if s == 1}  # samples come once
            blocks = Blocks(self.shard, stride)
            pieces = [self._held(stride, *blocks.whole), self._fetched(blocks)]
            self.cut[stride] = blocks, [piece for piece in pieces if piece.first < piece.last]
        return self.cut[stride]

    def _held(self, stride: int, first: int, last: int) -> Piece:
        """Rows as they lie in the input."""
        return Piece(self.rows, self.a, stride, first, last, self.shard.first)

    def _fetched(self, blocks: Blocks) -> Piece:
        """The block of which other processes hold a part; it may be of no rows."""
        rows = blocks.fetch(lambda *span: _bytes(self.logits[blocks.held(*span)]))
        a = self.a
        if a is not None:
            held = a[:, None]
            a = blocks.fetch(lambda *span: _bytes(held[blocks.held(*span)])).view(np.float64)
        first, last = blocks.tail
        table = _cpu.Rows(rows.ctypes.data, self.dtype, self.n, self.k, self.k, 1)
        return Piece(table, a, 1, first, last, first, rows)

    def _run(
        self,
        piece: Piece,
        g: Vector,
        kind: _cpu.Kind,
        blocks: Blocks,
        f: Vector | None = None,
        labels: Vector | None = None,
        sketch: CpuSketch | None = None,
    ) -> Vector:
        """Run a piece: the sums over it; see `run_pass` in csrc/cpu/passes.hpp."""
        out = np.empty(2 * (self.k + 1))
        if kind is _cpu.Kind.log:
            number = -(-piece.last // blocks.rows) - piece.first // blocks.rows
            out = np.empty((number, 2 * self.k + 1))
        mine = piece.rows is self.rows
        bad_row = _cpu.run_pass(
            piece.rows,
            _address(g),
            _address(piece.a),
            self.problem.epsilon,
            kind,
            piece.stride,
            piece.first,
            piece.last,
            blocks.rows,
            piece.origin,
            self.simd,
            self.threads,
            _address(out),
            _address(f if mine else None),
            _address(labels if mine else None),
            None if sketch is None else sketch.core,
        )
        if bad_row >= 0:
            raise BadRow(bad_row)
        return out


class CpuSketch:
    """Rows of weights in memory of their own; see `Sketch`."""

    def __init__(self, passes: CpuPasses, words: int) -> None:
        self.passes = passes
        self.core = _cpu.Sketch(passes.k, words, passes.simd)
        self.scalings = np.empty(0)
        self.weight = 0.0  # of its rows, in the units of C++
        self.rows = self.words = 0

    def expect(self, move: Array, reach: float) -> None:
        """Say what matters; see `Sketch`."""
        vector = _numpy(move)
        self.core.expect(_address(vector), reach)

    def mass(self, delta: Array) -> tuple[Array, Array]:
        """Return masses and second moments; see `Sketch`."""
        self.scalings = np.exp(_numpy(delta))
        k = self.passes.k
        out = np.empty(2 * (2 * k + 1))
        self.core.mass(_address(self.scalings), self.passes.n, _address(out), self.passes.threads)
        self._count()
        sums = self._added(out)
        self.weight = sums[-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            sums /= self.weight
        return _like(delta, sums[:k]), _like(delta, sums[k:-1])

    def second_moment(self, v: Array) -> Array:
        """Return the product; see `Sketch`."""
        vector, out = _numpy(v), np.empty(2 * len(v))
        self.core.second_moment(
            _address(self.scalings),
            _address(vector),
            self.passes.n,
            _address(out),
            self.passes.threads,
        )
        self._count()
        sums = self._added(out)
        sums /= self.weight
        return _like(v, sums)

    def _added(self, parts: Vector) -> Vector:
        return _whole(self.passes.shard.sum(parts))

    def _count(self) -> None:
        whole = self.passes.n * self.passes.k * self.passes.itemsize
        self.passes.reads += 4 * self.words / whole


def _whole(parts: Vector) -> Vector:
    """Sums of which the coarse parts come first and then the fine ones."""
    half = len(parts) // 2
    total: Vector = parts[:half] + parts[half:]
    return total


def _bytes(rows: Array) -> Vector:
    """A copy of some rows, each the bytes of one."""
    if is_torch(rows):
        rows = rows.contiguous().view(sys.modules["torch"].uint8).numpy()
    return np.array(rows, order="C").view(np.uint8)


def _like(g: Array, x: Vector) -> Array:
    return sys.modules["torch"].from_numpy(x) if is_torch(g) else x


def _numpy(g: Array) -> Vector:
    vector: Vector = np.ascontiguousarray(g.numpy() if is_torch(g) else g)
    return vector


def _address(x: Vector | None) -> int:
    return 0 if x is None else int(x.ctypes.data)
