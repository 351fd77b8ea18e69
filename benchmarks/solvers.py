"""sinkhorn_ot and its peers behind one signature: float32 logits in, labels and g out.

Every solver stops at the same ``||m - b||_1 <= tol`` and starts from the same float32 array.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import ot
import torch
from numpy.typing import NDArray
from problems import EPSILON

import sinkhorn_ot

MAX_ITER = 10_000


@dataclass(frozen=True)
class Answer:
    """Labels (N,), column potential (K,) and the number of iterations."""

    labels: NDArray[np.int64]
    g: NDArray[np.float64]
    n_iter: int


def cpu(logits: NDArray[np.float32], tol: float) -> Answer:
    """sinkhorn_ot, backend cpu."""
    result = sinkhorn_ot.sinkhorn(logits, epsilon=EPSILON, tol=tol, backend="cpu")
    return Answer(result.labels, result.g, result.n_iter)


def sela_original(logits: NDArray[np.float32], tol: float) -> Answer:
    """The loop of the SeLa paper in float64 NumPy, written from its maths.

    As the original it raises the probabilities to the power lambda in place, alternates two
    matrix-vector products, and rescales the whole matrix twice before the argmax. It stops at the
    common violation instead of its own criterion; as ``P @ c`` is needed for the next step
    anyway, looking costs nothing.
    """
    n, k = logits.shape
    p = logits.astype(np.float64)
    p -= p.max(axis=1, keepdims=True)
    np.exp(p, out=p)
    p /= p.sum(axis=1, keepdims=True)
    p **= 1 / EPSILON
    p = p.T
    r, c = np.full(k, 1 / k), np.full(n, 1 / n)
    for n_iter in range(MAX_ITER):
        sums = p @ c
        if n_iter > 0 and np.abs(r * sums - 1 / k).sum() <= tol:
            break
        r = (1 / k) / sums
        c = (1 / n) / (r @ p)
    p *= c
    p.T[...] *= r
    return Answer(np.nanargmax(p, axis=0), EPSILON * np.log(r), n_iter)


def torch_two_matvec(logits: NDArray[np.float32], tol: float) -> Answer:
    """A careful float32 loop in torch: row-max shift, tiny entries zeroed, two products."""
    n, k = logits.shape
    x = torch.from_numpy(logits)
    p = x - x.amax(1, keepdim=True)
    p.div_(EPSILON).exp_()
    p.masked_fill_(p < 1e-20, 0.0)  # denormal products would cost ten times the time
    u = torch.ones(k)
    n_iter = 0
    while n_iter < MAX_ITER:
        v = torch.mv(p, u).reciprocal_().div_(n)
        mass = torch.mv(p.T, v).mul_(u)
        if float((mass - 1 / k).abs().sum()) <= tol:
            break
        u.mul_((1 / k) / mass)
        n_iter += 1
    labels = p.mul_(u).argmax(1)
    return Answer(labels.numpy(), EPSILON * u.double().log().numpy(), n_iter)


def pot(logits: NDArray[np.float32], tol: float) -> Answer:
    """POT's ot.sinkhorn in float64 (float32 loses all mass on peaked logits).

    It tests the 2-norm of the column error, after iterations 1, 11, 21 and so on. A 2-norm of
    tol / sqrt(K) ensures a 1-norm of tol, so it may run up to ten or so iterations too many: on
    flat logits 11, where 3 or 4 would do.
    """
    n, k = logits.shape
    plan, log = ot.sinkhorn(
        np.full(n, 1 / n),
        np.full(k, 1 / k),
        -logits.astype(np.float64),
        reg=EPSILON,
        numItermax=MAX_ITER,
        stopThr=tol / np.sqrt(k),
        log=True,
    )
    n_iter = int(log["niter"]) + 1  # niter is an index
    return Answer(plan.argmax(axis=1), EPSILON * np.log(log["v"]), n_iter)


SOLVERS: dict[str, Callable[[NDArray[np.float32], float], Answer]] = {
    "cpu": cpu,
    "sela_original": sela_original,
    "torch_two_matvec": torch_two_matvec,
    "pot": pot,
}
