"""Speed on a GPU, against what its users have: a table on standard output.

    python benchmarks/gpu.py                  # 100,000 x 1,000 and 1,000,000 x 1,000
    python benchmarks/gpu.py --device cpu --size 2000x100    # to see that it works

Unit features times unit prototypes, as in SwAV, so that solvers of points (GeomLoss, FlashSinkhorn)
have the same problem: cost |x - w|^2 / 2 is 1 minus the logits. Everyone starts from what they
need, on the device, and ends with labels there. The violation is measured in float64 from the
potential that a solver returns. No GPU was at hand when this was written.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import sinkhorn_ot
from sinkhorn_ot import sinkhorn

EPSILON, TOL, WIDTH, MAX_ITER = 0.04, 1e-3, 128, 2000


@dataclass(frozen=True)
class Problem:
    """Points, and the logits that are their inner products."""

    features: torch.Tensor  # (N, WIDTH)
    prototypes: torch.Tensor  # (K, WIDTH)
    logits: torch.Tensor  # (N, K)


def make(n: int, k: int, device: str) -> Problem:
    """Features around a tenth as many centres as there are prototypes, of uneven weight."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    unit = functools.partial(torch.nn.functional.normalize, dim=1)
    centres, prototypes = unit(normal(max(k // 10, 1), WIDTH)), unit(normal(k, WIDTH))
    weight = 1 / torch.arange(1, len(centres) + 1, device=device)
    which = torch.multinomial(weight, n, replacement=True, generator=generator)
    features = unit(centres[which] + 0.5 * unit(normal(n, WIDTH)))
    return Problem(features, prototypes, features @ prototypes.T)


def ours(problem: Problem, **options: Any) -> torch.Tensor:
    """sinkhorn_ot; returns g."""
    return sinkhorn(problem.logits, epsilon=EPSILON, tol=TOL, max_iter=MAX_ITER, **options).g


def two_products(problem: Problem) -> torch.Tensor:
    """The loop that people write: exponentials once, then two products an iteration, in float32."""
    logits = problem.logits
    n, k = logits.shape
    p = ((logits - logits.amax(1, keepdim=True)) / EPSILON).exp_()
    u = torch.ones(k, device=p.device)
    for _ in range(MAX_ITER):
        v = (p @ u).reciprocal_().div_(n)
        mass = (v @ p).mul_(u)
        if float((mass - 1 / k).abs().sum()) <= TOL:
            break
        u.mul_((1 / k) / mass)
    p.mul_(u).argmax(1)
    return EPSILON * u.double().log()


def pot(problem: Problem) -> torch.Tensor:
    """POT on torch tensors, in float64; its 2-norm test is set to ensure the 1-norm."""
    import ot

    cost = -problem.logits.double()
    n, k = cost.shape
    a, b = (torch.full((m,), 1 / m, dtype=cost.dtype, device=cost.device) for m in (n, k))
    plan, log = ot.sinkhorn(
        a, b, cost, EPSILON, numItermax=MAX_ITER, stopThr=TOL / math.sqrt(k), log=True
    )
    plan.argmax(1)
    return EPSILON * log["v"].log()


def points(problem: Problem, module: str, **options: Any) -> torch.Tensor:
    """GeomLoss or FlashSinkhorn, whose iterations follow from blur and scaling, not from TOL."""
    loss = importlib.import_module(module).SamplesLoss(
        "sinkhorn", p=2, blur=math.sqrt(EPSILON), debias=False, potentials=True, **options
    )
    _, g = loss(problem.features, problem.prototypes)
    (problem.logits + g.view(1, -1)).argmax(1)
    return g.view(-1).double()


SOLVERS: dict[str, tuple[str, Callable[[Problem], torch.Tensor]]] = {
    "sinkhorn_ot": ("sinkhorn_ot", ours),
    "sinkhorn_ot, cuda": ("sinkhorn_ot", functools.partial(ours, backend="cuda")),
    "sinkhorn_ot, triton": ("sinkhorn_ot", functools.partial(ours, backend="triton")),
    "sinkhorn_ot, textbook": ("sinkhorn_ot", functools.partial(ours, method="sinkhorn")),
    "torch, two products": ("torch", two_products),
    "POT": ("ot", pot),
    "GeomLoss": ("geomloss", functools.partial(points, module="geomloss", backend="online")),
    "FlashSinkhorn": ("flash_sinkhorn", functools.partial(points, module="flash_sinkhorn")),
}


def violation(problem: Problem, g: torch.Tensor) -> float:
    """``||m - b||_1`` in float64, block by block."""
    n, k = problem.logits.shape
    mass = torch.zeros(k, dtype=torch.float64, device=g.device)
    for rows in problem.logits.split(50_000):
        mass += torch.softmax((rows.double() + g) / EPSILON, 1).sum(0)
    return float((mass / n - 1 / k).abs().sum())


def measure(problem: Problem, solve: Callable[[Problem], torch.Tensor], runs: int) -> str:
    """The cells of one row: seconds, memory and violation, or why there are none."""
    cuda = problem.logits.is_cuda
    seconds, peak, g = [], 0.0, None
    for _ in range(runs + 1):  # the first compiles
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            torch.cuda.synchronize()
        start = time.perf_counter()
        try:
            g = solve(problem)
        except (ValueError, RuntimeError, ImportError) as error:
            return f"{str(error).splitlines()[0]} | | |"
        if cuda:
            torch.cuda.synchronize()
            peak = (torch.cuda.max_memory_allocated() - before) / 1e9
        seconds.append(time.perf_counter() - start)
    assert g is not None
    return f"{statistics.median(seconds[1:]):.4g} s | {peak:.2f} GB | {violation(problem, g):.1e} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", action="append", help="NxK, such as 1000000x1000")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --device cpu tries the script itself")
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}, sinkhorn_ot {sinkhorn_ot.__version__}")
    for size in options.size or ("100000x1000", "1000000x1000"):
        n, k = map(int, size.split("x"))
        problem = make(n, k, options.device)
        print(f"\n| {size}, to {TOL:g} | median of {options.runs} | memory | violation |")
        print("|---|---|---|---|")
        for name, (module, solve) in SOLVERS.items():
            if importlib.util.find_spec(module) is None:
                print(f"| {name} | not installed | | |")
                continue
            print(f"| {name} | {measure(problem, solve, options.runs)}", flush=True)


if __name__ == "__main__":
    main()
