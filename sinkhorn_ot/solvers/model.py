"""The model of the curvature: kept entries of the rows, and the step that is made of them."""

from __future__ import annotations

import math
from dataclasses import replace

from sinkhorn_ot.arrays import Array, namespace, on_host
from sinkhorn_ot.group import GroupPasses
from sinkhorn_ot.passes import REACH, SETS, Problem, Reading
from sinkhorn_ot.solvers.watch import Seen, moved, sinkhorn_step

#: lam at the start; what a good step divides it by; what a poor step multiplies it by, and one that
#: is taken back; below LEAST it is 0, and after such steps at least AGAIN.
START, FALL, POOR, RISE, LEAST, AGAIN = 1.0, 3.0, 2.0, 5.0, 1e-9, 1e-3
#: With a lam above this the step is Sinkhorn's itself, which is never taken back.
LARGE = 1e3
#: How well a step went: what it must leave of the violation, or of the slope of F along the step
#: with its sign turned. Beyond FAIR a step is poor. Beyond STAYS it is taken back: as far as the
#: slopes at both ends tell, F rose.
GOOD, FAIR, STAYS = (0.3, 0.25), (0.5, 0.5), (0.8, 1.0)
#: Entries are kept anew on the way if g has moved by more than FRESH, in epsilon, since they were,
#: or if the last step left more of the violation than a good one; if by more than STALE, the matrix
#: is read for it.
FRESH, STALE = 0.1, 3.0
#: Steps on the kept entries between two reads: while each lowers the predicted violation to HALF,
#: down to this part of that of the reading; and while they have cost less than so many reads.
HALF, KNOWN, CHEAP = 0.5, 0.01, 0.15
#: The violation that is found is seldom more than so many times what was predicted.
CAREFUL = 3.0
#: Conjugate gradients: the part of the residual that they leave, at most; the most steps; a device
#: is asked every so many whether they are done.
FORCING, CG_STEPS, CG_PATIENCE = 0.1, 50, 8
#: Violations are divided by this at least.
TINY = 1e-300


