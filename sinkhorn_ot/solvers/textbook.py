"""Sinkhorn's iteration, as in a textbook."""

from __future__ import annotations

from sinkhorn_ot.arrays import Array, on_host
from sinkhorn_ot.solvers.watch import Seen, Watch, centre, sinkhorn_step

#: A reading whose violation is more than so many times `tol` is not expected to be the last one.
HOPELESS = 10.0


def solve(watch: Watch, g: Array, *, max_iter: int) -> tuple[Seen, int]:
    """Repeat ``g += epsilon * log(b / m(g))`` until ``||m - b||_1 <= tol`` (Cuturi 2013).

    Rows are always exact, as f follows from g; this is his alternation of both marginals, in the
    semi-dual variable g. With ``tol == 0`` it takes exactly `max_iter` steps: nobody looks at the
    violation then, so that a device need not be waited for (and the steps fit into a CUDA graph).

    Returns
    -------
    Seen, int
        The g of the least violation (for ``tol == 0`` the last one), and the number of steps.
    """
    problem, passes, tol = watch.problem, watch.passes, watch.tol
    b = problem.b
    g = centre(g, b)
    looks = tol > 0 or watch.asks is not None
    near = False  # whether the next reading may be the last
    for n_iter in range(max_iter + 1):
        last = n_iter == max_iter
        if looks or last:
            seen = watch.read(g, assign=last or near)
            if last or watch.stopped or (tol > 0 and seen.violation <= tol):
                break
            log_mass, near = seen.log_mass, seen.violation <= HOPELESS * tol
        else:
            reading = passes.read(g, exact=watch.exact)
            log_mass = reading.log_mass
            if n_iter == 0:
                watch.begin(reading, look=on_host(b))
        g = centre(g + problem.epsilon * sinkhorn_step(log_mass, b), b)
    best = watch.best if tol > 0 else seen
    assert best is not None
    return best, n_iter
