"""Watching a run: log.jsonl, a line an epoch on the console, TensorBoard."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from selfsup.evaluation.scores import nmi
from selfsup.training.checkpoints import append_log
from selfsup.training.label_report import LabelReport

#: Parts of a run's time that the label step is made of.
LABEL_PARTS = ("forward", "logits", "transport", "report")
#: What a run's time is made of; on a GPU, "network" ends when its work is queued.
PARTS = ("network", "loader", *LABEL_PARTS, "watch")


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

    def steps(self, batches: Iterable[Tensor], epoch: int) -> Iterator[Tensor]:
        """Give the batches, with a progress bar on a terminal."""
        disable = None if self.run else True
        yield from tqdm(batches, f"epoch {epoch}", leave=False, disable=disable)

    def update(self, report: LabelReport, number: int, step: int, epoch: float) -> None:
        """Log a label update."""
        if self.run is None:
            return
        heads = [vars(head) for head in report.heads]
        line: dict[str, Any] = {
            "event": "update",
            "update": number,
            "step": step,
            "epoch": epoch,
            "ln_k": [math.log(self.clusters[h.head]) for h in report.heads],
            **{name: [head[name] for head in heads] for name in heads[0]},
            "seconds": {part: round(s, 4) for part, s in report.seconds.items()},
        }
        append_log(self.run, line)
        for name in ("ce_before", "ce_after", "bits", "entropy", "changed", "nmi_last"):
            self._plot(f"labels/{name}", float(np.mean(line[name])), step)
        for name in ("violation", "passes", "size_max"):
            self._plot(f"labels/{name}", float(max(line[name])), step)
        self._plot("labels/size_min", float(min(line["size_min"])), step)
        self.last = line

    def epoch(
        self, line: dict[str, Any], seconds: dict[str, float], images: int,
        labels: NDArray[np.int64], truth: NDArray[np.int64] | None,
    ) -> None:  # fmt: skip
        """Log the end of an epoch in which so many `images` were seen, and say it."""
        if self.run is None:
            return
        sizes = [np.bincount(y, minlength=k) for y, k in zip(labels, self.clusters, strict=True)]
        whole = max(whole_seconds(seconds), 1e-9)
        line |= {
            "images_per_second": images / whole,
            "seconds": {part: round(s, 4) for part, s in sorted(seconds.items())},
            "label_share": sum(seconds.get(part, 0.0) for part in LABEL_PARTS) / whole,
            "size_min": [int(s.min()) for s in sizes],
            "size_max": [int(s.max()) for s in sizes],
        }
        if truth is not None and len(labels):
            line["nmi"] = [nmi(truth, head) for head in labels]
            self._plot("watch/nmi_with_classes", float(np.mean(line["nmi"])), line["step"] - 1)
        if "knn" in line:
            self._plot("watch/knn", line["knn"], line["step"] - 1)
        append_log(self.run, line)
        for name in ("loss", "lr", "images_per_second", "label_share"):
            # the last step of the epoch: a run that is resumed here writes anew from the next
            self._plot(f"train/{name}", line[name], line["step"] - 1)
        tqdm.write(self._sentence(line))
        sys.stdout.flush()  # a file that the output goes to is to show it too

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

    def _plot(self, name: str, value: float, step: int) -> None:
        if self.board is not None:
            self.board.add_scalar(name, value, step)


def time_shares(epochs: list[dict[str, Any]]) -> dict[str, float]:
    """Return what part of a run's time went where, from the log's epoch lines."""
    totals: dict[str, float] = {}
    for line in epochs:
        for part, seconds in line["seconds"].items():
            totals[part] = totals.get(part, 0.0) + seconds
    return {part: totals.get(part, 0.0) / max(whole_seconds(totals), 1e-9) for part in PARTS}


def whole_seconds(parts: dict[str, float]) -> float:
    """Return the seconds of all parts together."""
    return sum(parts.get(part, 0.0) for part in PARTS)
