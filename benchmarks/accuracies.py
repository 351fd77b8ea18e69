"""What a preset learns, over seeds, beside baselines: digits, Fashion-MNIST.

OMP_NUM_THREADS=1 python benchmarks/accuracies.py digits
OMP_NUM_THREADS=1 python benchmarks/accuracies.py fashion-mnist --seeds 0

Each number is a mean over seeds, and over heads where there are several; none is chosen by the
classes.  NMI, ARI and the Hungarian accuracy are those of the training images' labels; kNN and
linear probe are accuracies on test images.  Bits depend on the number of torch's threads.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

from records import Table

from selfsup.data import load_data
from selfsup.evaluation.run import evaluate
from selfsup.evaluation.subject import load_subject
from selfsup.presets import PRESETS
from selfsup.training.checkpoints import create_run
from selfsup.training.fit import Trainer

BASELINES = ("untrained", "pixels", "kmeans", "supervised")
MEASURES = ("NMI", "ARI", "accuracy", "kNN", "linear")
OF_PROTOCOL = {"knn": "kNN", "linear": "linear"}
#: Measures by method; a row of an evaluation belongs to K = the number of classes, if it has a K.
Found = dict[tuple[str, str], float]


def learned(preset: str, seed: int, run: Path) -> Found:
    """Train a preset, evaluate it, and return each method's measures."""
    config = PRESETS[preset].but(seed=seed)
    create_run(config, run)
    Trainer(config, load_data(config.data).train, run).fit()
    found: Found = {}
    for result in evaluate(load_subject(run).evaluation, ("knn", "linear", "clusters"), BASELINES):
        for row in result.rows:
            if row.get("part") == "train" and row["hungarian"] is not None:
                for measure, name in zip(MEASURES[:3], ("nmi", "ari", "hungarian"), strict=True):
                    found[row["method"], measure] = row[name]
            elif "top1" in row:  # the last setting is the one chosen on training images
                found[row["method"], OF_PROTOCOL[result.protocol]] = row["top1"]
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", choices=("digits", "fashion-mnist"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--save", metavar="NAME", help="keep the table in results/NAME.json")
    options = parser.parse_args()
    columns = ["method", *MEASURES, "NMI by seed", "accuracy by seed"]
    table = Table(columns, options.save, ("numpy", "torch", "scikit-learn"))
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            for key, value in learned(options.preset, seed, Path(folder, "run")).items():
                values[key].append(value)
    for method in dict.fromkeys(method for method, _ in values):
        means = [values.get((method, measure)) for measure in MEASURES]
        by_seed = [values.get((method, measure), []) for measure in ("NMI", "accuracy")]
        table.add(
            method,
            *(None if found is None else statistics.mean(found) for found in means),
            *(", ".join(f"{x:.3f}" for x in found) for found in by_seed),
        )


if __name__ == "__main__":
    main()
