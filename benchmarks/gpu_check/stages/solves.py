"""Whole solves, from logits to labels on the device: ours, and what a user would run otherwise."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from problems import FAMILIES

from gpu_check import peers
from gpu_check.machinery import machines_of, solver_of, synchronise
from gpu_check.problems_on_device import EPSILON, make_logits, true_violation
from gpu_check.stage import Stage

LARGE, SMALL = (1_000_000, 1_000), (3_000, 60)
#: Minibatches of self-supervised learning: prototypes as in SwAV, and as in DINOv2.
BATCHES, SMALL_BATCHES = ((4_096, 3_000), (2_048, 65_536)), ((64, 300), (8, 600))
TOLS = (1e-3, 1e-6)
#: Runs that count, after one that compiles; a peer that took longer than SLOW is run once.
RUNS, SLOW = 3, 1.0


def main(stage: Stage) -> None:
    """Ours on all families first; then minibatches; then the peers, family by family."""
    warnings.simplefilter("ignore", category=UserWarning)  # not converged: the violation says so
    found = {name: solver_of(machine) for name, machine in machines_of(stage).items()}
    n, k = SMALL if stage.rehearsal else LARGE
    families = (
        ("late", "flat") if stage.rehearsal else ("peaked", "late", "middle", "early", "flat")
    )
    assert set(families) <= set(FAMILIES)
    for dtype in (torch.float32, torch.bfloat16):
        for family in families:
            if not stage.has_time_for(2.0, f"{family}, {dtype}"):
                return
            logits = make_logits(family, n, k, stage.device, dtype)
            for name, solve in found.items():
                for tol in TOLS:
                    ours(stage, solve, name, family, logits, tol)
            del logits
    for n_batch, k_batch in SMALL_BATCHES if stage.rehearsal else BATCHES:
        logits = make_logits("late", n_batch, k_batch, stage.device)
        for name, solve in found.items():
            ours(stage, solve, name, "minibatch", logits, TOLS[0])
        for name in ("torch, two products", "SeLa's loop, float64"):
            theirs(stage, name, "minibatch", peers.Problem(logits), TOLS[0])
    general = [name for name, (_, points, _) in peers.PEERS.items() if not points]
    for family in families:
        if not stage.has_time_for(3.0, f"peers on {family}"):
            return
        problem = peers.Problem(make_logits(family, n, k, stage.device))
        for name in general:
            theirs(stage, name, family, problem, TOLS[0])
    problem = peers.unit_points(n, k, stage.device)
    for name, solve in found.items():
        ours(stage, solve, name, "unit vectors", problem.logits, TOLS[0])
    for name in peers.PEERS:
        theirs(stage, name, "unit vectors", problem, TOLS[0])


def ours(
    stage: Stage, solve: Callable[..., Any], name: str, family: str, logits: torch.Tensor,
    tol: float,
) -> None:  # fmt: skip
    """Measure a solve of ours."""

    def work() -> dict[str, Any]:
        seconds, peak, result = measured(
            stage, lambda: solve(logits, epsilon=EPSILON, tol=tol), RUNS
        )
        returned = result.labels.nbytes + result.f.nbytes + result.g.nbytes
        return {
            **seconds, "peak_gb": None if peak is None else round((peak - returned) / 1e9, 4),
            "reads": round(result.n_passes, 2), "n_iter": result.n_iter,
            "converged": result.converged, "reported": result.marginal_violation,
            "violation": true_violation(logits, result.g),
            "waits": waits(stage, solve, logits, tol),
        }  # fmt: skip

    stage.attempt("ours", work, **about(name, family, logits, tol))


def theirs(
    stage: Stage, name: str, family: str, problem: peers.Problem, tol: float
) -> None:  # fmt: skip
    """Measure a peer; say so if it is not installed."""
    logits = problem.logits
    what = about(name, family, logits, tol)
    if not peers.installed(name):
        stage.record(what="peer", **what, unavailable="not installed")
        return
    if not stage.has_time_for(1.0, f"{name} on {family}"):
        return
    solve = peers.PEERS[name][2]

    def work() -> dict[str, Any]:
        overwrites = name == "torch, two products"
        scratch = logits.clone() if overwrites else logits

        def once() -> peers.Answer:
            return solve(peers.Problem(scratch, problem.features, problem.prototypes), tol)

        def renew() -> None:
            if overwrites:
                scratch.copy_(logits)

        seconds, peak, answer = measured(stage, once, RUNS, renew)
        if answer.g is not None:
            violation = true_violation(logits, answer.g)
        else:
            assert answer.plan is not None
            violation = float((answer.plan.double().sum(0) - 1 / logits.shape[1]).abs().sum())
        return {
            **seconds,
            "peak_gb": None if peak is None or name == "OTT" else round(peak / 1e9, 4),  # JAX's own
            "n_iter": answer.n_iter, "violation": violation,
        }  # fmt: skip

    stage.attempt("peer", work, **what)


def about(name: str, family: str, logits: torch.Tensor, tol: float) -> dict[str, Any]:
    """Return what tells a measurement from others."""
    n, k = logits.shape
    dtype = str(logits.dtype).removeprefix("torch.")
    return {"solver": name, "family": family, "n": n, "k": k, "dtype": dtype, "tol": tol}


def measured(
    stage: Stage, work: Callable[[], Any], runs: int, before: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any], int | None, Any]:
    """Return the median seconds of some runs, the most memory the last took, and its result."""
    seconds, peak, result = [], None, None
    for number in range(runs + 1):
        before()
        synchronise(stage.device)
        result = None  # what the run before returned is not counted with this one
        start = 0
        if stage.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            start = torch.cuda.memory_allocated()
        began = time.perf_counter()
        result = work()
        synchronise(stage.device)
        took = time.perf_counter() - began
        if stage.device == "cuda":
            peak = torch.cuda.max_memory_allocated() - start
        if number == 0 and not stage.rehearsal:
            continue  # it compiled, and warmed up
        seconds.append(took)
        if took >= SLOW or stage.rehearsal:
            break
    return {"seconds": statistics.median(seconds), "runs": len(seconds)}, peak, result


def waits(stage: Stage, solve: Callable[..., Any], logits: torch.Tensor, tol: float) -> int | None:
    """Return how often the host waited for the device during a solve, as torch counts it."""
    if stage.device != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            solve(logits, epsilon=EPSILON, tol=tol)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)
