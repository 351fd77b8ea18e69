"""Save the logits of a trained SeLa run, for the family `real`.

python -m selfsup train fashion-mnist --clusters 500 --epochs 3 --out runs/bench
python benchmarks/real_logits.py runs/bench runs/bench/logits.npy
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from selfsup.data import load_data
from selfsup.sela import extract_features
from selfsup.trained import Trained


def main() -> None:
    """Write the (N, K) logits of the first head for the training images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    trained = Trained.load(options.run)
    images = load_data(trained.config).train
    with torch.no_grad():
        features = extract_features(trained.network, images, trained.config)
        logits = trained.network.heads.head(0, features).numpy()
    np.save(options.out, logits)
    print(f"{options.out}: {logits.shape}, standard deviation {logits.std() / 0.04:.1f} epsilon")


if __name__ == "__main__":
    main()
