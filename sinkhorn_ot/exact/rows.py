"""Rows of a matrix for the compiled core, in spans: short enough to answer Ctrl-C between them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sinkhorn_ot.arrays import Array, dtype_name, float64, is_torch, on_host
from sinkhorn_ot.backends.cpu import threads, why_not
from sinkhorn_ot.passes import sampled_row

#: Bytes of a span of rows: a fraction of a second from memory, or from a device.
SPAN_BYTES = 1 << 29
#: Below this many entries a second thread costs more than it brings.
SMALL = 1 << 16


class HostRows:
    """The rows of `logits`, read in place; those of a device are copied span by span.

    `logits` may also be an object with ``shape``, ``dtype`` and ``itemsize`` that makes rows when
    it is sliced, as `Scores` of `sinkhorn_ot.estimators` does.
    """

    def __init__(self, logits: Array, span_bytes: int = SPAN_BYTES) -> None:
        missing = why_not(None)
        if missing is not None:
            raise ValueError(f"exact labels need the compiled core: {missing}")
        self.logits, self.span_bytes = logits, span_bytes
        self.n, self.k = int(logits.shape[0]), int(logits.shape[1])
        self.itemsize = int(logits.itemsize)
        self.threads = 1 if self.n * self.k < SMALL else threads()
        self.reads = 0.0

    def spans(self) -> Iterator[tuple[object, int, int]]:
        """Yield rows for the core, the number of the first, and how many threads to use."""
        import sinkhorn_ot._cpu as core

        dtype = getattr(core.Dtype, dtype_name(self.logits))
        step = max(1, self.span_bytes // (self.k * self.itemsize))
        for first in range(0, self.n, step):
            some = self.logits[first : first + step]
            if not on_host(some):
                some = some.cpu()
            if is_torch(some):
                data, strides = some.data_ptr(), some.stride()
            else:
                data = some.ctypes.data
                strides = tuple(s // self.itemsize for s in some.strides)
            yield core.Rows(data, dtype, len(some), self.k, *strides), first, self.threads
            self.reads += len(some) / self.n

    def sample(self, rows: int) -> NDArray[np.float64]:
        """Up to so many rows, spread by a hash, in float64."""
        stride = max(1, -(-self.n // rows))
        some = self.logits[sampled_row(np.arange(self.n // stride), stride)]
        if is_torch(some):
            return np.asarray(float64(some, some).cpu().numpy())
        return np.asarray(some, np.float64)
