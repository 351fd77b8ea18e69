"""From what the caller passed to a result: head by head check, solve, report."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from sinkhorn_ot.arrays import Array, float64, heads_of, namespace
from sinkhorn_ot.entropic.checks import Options, check
from sinkhorn_ot.entropic.gap import plan_objective
from sinkhorn_ot.entropic.result import SinkhornResult, SinkhornWarning
from sinkhorn_ot.group import Group, GroupPasses, Told
from sinkhorn_ot.solvers import annealing

#: Reads after which a violation that has not fallen is not expected to fall any more.
RECENT = 15
#: Class sizes are far from N * b if their differences add up to more than this, over N.
UNEVEN = 0.5
#: With fewer samples a class than this, sizes are not looked at.
FEW = 10
HERE = str(Path(__file__).parents[1]) + os.sep


def solve_heads(heads: Iterator[Array], options: Options) -> Iterator[SinkhornResult]:
    """Solve one matrix after the other, in all processes of a group alike.

    What a head raises names it: in the message of our own errors, in a note of others.
    """
    each, group = with_options(heads, options), Group(options.process_group)

    def another(pair: tuple[Array, Options] | None) -> Told:
        return {"whether logits hold another head": pair is not None}, None

    for number in itertools.count():
        pair, _ = group.agree(lambda: next(each, None), another)
        if pair is None:
            return
        with naming(number):
            result = solve_one(*pair, head=number)
        yield result


@contextlib.contextmanager
def naming(head: int) -> Iterator[None]:
    """Name the head in what is raised: in the message of our own errors, in a note of others."""
    try:
        yield
    except Exception as error:
        if type(error) in (TypeError, ValueError) and _is_ours(error):
            raise type(error)(f"head {head}: {error}") from error
        error.add_note(f"This was raised while head {head} was solved.")
        raise


def _is_ours(error: BaseException) -> bool:
    """Whether an error was raised in this package, and not by a callback or a library."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename.startswith(HERE)


def with_options(heads: Iterator[Array], options: Any) -> Iterator[tuple[Array, Any]]:
    """Pair each head with its row of `options.g_init`; complain if there is not one for each."""
    g_init, count = options.g_init, 0
    for count, head in enumerate(heads, start=1):
        if g_init is not None:
            if len(g_init) < count:
                raise ValueError(
                    f"g_init has {len(g_init)} rows, but there is a head {count}; pass one row of "
                    "K potentials for each head"
                )
            options = replace(options, g_init=g_init[count - 1])
        yield head, options
    if count == 0:
        raise ValueError("logits hold no head: pass at least one (N, K) matrix")
    if g_init is not None and len(g_init) != count:
        raise ValueError(f"g_init has {len(g_init)} rows for {count} heads; pass one for each")


def results_of(
    logits: Array | Iterator[Array], options: Options
) -> SinkhornResult | list[SinkhornResult]:
    """Return the result of a matrix, or a list of those of several heads."""
    heads = heads_of(logits)
    return solve_one(logits, options) if heads is None else list(solve_heads(heads, options))


def labels_of(logits: Array | Iterator[Array], options: Options) -> Array:
    """Return the labels of a matrix, or of several heads stacked; only these are kept of a head."""
    heads = heads_of(logits)
    if heads is None:
        result = solve_one(logits, options)
        _warn_if_uneven([_unevenness(result, options)], options.tol)
        return result.labels
    labels, uneven = [], []
    for result in solve_heads(alike(heads), options):
        labels.append(result.labels)
        uneven.append(_unevenness(result, options))
    _warn_if_uneven(uneven, options.tol)
    return namespace(labels[0]).stack(labels)


def alike(heads: Iterator[Array]) -> Iterator[Array]:
    """Pass heads on; complain of one whose labels would not stack, before it is solved."""
    n = None
    for number, head in enumerate(heads):
        rows = head.shape[0] if hasattr(head, "shape") and head.shape else n
        if n not in (None, rows):
            raise ValueError(
                f"head {number}: logits have {rows} rows, but those of the heads before have {n}: "
                "labels of heads are stacked; for heads of several lengths use sinkhorn, which "
                "returns a list"
            )
        n = rows
        yield head


