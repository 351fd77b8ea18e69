"""Watching a run: log.jsonl, a line an epoch on the console, TensorBoard, kNN accuracies."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from selfsup.config import Config
from selfsup.data import ImageSet
from selfsup.evaluation.neighbours import leave_one_out
from selfsup.evaluation.scores import nmi
from selfsup.models import Network
from selfsup.seeds import Stream, generator_of
from selfsup.training.checkpoints import append_log
from selfsup.training.label_pass import LabelReport, feature_pass

#: Parts of a run's time that the label step is made of.
LABEL_PARTS = ("forward", "logits", "transport", "report")
#: What a run's time is made of; on a GPU, "network" ends when its work is queued.
PARTS = ("network", "loader", *LABEL_PARTS, "watch")
#: What TensorBoard shows of a line: all but these; and of several heads, other than the mean.
NOT_PLOTTED = ("event", "update", "epoch", "step", "head", "ln_k")
OF_HEADS = {"violation": np.max, "passes": np.max, "size_max": np.max, "size_min": np.min}
#: Images whose kNN accuracy is watched, at most; and of all images for each epoch between two
#: looks. A look is one forward pass, an epoch about three for each image: it takes a hundredth.
MOST, SHARE = 2000, 0.03
#: Votes and sigma of Wu et al. (2018), as the authors' code has them while it trains.
K, SIGMA = 10, 0.1


class Monitor:
    """Tells what happens in a run; without one (of a process that is not the first) nothing."""

    def __init__(self, run: Path | None, clusters: Sequence[int], epochs: int, step: int) -> None:
        self.run, self.clusters, self.epochs = run, clusters, epochs
        self.last: dict[str, Any] = {}
        # what a resumed run repeats replaces what it wrote before
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=step) if run else None

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self.board is not None:
            self.board.close()

    def update(self, report: LabelReport, number: int, step: int, epoch: float) -> None:
        """Log a label update."""
        if self.run is None:
            return
        heads = [vars(head) for head in report.heads]
        line: dict[str, Any] = {"event": "update", "update": number, "step": step, "epoch": epoch}
        line |= {name: [head[name] for head in heads] for name in heads[0]}
        self._log(self.run, line, report.seconds, step)
        self.last = line

    def epoch(
        self, line: dict[str, Any], seconds: dict[str, float], images: int,
        labels: NDArray[np.int64], truth: NDArray[np.int64] | None,
    ) -> None:  # fmt: skip
        """Log the end of an epoch in which so many `images` were seen, and say it."""
        if self.run is None:
            return
        sizes = [np.bincount(y, minlength=k) for y, k in zip(labels, self.clusters, strict=True)]
        whole = max(sum(seconds.values()), 1e-9)
        line |= {
            "event": "epoch",
            "images_per_second": images / whole,
            "label_share": sum(seconds.get(part, 0.0) for part in LABEL_PARTS) / whole,
            "size_min": [int(s.min()) for s in sizes],
            "size_max": [int(s.max()) for s in sizes],
        }
        if truth is not None and len(labels):
            line["nmi"] = [nmi(truth, head) for head in labels]
        # at the last step of the epoch: a run that is resumed here writes anew from the next
        self._log(self.run, line, seconds, line["step"] - 1)
        tqdm.write(self._sentence(line))
        sys.stdout.flush()  # a file that the output goes to is to show it too

    def _log(self, run: Path, line: dict[str, Any], seconds: dict[str, float], step: int) -> None:
        append_log(run, line | {"seconds": {part: round(s, 4) for part, s in seconds.items()}})
        group = {"update": "labels", "epoch": "train"}[line["event"]]
        for name, value in line.items():
            if self.board is not None and name not in NOT_PLOTTED and value != []:
                of_heads = OF_HEADS.get(name, np.mean)
                self.board.add_scalar(f"{group}/{name}", float(of_heads(value)), step)

    def _sentence(self, line: dict[str, Any]) -> str:
        words = [
            f"epoch {line['epoch']:>{len(str(self.epochs))}}/{self.epochs}",
            f"loss {line['loss']:.3f} (ln K {line['ln_k']:.3f})",
        ]
        if self.last:
            words += [
                f"labels changed {100 * float(np.mean(self.last['changed'])):.1f}%",
                f"sizes {min(line['size_min'])} to {max(line['size_max'])}",
                f"violation {max(self.last['violation']):.1e}",
            ]
        if "nmi" in line:
            words.append(f"NMI {np.mean(line['nmi']):.3f}")
        if "knn" in line:
            words.append(f"kNN {100 * line['knn']:.1f}%")
        words.append(f"{line['images_per_second']:,.0f} images/s")
        if self.last:
            words.append(f"label step {100 * line['label_share']:.1f}%")
        return "  ".join(words)


def knn_accuracy(
    config: Config, network: Network, images: ImageSet, epoch: int
) -> dict[str, float]:
    """Return the kNN accuracy of some training images among themselves, always the same ones.

    ``run.knn_every`` says after which epochs it is due; after the last one always. It is left out
    where it is not due, where no classes are known and where there are too few images.
    """
    every, classes = config.run.knn_every, len(images.classes)
    count = min(MOST, round(SHARE * every * len(images)), len(images))
    if not classes or count <= K or (epoch % every and epoch != config.optimiser.epochs):
        return {}
    order = torch.randperm(len(images), generator=generator_of(config.run.seed, Stream.SPLITS))
    some = images.select(order[:count].sort().values)
    features = feature_pass(config.clean().but(features_in="device"), network, some)
    return {"knn": leave_one_out(features, some.targets, classes, K, SIGMA)}


def time_shares(epochs: list[dict[str, Any]]) -> dict[str, float]:
    """Return what part of a run's time went where, from the log's epoch lines."""
    totals: Counter[str] = Counter()
    for line in epochs:
        totals.update(line["seconds"])
    return {part: totals[part] / max(totals.total(), 1e-9) for part in PARTS}
