"""The step of SwAV and DINOv2 in three passes over a minibatch, by array operations.

The iterates are ``diag(v) Q diag(u)`` with ``Q = exp((scores - top) / epsilon)`` and `top` the
largest score of each row.  Between two passes there are the masses alone, the sums of the columns
of ``diag(v) Q``: u is their inverse, and processes add them up.
"""

from __future__ import annotations

from typing import Any

from sinkhorn_ot.arrays import Array, cast_like, dtype_name, is_torch, namespace

#: A column's mass is taken to be K times this at least: it may be 0 in float32, and then u is so
#: small that the sum of K of them in a row does not overflow.
TINY = 1e-37


class ArrayMinibatch:
    """The passes in a handful of array operations: for any device, and what others are tested by.

    Q is kept, in float32 or, for float64 scores, in that.
    """

    def __init__(self, scores: Array, epsilon: float, n_valid: Array | None) -> None:
        self.xp = xp = namespace(scores)
        self.epsilon = epsilon
        wide = xp.float64 if dtype_name(scores) == "float64" else xp.float32
        kernel = scores.to(wide) if is_torch(scores) else scores.astype(wide)
        if n_valid is not None:
            counts = self._counts(n_valid, scores)
            kernel = xp.where(counts, kernel, xp.zeros_like(kernel))
        self.top = xp.amax(kernel, axis=-1, keepdims=True)  # (batches, n, 1)
        kernel = xp.exp((kernel - self.top) / epsilon)
        if n_valid is not None:
            kernel = kernel * counts
            self.top = xp.where(counts, self.top, xp.full_like(self.top, -xp.inf))
        self.kernel = kernel

    def first(self) -> tuple[Array, Array]:
        """Return masses and largest scores; see `Minibatch`."""
        if not self.top.shape[1]:  # no rows, in this process
            nothing = self.kernel.sum(axis=1)
            return nothing, nothing[:, 0] - self.xp.inf
        largest = self.xp.amax(self.top, axis=(-2, -1), keepdims=True)
        # -inf where no row counts
        shift = self.xp.where(largest == -self.xp.inf, 0.0, largest)
        v = self.xp.exp((self.top - shift) / self.epsilon)
        return self._masses(v), largest[:, 0, 0]

    def next(self, masses: Array) -> Array:
        """Return the next masses; see `Minibatch`."""
        return self._masses(self._scalings(masses)[1])

    def last(self, masses: Array, out: Array) -> None:
        """Write the codes; see `Minibatch`."""
        u, v = self._scalings(masses)
        out[...] = cast_like(self.kernel * u.swapaxes(-1, -2) * v, out)

    def _masses(self, v: Array) -> Array:
        return self.xp.matmul(self.kernel.swapaxes(-1, -2), v)[..., 0]

    def _scalings(self, masses: Array) -> tuple[Array, Array]:
        k = masses.shape[-1]
        u = 1.0 / masses[..., None].clip(k * TINY)  # (batches, k, 1)
        # rows that do not count have sums of 0
        return u, 1.0 / self.xp.matmul(self.kernel, u).clip(TINY)

    def _counts(self, n_valid: Array, scores: Array) -> Any:
        """Which rows count: (batches, n, 1)."""
        where = {"device": scores.device} if is_torch(scores) else {}
        return self.xp.arange(scores.shape[1], **where)[:, None] < n_valid[:, None, None]