class Model:
    """The Hessian of F near the g of a read, and lam: how far to trust it.

    Of kept entries there are two sets: one is filled on the way while a step is tried, and takes
    the place of the other if the step is accepted.
    """

    def __init__(self, problem: Problem, passes: GroupPasses, words: int) -> None:
        self.xp = namespace(problem.b)
        self.problem, self.passes = problem, passes
        self.lam = START
        self.trusted = True  # the last step was good or fair
        self.proven = False  # it lowered the violation as a good one does
        self.kept, self.spare = (passes.keep(words // SETS) for _ in range(SETS))
        self.kept_at: Array = None  # the g at which entries were kept
        self.spare_at: Array = None
        self.stride = 0  # of the last read that kept entries
        self.at: Array = None  # how far g is from there, in epsilon
        self.m: Array = None  # of the kept entries: column masses
        self.s: Array = None  # and sums of squares

    def read(
        self, g: Array, *, exact: bool = False, assign: bool = False, stride: int = 1
    ) -> Reading:
        """Read the matrix, and keep entries on the way, if those that are there are old or bad."""
        kept = None
        if stride != self.stride or not (self.proven and self.reaches(g, FRESH)):
            self.spare_at, self.stride, kept = g, stride, self.spare
        return self.passes.read(g, exact=exact, assign=assign, stride=stride, kept=kept)

    def reaches(self, g: Array, far: float) -> bool:
        """Whether entries were kept at a g that is at most so far away, in epsilon."""
        at = self.kept_at
        return at is not None and float(abs(moved(g, at, self.problem)).max()) <= far

    def accepts(self, before: Seen, after: Seen) -> bool:
        """Whether the step between two readings may stay; lam follows how good it was."""
        d = moved(after.g, before.g, self.problem)
        gradients = self.xp.stack([seen.gradient(self.problem.b) for seen in (before, after)])
        first, last = (d * gradients).sum(1).tolist()
        ratio = after.violation / max(before.violation, TINY)

        def within(violation: float, slope: float) -> bool:
            return ratio < violation or last <= slope * abs(first)

        stays, self.trusted = within(*STAYS), within(*FAIR)
        self.proven = ratio < GOOD[0]
        if not stays and self.lam > LARGE:
            return True  # it was Sinkhorn's
        if within(*GOOD):
            self.lam = self.lam / FALL if self.lam > LEAST else 0.0
        elif not self.trusted:
            self.lam = max((POOR if stays else RISE) * self.lam, AGAIN)
        return stays

    def settle(self, now: Seen, *, stride: int = 1) -> None:
        """Make the kept entries those of a reading, or of one near it."""
        if self.spare_at is not now.g and not self.reaches(now.g, STALE):
            self.read(now.g, stride=stride)
        if self.spare_at is now.g:
            self.kept, self.spare = self.spare, self.kept
            self.kept_at, self.spare_at = self.spare_at, None
        self.at = moved(now.g, self.kept_at, self.problem)
        self.m, self.s = self.kept.mass(self.at)

    def noise(self, rows: int) -> float:
        """Return the violation to be expected of so many random rows at the true g."""
        b = self.problem.b
        variance = self.xp.where(self.m < b / 2, b, self.s - self.m**2).clip(0.0)
        return math.sqrt(2 / math.pi / rows) * float(self.xp.sqrt(variance).sum())

    def step(self, now: Seen, enough: float = 0.0) -> tuple[Array, float]:
        """Return how far to move g, in epsilon, and the violation to be expected there.

        The first step is that of the formula. The kept entries then predict the masses after it,
        ``m(d) = m(0) * kept(d) / kept(0)``, and until the violation is likely to be `enough`, as
        long as they know it and are cheap beside a read, another step follows from there. After a
        step that was poor or taken back there is only one.

        The violation is inf where nothing was predicted, or the last step left more of it than a
        good one.
        """
        xp, start, kept = self.xp, self.passes.kept_reads, self.m
        d = self.direction(now)
        left, known = now.violation, max(KNOWN * now.violation, enough / CAREFUL)
        while (
            self.trusted
            and self.lam <= LARGE
            and self.passes.kept_reads - start < CHEAP
            and float(abs(d).max()) < REACH
        ):
            m, s = self.kept.mass(self.at + d)
            seen = (m > 0) & (kept > 0)
            change = xp.log(xp.where(seen, m, 1.0) / xp.where(seen, kept, 1.0))
            there = Seen(now.g, now.log_mass + change, 0.0)
            predicted = float(abs(there.gradient(self.problem.b)).sum())
            if not known < predicted < HALF * left:
                likely = max(CAREFUL * predicted, CAREFUL * KNOWN * now.violation, enough)
                return d, likely if self.proven else math.inf
            self.m, self.s, left = m, s, predicted
            d = d + self.direction(replace(there, violation=predicted))
        return d, math.inf

    def direction(self, now: Seen) -> Array:
        """Return d of ``(H + lam diag(b)) d = (b - m) + lam diag(b) log(b / m)``.

        By conjugate gradients with the diagonal of the matrix as preconditioner: H times a vector
        is a walk over the kept entries.
        """
        xp, b, lam = self.xp, self.problem.b, self.lam
        pull = sinkhorn_step(now.log_mass, b)
        if lam > LARGE:
            return pull
        r = xp.where(b > 0, lam * b * pull - now.gradient(b), 0.0)
        # a column that no kept entry belongs to has its mass all the same
        diagonal = xp.where(self.m > 0, self.m, xp.exp(now.log_mass)) + lam * b
        inverse = 1.0 / (diagonal - self.s + 1e-12)
        x = xp.zeros_like(r)
        z = inverse * r
        p, rho = z, (r * z).sum()
        stop = min(FORCING, math.sqrt(now.violation)) ** 2 * rho
        going = rho > 0
        host = on_host(b)
        # on a device what has stopped stays as it is until that is noticed
        unless_stopped = (lambda _, new, old: new) if host else xp.where
        for count in range(1, CG_STEPS + 1):
            q = diagonal * p - self.kept.second_moment(p)
            curvature = (p * q).sum()
            going = going & (curvature > 0)
            if host and not going:
                break
            alpha = unless_stopped(going, rho / curvature, 0.0)
            x = x + alpha * p
            r = r - alpha * q
            z = inverse * r
            new_rho = (r * z).sum()
            going = going & (new_rho > stop)
            if (host or count % CG_PATIENCE == 0) and not bool(going):
                break
            p = unless_stopped(going, z + new_rho / rho * p, p)
            rho = unless_stopped(going, new_rho, rho)
        return xp.where((x != 0).any(), x, pull)
