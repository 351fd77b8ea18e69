"""The accelerated solve: steps between Newton's and Sinkhorn's, with one model of the curvature.

The semi-dual F(g) is smooth and convex in K numbers. A read of the matrix gives its gradient
``m(g) - b``; while it is read, the large entries of the rows are kept, from which the Hessian

    H = diag(m) - P^T diag(1/a) P        (epsilon times that of F)

follows well enough. A step moves g by epsilon * d, where

    (H + lam diag(b)) d = (b - m) + lam diag(b) log(b / m)

With lam = 0 this is Newton's step, and as lam grows it becomes Sinkhorn's, d = log(b / m). Whether
a step was good, the next read tells, by the slopes of F along d at both ends and by the violation.
After a good step lam falls; after a bad one it rises, and if F rose another step is taken from the
same g. Sinkhorn's own step, which is taken when lam has become large, always stays, as it always
lowers F. So a run of bad steps ends, whatever the kept entries are worth, and where they are right
the steps are Newton's. This is no proof of convergence: docs/algorithm.md says what is missing.
"""

from __future__ import annotations

import math

from sinkhorn_ot.arrays import Array, namespace
from sinkhorn_ot.solvers.model import TINY, Model
from sinkhorn_ot.solvers.watch import Seen, Watch, centre, sinkhorn_step

#: What a step is expected to leave of the violation before anything is known.
FIRST_STEP = 1 / 30
#: A reading is made with labels if its violation is expected to be within this of `tol`.
HOPEFUL = 10.0
#: Problems of fewer entries begin with some of Sinkhorn's steps, which cost less: until this many
#: did not bring the violation down to SLOW of what it was. lam is CLOSER then.
SMALL, PLAIN, SLOW, CLOSER = 1 << 17, 2, 0.5, 0.5
#: Rows per cluster in the first sample, the growth from sample to sample, and the part of all rows
#: that the largest may take.
FIRST_SAMPLE, GROWTH, LARGEST_SAMPLE = 4, 8, 0.2
#: A sample is solved to this multiple of its own noise, in at most so many steps.
NOISE, SAMPLE_STEPS = 1.2, 12
#: lam at most after a sample, and at a warm start: g is not far any more.
NEAR = 0.03


def solve(
    watch: Watch, g: Array, *, max_iter: int, words: int, warm: bool, patience: int | None = None
) -> tuple[Seen, int]:
    """Move g until ``||m(g) - b||_1 <= tol``.

    Each step takes one read. Another one is needed where the kept entries are too old, or where
    labels or float64 are missing at the end; samples are read before.

    Parameters
    ----------
    watch : Watch
        The problem, its passes and `tol`.
    g : (K,) array
        Where to start: from there if `warm`, else by way of samples of the rows.
    max_iter : int
        Steps at most, those that were taken back included.
    words : int
        Room for kept entries, in words of 4 bytes.
    patience : int, optional
        The solve ends where so many reads did not halve the least violation that it saw before.

    Returns
    -------
    Seen, int
        The g of the least violation, and the number of steps.
    """
    problem, passes, tol = watch.problem, watch.passes, watch.tol
    b, begun = problem.b, len(watch.history)
    model = Model(problem, passes, words)
    g = centre(g, b)
    plain = PLAIN if problem.n * len(b) < SMALL else 0
    if warm:
        model.lam = NEAR
    elif plain:
        model.lam = CLOSER
    else:
        g = start_by_samples(model, g)
    now: Seen | None = None
    expected = math.inf  # violation of the next reading
    for n_iter in range(max_iter + 1):
        last = n_iter == max_iter
        at_end = last or expected <= tol
        read = passes.read if at_end or plain else model.read
        seen = watch.read(g, assign=at_end or expected <= HOPEFUL * tol, by=read)
        if last or watch.stopped or (tol > 0 and seen.violation <= tol):
            break
        if patience is not None and watch.crept(begun, patience):
            break
        if now is None:
            now, ratio = seen, FIRST_STEP
        else:
            ratio = seen.violation / max(now.violation, TINY)
            if plain or model.accepts(now, seen):
                now = seen
            else:
                ratio = math.inf  # the next step is another one from the same g
        if plain:
            plain -= ratio > SLOW
            d, foreseen = sinkhorn_step(now.log_mass, b), math.inf
        else:
            model.settle(now)
            d, foreseen = model.step(now, tol)
        expected = min(ratio * now.violation, foreseen)
        g = centre(now.g + problem.epsilon * d, b)
    assert watch.best is not None
    return watch.best, n_iter


def start_by_samples(model: Model, g: Array) -> Array:
    """Solve growing samples of the rows by the same steps, each no better than its own noise."""
    problem, b, xp = model.problem, model.problem.b, namespace(g)
    for stride in sample_strides(problem.n, len(problem.b)):
        now: Seen | None = None
        for _ in range(SAMPLE_STEPS):
            reading = model.read(g, stride=stride)
            off = abs(xp.exp(reading.log_mass) - b)
            none = (b > 0) & (reading.log_mass == -math.inf)  # no row of the sample may go there
            violation = model.passes.number(xp.where(none, math.inf, off).sum())
            if not math.isfinite(violation):
                break  # or there is a bad row, which the read of the whole names
            seen = Seen(g, reading.log_mass, violation)
            if now is None or model.accepts(now, seen):
                now = seen
            model.settle(now, stride=stride)
            if now.violation <= NOISE * model.noise(problem.n // stride):
                break
            d, _ = model.step(now)
            g = centre(now.g + problem.epsilon * d, problem.b)
        if now is not None:
            g = now.g
            model.lam = min(model.lam, NEAR)
    return g


def sample_strides(n: int, k: int) -> list[int]:
    """One of how many rows each sample takes, the smallest sample first."""
    strides, rows = [], FIRST_SAMPLE * k
    while rows <= LARGEST_SAMPLE * n:
        strides.append(n // rows)
        rows *= GROWTH
    return strides
