"""How many labels of a run's first head the authors' recurrence and ours have in common.

python benchmarks/agreement.py runs/cifar10-small
"""

from __future__ import annotations

import argparse
from pathlib import Path

from real_logits import logits_of
from solvers import sela_original

from selfsup import Trained
from sinkhorn_ot import sinkhorn


def main() -> None:
    """Solve the logits twice, at the run's epsilon and to a tight tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tol", type=float, default=1e-8)
    options = parser.parse_args()
    trained = Trained.load(options.run)
    logits, epsilon = logits_of(trained), trained.config.labels.epsilon
    theirs = sela_original(logits, options.tol, epsilon=epsilon)
    ours = sinkhorn(logits, epsilon=epsilon, tol=options.tol)
    print(
        f"{logits.shape[0]:,} x {logits.shape[1]}, epsilon {epsilon:g}: "
        f"{(theirs.labels == ours.labels).mean():.4%} of the labels are equal "
        f"(argmax of the logits: {(theirs.labels == logits.argmax(1)).mean():.2%}); "
        f"violations {theirs.curve[-1][1]:.1e} after {theirs.n_iter} iterations and "
        f"{ours.marginal_violation:.1e} after {ours.n_iter}"
    )


if __name__ == "__main__":
    main()
