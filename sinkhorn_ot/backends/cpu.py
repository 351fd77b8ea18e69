"""The compiled core: one fused read per pass, SIMD and threads (csrc/cpu)."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from sinkhorn_ot.arrays import Array, BadRow, Needs, Problem, Reading, dtype_name, is_torch

if TYPE_CHECKING:
    from sinkhorn_ot.sharding import Shard

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


def needs(logits: Array, n: int) -> Needs:
    """What a sketch takes: a row 12 bytes besides, every block its sums and room for a row."""
    k = logits.shape[1]
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
        self.n, self.k = problem.rows, logits.shape[1]
        self.here = logits.shape[0]
        self.first = 0 if problem.shard is None else problem.shard.first
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
        data = _before(data, self.first * strides[0] * self.itemsize)
        self.rows = _cpu.Rows(data, self.dtype, self.n, self.k, *strides)
        self.a = None if problem.a is None else np.ascontiguousarray(problem.a)
        self.simd = simd_level()
        self.threads = 1 if self.here * self.k < SMALL else threads()
        self.reads = 0.0
        self.may_wait = True
        self.floor = UNDERFLOW

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
            f, labels = np.empty(self.here), np.empty(self.here, np.int64)
        core = None if sketch is None else sketch.core
        mass, weight = self._run(vector, kind, stride, f, labels, core)
        alone = self.problem.shard is None  # otherwise the masses of all processes decide
        if alone and bool(np.any(mass[vector > -np.inf] * self.n < UNDERFLOW)):
            log_mass = self.read_log(g, stride).log_mass
        else:
            with np.errstate(divide="ignore"):
                log_mass = _like(g, np.log(mass))
        return Reading(
            log_mass,
            None if f is None else _like(g, f),
            None if labels is None else _like(g, labels),
            weight,
        )

    def read_log(self, g: Array, stride: int) -> Reading:
        """Read the rows in the log domain, where no mass underflows."""
        mass, weight = self._run(_numpy(g), _cpu.Kind.log, stride)
        return Reading(_like(g, mass), weight=weight)

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
    ) -> tuple[np.ndarray[Any, Any], float]:
        """Return column masses that sum to 1, or their logarithms, and the mass of the rows."""
        blocks = _cpu.Blocks(self.n, stride, self.first, self.first + self.here)
        a, f_out, labels_out = (_before(_address(x), 8 * self.first) for x in (self.a, f, labels))
        bad_rows: list[int] = []

        def run(first: int, last: int) -> np.ndarray[Any, Any]:
            out = np.empty(self.k + 1)
            bad_row = _cpu.run_pass(
                self.rows,
                _address(g),
                a,
                self.problem.epsilon,
                kind,
                blocks,
                first,
                last,
                self.simd,
                self.threads,
                _address(out),
                f_out,
                labels_out,
                sketch,
            )
            if bad_row >= 0:
                bad_rows.append(bad_row)
            return out

        shard = self.problem.shard
        if sketch is not None:
            sketch.start(blocks)
        if sketch is None or shard is None:
            out = run(blocks.first, blocks.last)
        else:
            out = _fill(sketch, shard, blocks, run)
        if bad_rows:
            raise BadRow(min(bad_rows))
        self.reads += 1 / stride
        mass, weight = out[:-1], float(out[-1])
        if kind is _cpu.Kind.log:
            return mass - (math.log(weight) if weight > 0 else 0.0), weight
        return mass / (weight or 1.0), weight


def _fill(
    sketch: _cpu.Sketch,
    shard: Shard,
    blocks: _cpu.Blocks,
    run: Callable[[int, int], np.ndarray[Any, Any]],
) -> np.ndarray[Any, Any]:
    """Read, and fill a sketch with the rows that it would have in one process.

    Which rows of a block are kept depends on those before; where a block is cut between two
    processes, the first tells the second what that needs to know.
    """
    last = blocks.last - blocks.first - 1
    out: Any = 0.0
    if not blocks.joins or last > 0:
        out = run(blocks.first + blocks.joins, blocks.last)
        if blocks.goes_on:
            shard.pass_on(list(sketch.carry(last)))
    if blocks.joins:
        seen, words, pending = shard.passed_on(3)
        sketch.go_on(0, int(seen), int(words), pending)
        out = out + run(blocks.first, blocks.first + 1)
        if blocks.goes_on and last == 0:
            shard.pass_on(list(sketch.carry(0)))
    shard.settle()
    result: np.ndarray[Any, Any] = out
    return result


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

    @property
    def total_weight(self) -> float:
        """Mass of the rows that were kept, in units of 1/N."""
        return self.core.weight

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

    def second_moment(self, v: Array, *, exact: bool = False) -> Array:
        """Return the product; see `Sketch`."""
        out, vector = np.empty(len(v)), _numpy(v)
        self.core.second_moment(
            _address(self.scalings), _address(vector), exact, _address(out), self.passes.threads
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


def _before(address: int, distance: int) -> int:
    """Where row 0 would be, of an array that begins at a later row; 0 stays "none"."""
    return address and (address - distance) % (1 << 64)
