"""Soft codes of a minibatch beside other loops: python benchmarks/codes.py.

Prints the machine, versions, and medians in milliseconds for float32 scores, cosine similarities of
random features and prototypes; three iterations, epsilon 0.05. All run in turn in this process.

DINOv2 and SwAV are written here from their papers: Q of K rows and B columns, normalised in place
in turn. lightly's function is called where lightly is installed (pip install --no-deps lightly
lightly_utils aenum is enough). Megatron's Sinkhorn, also from its mathematics, is another problem
(both marginals, columns last) on the same kernel: its three iterations are timed, not compared.
Its quantile balancing makes hard assignments, no codes, and is left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from machine import processor, versions

from sinkhorn_ot import sinkhorn_codes

SIZES = ((4096, 3000), (2048, 65_536), (16, 3000))
EPSILON, ITERATIONS = 0.05, 3
#: Seconds that the calls of one size may take, and how many there are at most.
SECONDS, CALLS = 60.0, 300


def dinov2(scores: torch.Tensor) -> torch.Tensor:
    """The loop of DINOv2: sums, and divisions in place."""
    q = torch.exp(scores / EPSILON).t()
    k, b = q.shape
    q /= torch.sum(q)
    for _ in range(ITERATIONS):
        q /= torch.sum(q, dim=1, keepdim=True)
        q /= k
        q /= torch.sum(q, dim=0, keepdim=True)
        q /= b
    q *= b
    return q.t()


def swav(scores: torch.Tensor) -> torch.Tensor:
    """The loop of SwAV: marginals over sums, as factors in place."""
    q = torch.exp(scores / EPSILON).t()
    q /= q.sum()
    rows, columns = (torch.ones(n) / n for n in q.shape)
    for _ in range(ITERATIONS):
        q *= (rows / q.sum(dim=1)).unsqueeze(1)
        q *= (columns / q.sum(dim=0)).unsqueeze(0)
    return (q / q.sum(dim=0, keepdim=True)).t()


def megatron(scores: torch.Tensor) -> torch.Tensor:
    """The scalings of Megatron's routers, of rows first, and the plan."""
    cost = torch.exp(scores / EPSILON)
    n, k = cost.shape
    d1 = torch.ones(k)
    for _ in range(ITERATIONS):
        d0 = (1 / n) / (torch.sum(d1 * cost, 1) + 1e-8)
        d1 = (1 / k) / (torch.sum(d0.unsqueeze(1) * cost, 0) + 1e-8)
    return d1 * cost * d0.unsqueeze(1)


def loops() -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """What there is to compare with; lightly if it is installed."""
    found = {"DINOv2": dinov2, "SwAV": swav, "Megatron": megatron}
    try:
        from lightly.loss.swav_loss import sinkhorn
    except ImportError:
        return found
    return found | {"lightly": lambda scores: sinkhorn(scores, ITERATIONS, EPSILON)}


def medians(runs: dict[str, Callable[[], object]], most: int) -> dict[str, float]:
    """Milliseconds of each, called in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    for call in range(most + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if call:  # the first call warms up
                times[name].append(1e3 * (time.perf_counter() - start))
        if call > 2 and time.perf_counter() - began > SECONDS:
            break
    return {name: statistics.median(each) for name, each in times.items()}


def machine() -> str:
    """The processor, threads and versions."""
    found = versions("numpy", "torch", "lightly").items()
    told = ", ".join(f"{name} {number}" if number else f"no {name}" for name, number in found)
    return f"{processor()}, {torch.get_num_threads()} threads; {told}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=CALLS, help="of each, at most")
    parser.add_argument("--sizes", nargs="+", default=[f"{b}x{k}" for b, k in SIZES])
    options = parser.parse_args()
    peers = loops()
    print(f"{machine()}; milliseconds, and over those of sinkhorn_codes\n")
    names = ["sinkhorn_codes", "with out", *peers]
    print(f"| B x K | {' | '.join(names)} | off by |\n|{'---|' * (len(names) + 2)}")
    for b, k in (map(int, size.split("x")) for size in options.sizes):
        generator = torch.Generator().manual_seed(0)
        features, prototypes = (
            torch.nn.functional.normalize(torch.randn(n, 128, generator=generator)) for n in (b, k)
        )
        scores = features @ prototypes.T
        out = torch.empty_like(scores)
        codes = sinkhorn_codes(scores, EPSILON, ITERATIONS)
        off = max(
            float((codes - loop(scores)).abs().max())
            for name, loop in peers.items()
            if name != "Megatron"
        )
        runs: dict[str, Callable[[], object]] = {
            "sinkhorn_codes": lambda x=scores: sinkhorn_codes(x, EPSILON, ITERATIONS),
            "with out": lambda x=scores, o=out: sinkhorn_codes(x, EPSILON, ITERATIONS, out=o),
        }
        runs |= {name: lambda x=scores, loop=loop: loop(x) for name, loop in peers.items()}
        times = medians(runs, options.calls)
        ours = times["sinkhorn_codes"]
        cells = [f"{times[name]:.3g} ({times[name] / ours:.2f})" for name in names]
        print(f"| {b} x {k} | {' | '.join(cells)} | {off:.1g} |", flush=True)


if __name__ == "__main__":
    main()
