"""What a solve returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sinkhorn_ot import backends
from sinkhorn_ot.arrays import (
    Array,
    cast_like,
    check_matrix,
    float64,
    is_torch,
    namespace,
    place_of,
    row_blocks,
)
from sinkhorn_ot.entropic.gap import plan_gap
from sinkhorn_ot.group import Group
from sinkhorn_ot.passes import Problem
from sinkhorn_ot.passes import Progress as Progress

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class SinkhornWarning(UserWarning):
    """The solve stopped before the column marginal reached `tol`."""


@dataclass(frozen=True, eq=False, repr=False)
class SinkhornResult:
    """The plan ``P_ik = exp((logits_ik + f_i + g_k) / epsilon)``, held by its potentials.

    `labels`, `f`, `g`, `marginal_violation` and `converged` all belong to the same `g`.
    Arrays are of the library and on the device of the logits.

    Attributes
    ----------
    labels : (N,) int64
        ``argmax_k (logits_ik + g_k)``, the lowest index on ties.
    f : (N,) float64
        Row potentials; rows of the plan sum to `a` by construction.
    g : (K,) float64
        Column potentials, with ``sum_k b_k g_k = 0`` over b_k > 0; -inf where b_k = 0.
    n_iter : int
        Updates of `g`.
    n_passes : float
        Reads of the N x K matrix, the one that makes the labels included.
    converged : bool
        Whether `marginal_violation` <= tol.
    marginal_violation : float
        ``||m - b||_1`` for the column masses m of the plan; in [0, 2].
    history : tuple of Progress
        (n_passes, marginal_violation, seconds) through the solve; the last is the result.
    objective : float
        ``<P, logits> + epsilon * H(P)`` of the plan P, with ``H(P) = -sum P log P``; in units of
        the logits.  As good as `f` is; `gap` tells how far it is from the optimum.
    epsilon : float
        The entropy weight that was used.
    a, b : (N,) or None, (K,) float64
        The marginals that were asked for, each adding up to 1; None for 1 / N each.
    backend : str
        The backend that ran.
    """

    labels: Array
    f: Array
    g: Array
    n_iter: int
    n_passes: float
    converged: bool
    marginal_violation: float
    history: tuple[Progress, ...]
    objective: float
    epsilon: float
    a: Array | None
    b: Array
    backend: str

    def __repr__(self) -> str:
        """One line; the arrays are attributes."""
        how = "converged" if self.converged else "not converged"
        n, k = self.labels.shape[0], self.g.shape[0]
        return (
            f"SinkhornResult({n} x {k}, {how}, marginal_violation={self.marginal_violation:.3g}, "
            f"n_iter={self.n_iter}, n_passes={self.n_passes:.3g}, epsilon={self.epsilon:g}, "
            f"backend={self.backend!r})"
        )

    @property
    def counts(self) -> Array:
        """How many rows carry each label: (K,) int64."""
        return namespace(self.labels).bincount(self.labels, minlength=self.g.shape[0])

    def gap(self, logits: Array, *, process_group: ProcessGroup | None = None) -> float:
        """Bound ``abs(objective - optimum)``, whatever the solve did: a proof, in float64.

        The optimum is between ``U - epsilon * KL(Q || P)`` and ``U = - <a, f> - <b, g>`` for every
        plan Q that has the marginals `a` and `b`; here Q is P rounded to them (docs/algorithm.md).
        P has them only within the violation, so that `objective` can be on either side of the
        optimum; the bound falls to 0 with the violation.

        Parameters
        ----------
        logits : (N, K)
            The logits that were solved.  They are read once, and some rows of them again.
        process_group : torch.distributed.ProcessGroup, optional
            That of the solve.  Each process passes its own rows; this waits for all of them.

        Returns
        -------
        float
            In units of the logits; the same in all processes.  inf where forbidden pairings leave
            no such Q, or none that rounding finds.

        Raises
        ------
        ValueError
            Logits of another shape, or with bad rows.
        """
        group = Group(process_group)
        logits, counts = group.agree(
            lambda: self._check_solved(logits, "gap"), lambda mine: ({}, mine.shape[0])
        )
        first = sum(counts[: group.rank])
        problem = Problem(logits, self.a, self.b, self.epsilon, sum(counts), first)
        backend = backends.named(self.backend, place_of(logits))
        return plan_gap(problem, group, backend, self.g, self.objective)

    def plan(self, logits: Array) -> Array:
        """Transport plan: rows sum to `a`, columns to `b` within the violation.

        Parameters
        ----------
        logits : (N, K)
            The logits that were solved.

        Returns
        -------
        (N, K) array in the logits' dtype
            It is as large as the logits; entries are about 1 / (N K). In float16 most of these
            round to 0 beyond N K of ten million: pass the logits as float32 then.
        """
        logits = self._check_solved(logits, "plan")
        xp, out = namespace(logits), _empty_like(logits)
        for rows in row_blocks(*logits.shape):
            shifted, _ = self._shifted(logits, rows)
            weights = xp.exp((shifted + self.f[rows, None]) / self.epsilon)
            out[rows] = cast_like(weights, logits)
        return out

    def soft_labels(self, logits: Array) -> Array:
        """Class probabilities of each row: the plan with rows scaled to sum to 1.

        Parameters
        ----------
        logits : (M, K), or a (T, M, K) stack of such
            Any rows, those that were solved or new ones.

        Returns
        -------
        array like the logits, in their dtype
            Rows sum to 1.
        """
        if getattr(logits, "ndim", 2) == 3:
            return namespace(logits).stack([self.soft_labels(head) for head in logits])
        logits = self._check(logits)
        xp, out = namespace(logits), _empty_like(logits)
        for rows in row_blocks(*logits.shape):
            shifted, top = self._shifted(logits, rows)
            weights = xp.exp((shifted - top) / self.epsilon)
            out[rows] = cast_like(weights / xp.sum(weights, axis=1, keepdims=True), logits)
        return out

    def predict(self, new_logits: Array) -> Array:
        """Labels of unseen rows: ``argmax_k (new_logits_ik + g_k)``.

        Parameters
        ----------
        new_logits : (M, K), or a (T, M, K) stack of such
            In the library of the logits that were solved.

        Returns
        -------
        (M,) or (T, M) int64 array
            The lowest index on ties.
        """
        if getattr(new_logits, "ndim", 2) == 3:
            return namespace(new_logits).stack([self.predict(head) for head in new_logits])
        logits = self._check(new_logits)
        xp = namespace(logits)
        blocks = row_blocks(*logits.shape)
        return xp.concatenate(
            [xp.argmax(self._shifted(logits, rows)[0], axis=1) for rows in blocks]
        )

    def _check(self, logits: Array) -> Array:
        if is_torch(logits) != is_torch(self.g):
            raise TypeError(
                f"the result holds {type(self.g).__name__}s, got a {type(logits).__name__}"
            )
        logits = check_matrix(logits, may_be_empty=True)
        if logits.shape[1] != self.g.shape[0]:
            raise ValueError(
                f"logits must have the {self.g.shape[0]} clusters of this result, "
                f"got shape {tuple(logits.shape)}"
            )
        return logits

    def _check_solved(self, logits: Array, asked: str) -> Array:
        logits = self._check(logits)
        if logits.shape[0] != self.f.shape[0]:
            raise ValueError(
                f"{asked} needs the {self.f.shape[0]} rows that were solved, got "
                f"{logits.shape[0]}; soft_labels and predict take any rows"
            )
        return logits

    def _shifted(self, logits: Array, rows: slice) -> tuple[Array, Array]:
        """``logits + g`` of some rows in float64, and its finite row maxima."""
        xp = namespace(logits)
        shifted = float64(logits[rows], logits) + self.g
        top = xp.amax(shifted, axis=1, keepdims=True)
        bad = ~xp.isfinite(top[:, 0])
        if bool(bad.any()):
            row = rows.start + int(xp.nonzero(bad)[0][0])
            raise ValueError(
                f"row {row} of logits holds NaN or +inf, or is -inf for every cluster in use"
            )
        return shifted, top


def _empty_like(logits: Array) -> Array:
    """A new contiguous array, writable even where the logits are not."""
    if is_torch(logits):
        return logits.new_empty(tuple(logits.shape))
    return np.empty(logits.shape, logits.dtype)
