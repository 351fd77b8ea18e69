"""A digest of the first labels of a preset: the same from one process and from several.

python benchmarks/first_labels.py cifar10-small --data DIR
torchrun --nproc-per-node 2 benchmarks/first_labels.py cifar10-small --data DIR
"""

from __future__ import annotations

import argparse
import hashlib

import numpy as np

from selfsup.data import load_data
from selfsup.presets import PRESETS
from selfsup.training.fit import new_network
from selfsup.training.label_pass import label_step, new_labels
from selfsup.training.processes import joined


def main() -> None:
    """Label the images by the untrained network; print digests of labels and potentials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--data")
    options = parser.parse_args()
    config = PRESETS[options.preset].but(data=options.data)
    with joined(config.run.device) as (world, device):
        images = load_data(config.data).train
        network = new_network(config, images, device)
        labels = new_labels(config.labels, len(images), config.run.seed, 1, world)
        label_step(config, network, images, labels, world)
        if world.first:
            potentials = np.concatenate([g for g in labels.states if g is not None])
            print(
                f"{world.size} process(es), {len(images):,} images: labels "
                f"{digest(labels.labels.numpy())}, g {digest(potentials)}"
            )


def digest(x: np.ndarray) -> str:
    """Return a digest of the bits of an array."""
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    main()
