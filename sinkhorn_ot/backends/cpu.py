"""The compiled core: one fused read per pass, SIMD and threads (csrc/cpu)."""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

import numpy as np

from sinkhorn_ot.arrays import Array, BadRow, Needs, Problem, Reading, dtype_name, is_torch

try:
    import sinkhorn_ot._cpu as _cpu
except ImportError as error:
    _cpu = None  # type: ignore[assignment]
    _import_error = (
        f"the compiled core is missing ({error}); install a C++17 compiler and reinstall"
    )

#: Below this many entries a second thread costs more than it brings.
SMALL = 1 << 16
#: A float32 column sum (in units of the mean row mass) below this has lost entries to underflow.
UNDERFLOW = 1e-25

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


def needs(logits: Array) -> Needs:
    """What a sketch takes: a row 12 bytes besides, every block its sums and room for a row."""
    n, k = logits.shape
    blocks = min(128, n // 256 + 1)
    return Needs(
        # sums of a log-domain pass and of a sketch are 16 K a block
        besides=12 * n + 16 * k * (blocks + min(blocks, 32)),
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


class CpuPasses:
    """The passes over rows in CPU memory, read as they are; K-vectors are NumPy or torch."""

    def __init__(self, problem: Problem) -> None:
        logits = problem.logits
        self.problem = problem  # keeps the memory behind the addresses alive
        self.n, self.k = logits.shape
        if is_torch(logits):
            data, strides = logits.data_ptr(), logits.stride()
        else:
            if not logits.flags.aligned or any(s % logits.itemsize for s in logits.strides):
                logits = logits.copy()  # rows inside a packed record; rare, and C++ needs aligned
                self.aligned_copy = logits
            data = logits.ctypes.data
            strides = tuple(s // logits.itemsize for s in logits.strides)
        self.itemsize = int(logits.itemsize)
        self.dtype = getattr(_cpu.Dtype, dtype_name(logits))
        self.rows = _cpu.Rows(data, self.dtype, self.n, self.k, *strides)
        self.a = None if problem.a is None else np.ascontiguousarray(problem.a)
        self.simd = simd_level()
        self.threads = 1 if self.n * self.k < SMALL else threads()
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
        f = labels = None
        if assign:
            f, labels = np.empty(self.n), np.empty(self.n, np.int64)
        core = None if sketch is None else sketch.core
        mass = self._run(vector, kind, stride, f, labels, core)
        if bool(np.any(mass[vector > -np.inf] * self.n < UNDERFLOW)):
            log_mass = self._run(vector, _cpu.Kind.log, stride)
        else:
            with np.errstate(divide="ignore"):
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

    def _run(
        self,
        g: np.ndarray[Any, Any],
        kind: _cpu.Kind,
        stride: int,
        f: np.ndarray[Any, Any] | None = None,
        labels: np.ndarray[Any, Any] | None = None,
        sketch: _cpu.Sketch | None = None,
    ) -> np.ndarray[Any, Any]:
        out = np.empty(self.k)
        bad_row = _cpu.run_pass(
            self.rows,
            _address(g),
            _address(self.a),
            self.problem.epsilon,
            kind,
            stride,
            self.simd,
            self.threads,
            _address(out),
            _address(f),
            _address(labels),
            sketch,
        )
        if bad_row >= 0:
            raise BadRow(bad_row)
        self.reads += 1 / stride
        return out


class CpuSketch:
    """Rows of weights in memory of their own; see `Sketch`."""

    def __init__(self, passes: CpuPasses, words: int) -> None:
        self.passes = passes
        self.core = _cpu.Sketch(passes.k, words, passes.simd)
        self.scalings = np.empty(0)

    def expect(self, move: Array, reach: float) -> None:
        """Say what matters; see `Sketch`."""
        vector = _numpy(move)
        self.core.expect(_address(vector), reach)

    @property
    def rows(self) -> int:
        """Rows that were kept."""
        return self.core.rows

    @property
    def words(self) -> int:
        """Memory that they take, in words of 4 bytes."""
        return self.core.words

    def mass(self, delta: Array, *, exact: bool = False) -> tuple[Array, Array]:
        """Return masses and second moments; see `Sketch`."""
        self.scalings = np.exp(_numpy(delta))
        m, s = np.empty(len(delta)), np.empty(len(delta))
        self.core.mass(
            _address(self.scalings), exact, _address(m), _address(s), self.passes.threads
        )
        self._count()
        return _like(delta, m), _like(delta, s)

    def value(self, delta: Array) -> float:
        """Return the value; see `Sketch`."""
        scalings = np.exp(_numpy(delta))
        self._count()
        return self.core.value(_address(scalings), self.passes.threads)

    def second_moment(self, v: Array) -> Array:
        """Return the product; see `Sketch`."""
        out, vector = np.empty(len(v)), _numpy(v)
        self.core.second_moment(
            _address(self.scalings), _address(vector), _address(out), self.passes.threads
        )
        self._count()
        return _like(v, out)

    def _count(self) -> None:
        whole = self.passes.n * self.passes.k * self.passes.itemsize
        self.passes.reads += 4 * self.core.words / whole


def _like(g: Array, x: np.ndarray[Any, Any]) -> Array:
    return sys.modules["torch"].from_numpy(x) if is_torch(g) else x


def _numpy(g: Array) -> np.ndarray[Any, Any]:
    vector: np.ndarray[Any, Any] = np.ascontiguousarray(g.numpy() if is_torch(g) else g)
    return vector


def _address(x: np.ndarray[Any, Any] | None) -> int:
    return 0 if x is None else int(x.ctypes.data)
