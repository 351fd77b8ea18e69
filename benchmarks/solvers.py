"""sinkhorn_ot and its peers behind one signature: float32 logits in, labels and g out.

Every solver stops at the same ``||m - b||_1 <= tol`` and starts from the same float32 array.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from problems import EPSILON

MAX_ITER = 10_000
#: Iterations without 1% of progress after which a loop whose test never fires is stopped.
IDLE = 100
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """Labels (N,), column potential (K,), iterations, reads, (seconds, violation) on the way."""

    labels: NDArray[np.int64]
    g: NDArray[np.float64]
    n_iter: int
    reads: float | None = None
    curve: list[tuple[float, float]] = field(default_factory=list)
    stalled: bool = False  # its own test never fired


def ours(logits: Logits, tol: float, **options: object) -> Answer:
    """sinkhorn_ot as a user calls it."""
    import sinkhorn_ot

    result = sinkhorn_ot.sinkhorn(logits, epsilon=EPSILON, tol=tol, **options)
    curve = [(h.seconds, h.marginal_violation) for h in result.history]
    return Answer(result.labels, result.g, result.n_iter, result.n_passes, curve)


def textbook(logits: Logits, tol: float) -> Answer:
    """sinkhorn_ot with the plain iteration."""
    return ours(logits, tol, method="sinkhorn", max_iter=MAX_ITER)


def sela_original(logits: Logits, tol: float, *, epsilon: float = EPSILON) -> Answer:
    """The loop of the SeLa paper in float64 NumPy, written from its maths.

    As the original it raises the probabilities to the power lambda in place, alternates two
    matrix-vector products, and rescales the whole matrix twice before the argmax. It stops at the
    common violation instead of its own criterion; as ``P @ c`` is needed for the next step
    anyway, looking costs nothing.
    """
    start, curve = time.perf_counter(), []
    n, k = logits.shape
    p = logits.astype(np.float64)
    p -= p.max(axis=1, keepdims=True)
    np.exp(p, out=p)
    p /= p.sum(axis=1, keepdims=True)
    p **= 1 / epsilon
    p = p.T
    r, c = np.full(k, 1 / k), np.full(n, 1 / n)
    for n_iter in range(MAX_ITER):
        sums = p @ c
        if n_iter > 0:
            violation = np.abs(r * sums - 1 / k).sum()
            curve.append((time.perf_counter() - start, float(violation)))
            if violation <= tol:
                break
        r = (1 / k) / sums
        c = (1 / n) / (r @ p)
    p *= c
    p.T[...] *= r
    return Answer(np.nanargmax(p, axis=0), epsilon * np.log(r), n_iter, None, curve)


def torch_two_matvec(logits: Logits, tol: float) -> Answer:
    """A careful float32 loop in torch: in place, row-max shift, tiny entries zeroed, two products.

    Column masses are added up in float64 over blocks of rows: in float32 alone their error would
    be 1.5e-3 for a million `flat` rows. Its input is a copy made before the clock starts, as it
    overwrites it (see case.py).
    """
    import torch

    torch.set_flush_denormal(True)
    start, curve = time.perf_counter(), []
    n, k = logits.shape
    p = torch.from_numpy(logits)
    blocks = p.split(10_000)
    p.sub_(p.amax(1, keepdim=True)).div_(EPSILON).exp_()
    for rows in blocks:  # a mask of the whole would be another quarter of the input
        rows.masked_fill_(rows < 1e-20, 0.0)  # denormal products would cost ten times the time
    u = torch.ones(k)
    n_iter, least, idle = 0, np.inf, 0
    while idle < IDLE:
        v = torch.mv(p, u).reciprocal_().div_(n).split(10_000)
        masses = [torch.mv(rows.T, part) for rows, part in zip(blocks, v, strict=True)]
        mass = torch.stack(masses).sum(0, dtype=torch.float64).float().mul_(u)
        violation = float((mass - 1 / k).abs().sum())
        curve.append((time.perf_counter() - start, violation))
        if violation <= tol:
            break
        idle = 0 if violation < 0.99 * least else idle + 1
        least = min(least, violation)
        u.mul_((1 / k) / mass)
        n_iter += 1
    labels = p.mul_(u).argmax(1)
    g = EPSILON * u.double().log().numpy()
    torch.set_flush_denormal(False)
    return Answer(labels.numpy(), g, n_iter, None, curve, idle >= IDLE)


def pot(logits: Logits, tol: float) -> Answer:
    """POT's ot.sinkhorn in float64 (float32 loses all mass on peaked logits).

    It tests the 2-norm of the column error, after iterations 1, 11, 21 and so on. A 2-norm of
    tol / sqrt(K) ensures a 1-norm of tol, so it may run up to ten or so iterations too many.
    """
    import ot

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


def ott(logits: Logits, tol: float) -> Answer:
    """OTT-JAX in the log domain with momentum 1.5, its fastest here; it looks every 10 iterations.

    Rows are updated last, as everywhere here; its error is then that of the columns.
    """
    import jax.numpy as jnp

    out = ott_solve(jnp.asarray(logits), tol, MAX_ITER)
    g = np.asarray(out.f, np.float64)
    labels = np.asarray((jnp.asarray(logits) + out.f[None, :]).argmax(1))
    return Answer(labels, g, int(out.n_iters))


def ott_solve(logits: Any, tol: float, max_iter: int) -> Any:
    """Return what OTT makes of logits that JAX has, on their device."""
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import acceleration, sinkhorn

    # transposed, so that the marginal it leaves inexact is the clusters'
    geom = geometry.Geometry(cost_matrix=-logits.T, epsilon=EPSILON)
    solver = sinkhorn.Sinkhorn(
        threshold=tol,
        max_iterations=max_iter,
        lse_mode=True,
        momentum=acceleration.Momentum(value=1.5),
    )
    return solver(linear_problem.LinearProblem(geom))


SOLVERS: dict[str, Callable[[Logits, float], Answer]] = {
    "sinkhorn_ot": ours,
    "textbook": textbook,
    "torch_two_matvec": torch_two_matvec,
    "sela_original": sela_original,
    "pot": pot,
    "ott": ott,
}
OVERWRITES = {"torch_two_matvec"}
MODULES = {
    "sinkhorn_ot": ["sinkhorn_ot"],
    "textbook": ["sinkhorn_ot"],
    "torch_two_matvec": ["torch"],
    "sela_original": [],
    "pot": ["ot"],
    "ott": ["ott.geometry.geometry", "ott.solvers.linear.sinkhorn"],
}
#: What each is measured with, as it is called where packages are installed from.
PACKAGES = {
    "sinkhorn_ot": ["sinkhorn-ot"],
    "textbook": ["sinkhorn-ot"],
    "torch_two_matvec": ["torch"],
    "sela_original": ["numpy"],
    "pot": ["POT"],
    "ott": ["ott-jax", "jax"],
}


def installed(modules: list[str]) -> bool:
    """Whether all of these modules can be imported."""
    return all(importlib.util.find_spec(name.split(".")[0]) is not None for name in modules)
