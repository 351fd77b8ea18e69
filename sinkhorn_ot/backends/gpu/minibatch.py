"""The passes over a minibatch as launches of three kernels on torch tensors; none waits.

Q is made anew of the scores wherever it is needed.  Rows are read twice in an iteration, for v and
for the masses; once by the Triton kernels, if a block of threads can hold them.
"""

from __future__ import annotations

from dataclasses import replace

from sinkhorn_ot.arrays import Array, dtype_name, namespace
from sinkhorn_ot.backends.gpu.kernels import Kernels, MinibatchRead, exact_rate
from sinkhorn_ot.backends.gpu.passes import reads_in_vectors

#: Rows whose columns are summed in the precision of their exponentials.
MOST_ROWS = 64


class DeviceMinibatch:
    """The passes over scores in the memory of a device; see `Minibatch`."""

    def __init__(
        self, scores: Array, epsilon: float, n_valid: Array | None, kernels: Kernels
    ) -> None:
        self.torch = torch = namespace(scores)
        self.kernels = kernels
        batches, n, k = scores.shape
        exact = dtype_name(scores) == "float64"
        self.float = torch.float64 if exact else torch.float32
        tile = kernels.tile(k, exact, scores.device)
        self.whole = tile.chunks == 1 and kernels.holds_rows
        slabs = max(tile.slabs // max(batches, 1), 1)
        rows = min(max(-(-n // slabs), tile.rows), MOST_ROWS * tile.rows)
        counts = None if n_valid is None else n_valid.to(torch.int64).contiguous()
        self.device = scores.device
        self.read = MinibatchRead(
            scores, in_vectors(scores), exact_rate(epsilon), counts, tile, rows,
            self._empty(batches, n),
        )  # fmt: skip

    def first(self) -> tuple[Array, Array]:
        """Return masses and largest scores; see `Minibatch`."""
        batches, n, k = self.read.x.shape
        if 0 in (batches, n):  # no rows, in this process
            nothing = self._empty(batches, k).zero_()
            return nothing.to(self.torch.float64), nothing[:, 0] - self.torch.inf
        self.kernels.minibatch_rows(self.read)
        largest = self.read.tops.amax(1)
        return self._masses(replace(self.read, largest=largest)), largest

    def next(self, masses: Array) -> Array:
        """Return the next masses; see `Minibatch`."""
        return self._masses(self._scaled(masses)) if self.read.x.numel() else masses

    def last(self, masses: Array, out: Array) -> None:
        """Write the codes; see `Minibatch`."""
        if self.read.x.numel():
            self.kernels.minibatch_columns(replace(self._scaled(masses), out=out))

    def _scaled(self, masses: Array) -> MinibatchRead:
        """Find v of the rows, unless the kernel that needs it does so itself."""
        read = replace(self.read, masses=masses)
        if not self.whole:
            read = replace(read, scales=self._empty(*read.tops.shape))
            self.kernels.minibatch_rows(read)
        return read

    def _masses(self, read: MinibatchRead) -> Array:
        batches, _, k = read.x.shape
        read = replace(read, sums=self._empty(batches, read.blocks, k))
        self.kernels.minibatch_columns(read)
        masses = self.torch.empty((batches, k), dtype=self.torch.float64, device=self.device)
        self.kernels.minibatch_finish(read.sums, masses)
        return masses

    def _empty(self, *shape: int) -> Array:
        return self.torch.empty(shape, dtype=self.float, device=self.device)


def in_vectors(scores: Array) -> bool:
    """Whether the rows of all batches can be read 16 bytes at a time."""
    if not scores.numel():
        return False
    apart = scores.stride(0) * scores.element_size() % 16 == 0 or scores.shape[0] == 1
    return apart and reads_in_vectors(scores[-1]) and scores.data_ptr() % 16 == 0
