"""Save the logits of a trained SeLa run, for the family `real`.

python -m selfsup train fashion-mnist --clusters 500 --epochs 3 --out runs/bench
python benchmarks/real_logits.py runs/bench runs/bench/logits.npy
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from solvers import Logits

from selfsup import Trained
from selfsup.data import load_data


def logits_of(trained: Trained, head: int = 0) -> Logits:
    """Return the (N, K) logits of one head for the training images."""
    features = trained.features(load_data(trained.config.data).train)
    with torch.no_grad():
        return trained.network.heads[head](features).numpy()


def main() -> None:
    """Write the logits of the first head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    logits = logits_of(Trained.load(options.run))
    np.save(options.out, logits)
    print(f"{options.out}: {logits.shape}, standard deviation {logits.std() / 0.04:.1f} epsilon")


if __name__ == "__main__":
    main()
