"""The passes over a minibatch in the compiled core (csrc/cpu/codes.hpp)."""

from __future__ import annotations

import numpy as np

from sinkhorn_ot.arrays import Array, dtype_name, is_aligned, is_torch
from sinkhorn_ot.backends.cpu import simd_level, threads

try:
    import sinkhorn_ot._cpu as _cpu
except ImportError:  # `cpu.why_not` says so
    _cpu = None  # type: ignore[assignment]

#: Below this many scores a second thread costs more than it brings.
SMALL = 1 << 14


class CpuMinibatch:
    """The passes over scores in CPU memory, read as they are; see `Minibatch`."""

    def __init__(self, scores: Array, epsilon: float, n_valid: Array | None) -> None:
        self.batches, self.n, self.k = scores.shape
        self.simd = simd_level()
        self.threads = 1 if self.batches * self.n * self.k < SMALL else threads()
        self.dtype = getattr(_cpu.Dtype, dtype_name(scores))
        self.epsilon = epsilon
        # what lies behind the addresses must stay
        self.n_valid = None if n_valid is None else np.ascontiguousarray(n_valid, np.int64)
        self.scores = scores if is_torch(scores) or is_aligned(scores) else scores.copy()
        self.core = self._core(self.scores)
        self.tops = np.empty(self.batches * self.n)

    def first(self) -> tuple[Array, Array]:
        """Return masses and largest scores; see `Minibatch`."""
        masses, largest = np.empty((self.batches, self.k)), np.empty(self.batches)
        _cpu.codes_first(self.core, self.tops, masses, largest, self.simd, self.threads)
        return masses, largest

    def next(self, masses: Array) -> Array:
        """Return the next masses, in the place of those."""
        _cpu.codes_next(self.core, self.tops, masses, self.simd, self.threads)
        return masses

    def last(self, masses: Array, out: Array) -> None:
        """Write the codes; see `Minibatch`."""
        to = out if is_torch(out) or is_aligned(out) else np.empty(out.shape, out.dtype)
        _cpu.codes_last(self.core, self.tops, masses, self._core(to), self.simd, self.threads)
        if to is not out:
            out[...] = to

    def _core(self, x: Array) -> _cpu.Minibatch:
        if is_torch(x):
            data, (batches, rows, columns) = x.data_ptr(), x.stride()
        else:
            data, (batches, rows, columns) = x.ctypes.data, (s // x.itemsize for s in x.strides)
        return _cpu.Minibatch(
            data, self.dtype, self.batches, self.n, self.k, batches, rows, columns, self.n_valid,
            self.epsilon,
        )  # fmt: skip