def solve_one(logits: Array, options: Options, head: int | None = None) -> SinkhornResult:
    """Solve one matrix; `head` is its number in a stack or an iterator."""
    group = Group(options.process_group)
    problem, settings = check(logits, options, group)
    if settings.slow is not None:
        _warn_slow(settings.slow)
    watch, end, n_iter = annealing.solve(
        problem, settings, lambda level: GroupPasses(level, group, settings.backend)
    )
    reading, violation = watch.final(end)
    result = SinkhornResult(
        labels=reading.labels,
        f=reading.f,
        g=end.g,
        n_iter=n_iter,
        n_passes=watch.reads,
        converged=violation <= settings.tol,
        marginal_violation=violation,
        history=tuple(watch.history),
        objective=plan_objective(problem, watch.passes, end.g, reading),
        epsilon=problem.epsilon,
        a=problem.a,
        b=problem.b,
        backend=settings.backend.name,
    )
    if settings.tol > 0 and not result.converged and not watch.stopped:
        where = "" if head is None else f" (head {head})"
        warnings.warn(
            f"sinkhorn{where} stopped after {result.n_iter} iterations with marginal_violation "
            f"{result.marginal_violation:.3g} > tol {settings.tol:.3g}: "
            f"{_advice(result, settings.max_iter)}. The best result so far is returned.",
            SinkhornWarning,
            stacklevel=_level_of_caller(),
        )
    return result


def _advice(result: SinkhornResult, max_iter: int) -> str:
    """Return what helps a solve that has not ended: more steps, if those it had still helped."""
    violations = [entry.marginal_violation for entry in result.history]
    before, recent = violations[:-RECENT], violations[-RECENT:]
    if before and min(recent) > 0.99 * min(before):
        return (
            f"it has fallen by less than 1% in the last {RECENT} reads, so more of them will not "
            "help: -inf entries may leave no feasible plan"
        )
    return f"raise max_iter (now {max_iter})"


class Unevenness(NamedTuple):
    """How far class sizes are from their masses, though the plan is balanced."""

    off: float  # sum over the classes of abs(size / N - b)
    largest: int  # size of a class


def _unevenness(result: SinkhornResult, options: Options) -> Unevenness:
    """Compare sizes with masses; 0 where that says nothing of the rounding."""
    if not result.converged or options.tol == 0:
        return Unevenness(0.0, 0)
    counts = Group(options.process_group).sum(float64(result.counts, result.g))
    n, (k,) = float(counts.sum()), counts.shape
    off = float(abs(counts / n - result.b).sum()) if n >= FEW * k else 0.0
    return Unevenness(off, int(counts.max()))


def _warn_if_uneven(heads: list[Unevenness], tol: float) -> None:
    """Say of the worst head that its class sizes are far from N * b."""
    worst = max(heads)
    if worst.off > UNEVEN:
        where = f" of head {heads.index(worst)}" if len(heads) > 1 else ""
        warnings.warn(
            f"class sizes{where} are far from N * b, though the plan is balanced to {tol:g}: "
            f"they are off by {worst.off / 2:.0%} of all samples, the largest class has "
            f"{worst.largest}. Equal rows or a large epsilon leave the argmax no choice; "
            "rounding='exact' gives classes of exactly the wanted sizes",
            SinkhornWarning,
            stacklevel=_level_of_caller(),
        )


@functools.cache
def _warn_slow(reasons: str) -> None:
    """Say once that the slow backend runs, and why."""
    warnings.warn(
        f"sinkhorn_ot uses its slow float64 reference backend ({reasons})",
        RuntimeWarning,
        stacklevel=_level_of_caller(),
    )


def _level_of_caller() -> int:
    """The stacklevel at which a warning of the function that asks points at our caller."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(HERE):
        frame, level = frame.f_back, level + 1
    return level
