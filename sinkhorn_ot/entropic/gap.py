"""How far the objective of a plan can be from the optimum.

Let P be the plan of g and f, whose rows sum to a and whose columns sum to m, only nearly b.  From
``logits = epsilon log P - f - g`` follows for every plan Q with the marginals a and b

    <Q, logits> + epsilon H(Q)  =  U - epsilon KL(Q || P),      U = - <a, f> - <b, g>

So no plan has a larger objective than U (this is weak duality, U being the semi-dual at g), and
any one Q shows that the optimum is at least ``U - epsilon KL(Q || P)``.  The Q used here is P
rounded to the marginals (Altschuler, Weed and Rigollet, NeurIPS 2017, algorithm 2): what columns
have too much is taken from their entries in proportion, and each row gives what it lost to the
columns that lack mass.  Only some rows, the carriers, need to take part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from sinkhorn_ot.arrays import BLOCK_ENTRIES, Array, float64, namespace, row_blocks
from sinkhorn_ot.group import Group, GroupPasses
from sinkhorn_ot.passes import Backend, Problem, Reading

#: Carriers begin as so many rows a cluster (and at least so many), and grow by this factor until
#: they hold in every column twice what it has too much.
ROWS_A_CLUSTER, LEAST_ROWS, GROWTH, ENOUGH = 4, 4096, 8, 2.0
#: Where pairings are forbidden, Sinkhorn's iteration shares the moving mass out, until columns miss
#: this part of it. A sweep that leaves more than the second number of what was missed before fails.
#: Then so many times as much mass moves besides: through further columns it gets where it could not
#: go at once.
MISSED, STALLED, DETOURS = 1e-13, 0.99, (0.0, 1.0, 8.0)
#: What float64 sums and exponents are off by, in units of the potentials.
ROUNDING = 1e-14


def plan_objective(problem: Problem, passes: GroupPasses, g: Array, reading: Reading) -> float:
    """Return ``<P, logits> + epsilon * H(P)`` of the plan of a reading; waits for all processes.

    It is ``- <a, f> - <m, g>``: no further read is needed. NaN while a CUDA graph is recorded.
    """
    if not passes.may_wait:
        return math.nan
    xp = namespace(g)
    mass = xp.exp(reading.log_mass)
    rows = passes.group.sum(_over_rows(problem, reading.f).reshape(1))
    return -passes.number(rows[0] + _dot(mass, g))


def plan_gap(problem: Problem, group: Group, backend: Backend, g: Array, objective: float) -> float:
    """Return what the optimum can differ from `objective` at most; waits for all processes.

    Costs one read in float64, and some on the carriers.
    """
    passes = GroupPasses(problem, group, backend)
    reading = passes.read(g, exact=True, assign=True)
    if math.isnan(passes.number(reading.log_mass.sum())):
        raise passes.bad_row()
    xp, b = namespace(g), problem.b
    mass = xp.exp(reading.log_mass)
    f: Array = reading.f
    rows = group.sum(xp.stack((_over_rows(problem, f), _over_rows(problem, abs(f)))))
    upper = -float(rows[0]) - float(_dot(b, g))
    scale = float(rows[1]) + float(abs(xp.where(b > 0, g, 0.0)).max())
    moved = problem.epsilon * _rounding_divergence(problem, group, g, f, mass)
    return max(upper - objective, objective - upper + moved) + ROUNDING * scale


def _rounding_divergence(problem: Problem, group: Group, g: Array, f: Array, mass: Array) -> float:
    """``KL(Q || P)`` of the plan rounded to its marginals; inf where no Q was found."""
    b, k = problem.b, len(problem.b)
    excess, lack = (mass - b).clip(0.0), (b - mass).clip(0.0)
    moving = float(lack.sum())
    if moving == 0 or float(excess.sum()) == 0:
        return 0.0
    wanted = max(ROWS_A_CLUSTER * k, LEAST_ROWS)
    while True:
        stride = max(1, problem.n // wanted)
        carriers = _Carriers(problem, group, g, f, stride)
        for times in DETOURS:
            more = times * moving * b
            divergence = carriers.move(excess + more, lack + more)
            if divergence is None:
                break
            if math.isfinite(divergence):
                return divergence
        if stride == 1 or (divergence is not None and wanted * k > BLOCK_ENTRIES):
            return math.inf
        wanted *= GROWTH


class _Carriers:
    """The rows of the plan that take part in its rounding, one in each `stride`."""

    def __init__(self, problem: Problem, group: Group, g: Array, f: Array, stride: int) -> None:
        self.problem, self.group, self.xp, self.g = problem, group, namespace(g), g
        self.whole = stride == 1
        self.logits, self.f = problem.logits[::stride], f[::stride]

    def move(self, excess: Array, lack: Array) -> float | None:
        """Move mass from columns with too much to those that lack it; return ``KL(Q || P)``.

        None if the carriers hold too little, inf if forbidden pairings are in the way.
        """
        xp = self.xp
        held, able = xp.zeros_like(excess), xp.zeros_like(self.f)
        for rows, log_p, allowed in self._blocks():  # a row gives as far as it may pass on
            able[rows] = xp.where(allowed, lack, 0.0).sum(1) / lack.sum()
            held = held + able[rows] @ xp.exp(log_p)
        held = self.group.sum(held)
        if bool((excess * (1 - 1e-12 if self.whole else ENOUGH) > held).any()):
            return None
        part = (excess / xp.where(held > 0, held, 1.0)).clip(0.0, 1.0)
        given = xp.zeros_like(self.f)
        for rows, log_p, _ in self._blocks():
            given[rows] = able[rows] * (xp.exp(log_p) @ part)
        lack = lack * (float(self.group.sum(given.sum().reshape(1))[0]) / float(lack.sum()))
        shares = self._share_out(given, lack)
        if shares is None:
            return math.inf
        u, v = shares
        divergence = excess[:1] * 0.0
        for rows, log_p, allowed in self._blocks():
            p = xp.exp(log_p)
            q = p * (1.0 - able[rows, None] * part) + xp.where(allowed, u[rows, None] * v, 0.0)
            some = q > 0
            logarithm = xp.log(xp.where(some, q, 1.0)) - xp.where(some, log_p, 0.0)
            divergence = divergence + (q * logarithm - q + p).sum()
        return float(self.group.sum(divergence)[0])

    def _share_out(self, given: Array, lack: Array) -> tuple[Array, Array] | None:
        """Find u and v: row i gives ``u_i v_k`` to every column k that it may, which has its lack.

        Where nothing is forbidden this is their product at once.
        """
        xp, v = self.xp, lack
        u, missed, before = xp.zeros_like(given), math.inf, math.inf
        while missed == math.inf or missed <= STALLED * before:
            got = xp.zeros_like(lack)
            for rows, _, allowed in self._blocks():
                room = xp.where(allowed, v, 0.0).sum(1)
                u[rows] = xp.where(room > 0, given[rows] / xp.where(room > 0, room, 1.0), 0.0)
                got = got + xp.where(allowed, u[rows, None], 0.0).sum(0)
            got = v * self.group.sum(got)
            before, missed = missed, float(abs(got - lack).sum())
            if missed <= MISSED * float(lack.sum()):
                return u, v
            v = v * xp.where(got > 0, lack / xp.where(got > 0, got, 1.0), 0.0)
        return None

    def _blocks(self) -> Iterator[tuple[slice, Array, Array]]:
        """Some rows, the logarithms of their plan, and which pairings are allowed."""
        for rows in row_blocks(*self.logits.shape):
            values = float64(self.logits[rows], self.g)
            log_p = (values + self.g + self.f[rows, None]) / self.problem.epsilon
            yield rows, log_p, values > -math.inf


def _over_rows(problem: Problem, f: Array) -> Array:
    """``<a, f>`` of the rows held here, in blocks: nothing as long as f is made."""
    if problem.a is None:
        return f.sum() / problem.n
    total = f[:0].sum()
    for rows in row_blocks(len(f), 1):
        total = total + _dot(problem.a[rows], f[rows])
    return total


def _dot(masses: Array, potentials: Array) -> Array:
    """``<masses, potentials>``, where a potential of no mass is -inf."""
    xp = namespace(masses)
    return (masses * xp.where(masses > 0, potentials, 0.0)).sum()
