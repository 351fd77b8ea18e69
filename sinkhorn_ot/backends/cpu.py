"""The compiled core: one fused read per pass, SIMD and threads (csrc/cpu)."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

from sinkhorn_ot.arrays import Array, Place, dtype_name, is_torch
from sinkhorn_ot.passes import (
    REACH,
    Counts,
    Needs,
    Problem,
    Reading,
    room_for_rows,
    sampled_here,
)

try:
    import sinkhorn_ot._cpu as _cpu
except ImportError as error:
    _cpu = None  # type: ignore[assignment]
    _import_error = (
        f"the compiled core is missing ({error}); install a C++17 compiler and reinstall"
    )

#: Below this many entries a second thread costs more than it brings.
SMALL = 1 << 16
#: A column mass (in units of the mean row's) below this has lost entries to float32's underflow.
UNDERFLOW = 1e-25

Vector = np.ndarray[Any, Any]

_forked = False


def _after_fork() -> None:
    # OpenMP's threads did not survive the fork: a parallel region would wait for them for ever.
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_after_fork)


def why_not(place: Place | None) -> str | None:
    """None, or why the compiled core cannot run."""
    if _cpu is None:
        return _import_error
    if place is not None and place.kind != "cpu":
        return f"the logits are on {place.device}"
    return None


def needs(logits: Array, n: int) -> Needs:
    """What kept entries take: 16 bytes a row besides, and sums of each block of rows."""
    k = logits.shape[1]
    blocks = min(128, n // 256 + 1)
    workers = min(threads(), blocks)
    return Needs(
        # sums: of each block, in the log domain two; of kept entries at most 16 of 2 K; and what a
        # thread works in
        held=16 * n,
        besides=16 * n + k * (16 * blocks + 256 + 48 * workers),
        least=(2 * k + 16) * blocks,
        everything=room_for_rows(n, k),
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


class CpuPasses:
    """The passes over rows in CPU memory, read as they are; K-vectors are NumPy or torch."""

    may_wait = True

    def __init__(self, problem: Problem) -> None:
        logits = problem.logits
        self.problem = problem  # keeps the memory behind the addresses alive
        self.n, self.k = problem.n, logits.shape[1]
        if is_torch(logits):
            data, strides = logits.data_ptr(), logits.stride()
        else:
            data = logits.ctypes.data
            strides = tuple(s // logits.itemsize for s in logits.strides)
        self.logits = logits
        self.dtype = getattr(_cpu.Dtype, dtype_name(logits))
        self.rows = _cpu.Rows(data, self.dtype, self.n, self.k, *strides)
        self.a = None if problem.a is None else np.ascontiguousarray(problem.a)
        self.simd = simd_level()
        self.threads = 1 if logits.shape[0] * self.k < SMALL else threads()
        self.reads = 0.0
        self.bad_row: int | None = None

    def number(self, x: Array) -> float:
        """Return a number; see `Passes`."""
        return float(x)

    def first_bad_row(self) -> int | None:
        """Return the first bad row; see `Passes`."""
        return self.bad_row

    def read(
        self,
        g: Array,
        *,
        exact: bool = False,
        log: bool = False,
        stride: int = 1,
        assign: bool = False,
        kept: CpuKept | None = None,
        share: float = 1.0,
    ) -> Reading:
        """Read the rows once; see `Passes`."""
        vector, rows = _numpy(g), len(self.logits)
        exact = exact or (assign and self.dtype is _cpu.Dtype.float64)
        f = labels = None
        if assign:
            f, labels = np.empty(rows), np.empty(rows, np.int64)
        out = np.empty(self.k + 1)  # logarithms of the masses, and the weight
        first, last = sampled_here(self.n, self.problem.first, rows, stride)
        bad_row = _cpu.run_pass(
            self.rows,
            vector,
            self.a,
            self.problem.epsilon,
            _cpu.Kind.log if log else _cpu.Kind.exact if exact else _cpu.Kind.quick,
            _cpu.Sample(stride, first, last, self.problem.first),
            _cpu.rows_per_block(self.n // stride),
            self.simd,
            self.threads,
            out,
            f,
            labels,
            None if kept is None else kept.core,
            share,
        )
        self.reads += 1 / stride
        if bad_row >= 0:
            out[:] = np.nan
            if stride == 1 and self.bad_row is None:  # a sample need not hold the first one
                self.bad_row = bad_row
        return Reading(
            _like(g, out[:-1]),
            _like(g, out[-1:]),
            None if f is None else _like(g, f),
            None if labels is None else _like(g, labels),
        )

    def keep(self, words: int) -> CpuKept:
        """Return room for kept entries; see `Passes`."""
        return CpuKept(self, words)


class CpuKept:
    """Kept entries in memory of their own; see `Kept`."""

    def __init__(self, passes: CpuPasses, words: int) -> None:
        self.k, self.threads = passes.k, passes.threads
        self.core = _cpu.Kept(passes.k, words, REACH, passes.simd)
        self.scalings = np.empty(0)

    @property
    def counts(self) -> Counts:
        """Return how much is kept; see `Kept`."""
        words = self.core.words
        return Counts(self.core.rows, words, 4 * words, int(not self.core.fits))

    def mass(self, delta: Array) -> tuple[Array, Array, Array]:
        """Return masses, second moments and weight; see `Kept`."""
        self.scalings = np.exp(_numpy(delta))
        out, k = np.empty(2 * self.k + 1), self.k
        self.core.mass(self.scalings, out, self.threads)
        return _like(delta, out[:k]), _like(delta, out[k:-1]), _like(delta, out[-1:])

    def second_moment(self, v: Array) -> Array:
        """Return the product; see `Kept`."""
        out = np.empty(self.k)
        self.core.second_moment(self.scalings, _numpy(v), out, self.threads)
        return _like(v, out)


def _like(g: Array, x: Vector) -> Array:
    return sys.modules["torch"].from_numpy(x) if is_torch(g) else x


def _numpy(g: Array) -> Vector:
    vector: Vector = np.ascontiguousarray(g.numpy() if is_torch(g) else g)
    return vector
