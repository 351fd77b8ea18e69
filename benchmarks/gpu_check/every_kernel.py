"""Run every kernel once on small shapes: what NVIDIA's sanitizers and profiler look at.

python -m gpu_check.every_kernel MACHINE [LIBRARY]       # cuda, triton, host or interpreter
python -m gpu_check.every_kernel MACHINE --read 100000x1000
"""

from __future__ import annotations

import sys
from pathlib import Path

import machines
import torch

from gpu_check.machinery import solver_of
from sinkhorn_ot.backends.gpu.kept import WORDS_PER_ENTRY
from sinkhorn_ot.passes import Problem

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
#: Several rows to a warp, a row to a warp, warps to a row, and rows that are cut into chunks.
SIZES = ((67, 29), (40, 300), (24, 1000), (3, 9001))
EPSILON = 0.3


def every_kernel(machine: machines.Machine, dtypes: tuple[torch.dtype, ...] = DTYPES) -> None:
    """Read in all ways, multiply by kept entries, solve."""
    generator = torch.Generator().manual_seed(0)
    for n, k in SIZES:
        for dtype in dtypes:
            logits = torch.randn(n, k, generator=generator).to(dtype).to(machine.device)
            read_in_all_ways(machine, logits)
            if machine.backend.minibatch is not None:
                counts = torch.tensor([n - 1], device=machine.device)
                step = machine.backend.minibatch(logits[None], EPSILON, counts)
                step.last(step.next(step.first()[0]), torch.empty_like(logits[None]))
    logits = torch.randn(600, 40, generator=generator).to(machine.device)
    for method in ("newton", "sinkhorn"):
        solver_of(machine)(logits, epsilon=EPSILON, tol=1e-5, method=method)


def read_in_all_ways(machine: machines.Machine, logits: torch.Tensor) -> None:
    """Launch each kernel for rows like these: with and without labels, weights, entries, gates."""
    n, k = logits.shape
    b = torch.full((k,), 1 / k, dtype=torch.float64, device=logits.device)
    a = torch.full((n,), 1 / n, dtype=torch.float64, device=logits.device)
    g = torch.linspace(-0.1, 0.1, k, dtype=torch.float64, device=logits.device)
    for masses in (None, a):
        passes = machine.backend.passes(Problem(logits, masses, b, EPSILON))
        passes.read(g)
        passes.read(g, assign=True)
        passes.read(g, exact=True, assign=True)
        passes.read(g, stride=2)
        kept = passes.keep(n * k * WORDS_PER_ENTRY)
        passes.read(g, kept=kept)
        for product in (kept.mass, kept.second_moment):
            product(g)
    low = logits.clone()
    low[:, : k // 2] -= 1000.0  # masses underflow: the log domain
    machine.backend.passes(Problem(low, None, b, EPSILON)).read(g, assign=True)
    bad = logits.clone()
    bad[n // 2, k // 2] = torch.nan
    machine.backend.passes(Problem(bad, None, b, EPSILON)).read(g, assign=True)


def one_read(machine: machines.Machine, size: str) -> None:
    """Read float32 logits of a size a few times, for the profiler."""
    n, k = map(int, size.split("x"))
    logits = torch.randn(n, k, device=machine.device)
    b = torch.full((k,), 1 / k, dtype=torch.float64, device=logits.device)
    passes = machine.backend.passes(Problem(logits, None, b, EPSILON))
    for _ in range(3):
        passes.read(torch.zeros_like(b))


def main() -> None:
    """Run on the machine that is named."""
    name, *rest = sys.argv[1:]
    machine = machines.machine(name, lambda: Path(rest[0]))
    if rest[:1] == ["--read"]:
        one_read(machine, rest[1])
    else:
        every_kernel(machine, DTYPES if machine.device == "cuda" else DTYPES[:1])
    if machine.device == "cuda":
        torch.cuda.synchronize()
    print("every kernel ran")


if __name__ == "__main__":
    main()
