"""Soft codes of a minibatch beside the published loops: python benchmarks/codes.py.

Prints medians in milliseconds for float32 scores, cosine similarities of random features and
prototypes, three iterations, epsilon 0.05. `loop` is that of SwAV and DINOv2, written from their
papers: Q of K rows and B columns, normalised in place in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from sinkhorn_ot import sinkhorn_codes

SIZES = ((4096, 3000), (2048, 65_536), (16, 3000))


def loop(scores: torch.Tensor, epsilon: float = 0.05, n_iter: int = 3) -> torch.Tensor:
    """The published loop."""
    q = torch.exp(scores / epsilon).t()
    k, b = q.shape
    q /= torch.sum(q)
    for _ in range(n_iter):
        q /= torch.sum(q, dim=1, keepdim=True)
        q /= k
        q /= torch.sum(q, dim=0, keepdim=True)
        q /= b
    q *= b
    return q.t()


def milliseconds(run: Callable[[], object]) -> float:
    """One call."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("| B x K | sinkhorn_codes | loop | ratio | largest difference |\n|---|---|---|---|---|")
    for b, k in SIZES:
        generator = torch.Generator().manual_seed(0)
        features, prototypes = (
            torch.nn.functional.normalize(torch.randn(n, 128, generator=generator)) for n in (b, k)
        )
        scores = features @ prototypes.T
        off = (sinkhorn_codes(scores) - loop(scores)).abs().max()
        ours, theirs = [], []
        for _ in range(runs):
            ours.append(milliseconds(lambda x=scores: sinkhorn_codes(x)))
            theirs.append(milliseconds(lambda x=scores: loop(x)))
        one, other = statistics.median(ours), statistics.median(theirs)
        print(f"| {b} x {k} | {one:.3g} ms | {other:.3g} ms | {other / one:.2f} | {off:.1g} |")


if __name__ == "__main__":
    main()
