"""Watching a run: log.jsonl, a line an epoch on the console, TensorBoard."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from selfsup.label_report import LabelReport
from selfsup.metrics import nmi
from selfsup.runs import append_log

if TYPE_CHECKING:
    from selfsup.train import Trainer

#: Parts of a run's time that the label step is made of.
LABEL_PARTS = ("forward", "logits", "transport", "report")
#: What a run's time is made of; on a GPU, "network" ends when its work is queued.
PARTS = ("network", "loader", *LABEL_PARTS, "watch")


class Monitor:
    """Tells what a trainer does; only the first of several processes says anything."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.speaks = trainer.world.first
        self.started = time.perf_counter()
        self.last: dict[str, Any] = {}

    def __enter__(self) -> Monitor:
        """Open TensorBoard's file; what a resumed run repeats replaces what it wrote before."""
        trainer = self.trainer
        self.board = (
            SummaryWriter(str(trainer.run / "tensorboard"), purge_step=trainer.at.step)
            if self.speaks
            else None
        )
        return self

    def __exit__(self, *exception: object) -> None:
        """Close it."""
        if self.board is not None:
            self.board.close()

    def steps(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Give the batches, with a progress bar on a terminal."""
        disable = None if self.speaks else True
        yield from tqdm(batches, f"epoch {self.trainer.epoch + 1}", leave=False, disable=disable)

    def update(self, report: LabelReport) -> None:
        """Log a label update."""
        trainer = self.trainer
        if not self.speaks:
            return
        heads = [vars(head) for head in report.heads]
        line: dict[str, Any] = {
            "event": "update",
            "update": trainer.at.updates,
            "step": trainer.at.step,
            "epoch": trainer.at.step / trainer.steps_per_epoch,
            "ln_k": [math.log(trainer.config.clusters[h.head]) for h in report.heads],
            **{name: [head[name] for head in heads] for name in heads[0]},
            "seconds": {part: round(s, 4) for part, s in report.seconds.items()},
        }
        self._write(line)
        for name in ("ce_before", "ce_after", "bits", "entropy", "changed", "nmi_last"):
            self._plot(f"labels/{name}", float(np.mean(line[name])), trainer.at.step)
        for name in ("violation", "passes", "size_max"):
            self._plot(f"labels/{name}", float(max(line[name])), trainer.at.step)
        self._plot("labels/size_min", float(min(line["size_min"])), trainer.at.step)
        self.last = line

    def epoch(self) -> None:
        """Log the end of an epoch, and say it."""
        trainer = self.trainer
        config, clock = trainer.config, trainer.clock.seconds
        if not self.speaks:
            return
        watched = {}
        if trainer.images.labelled and config.clusters:
            with trainer.clock("watch"):
                truth = trainer.images.targets.numpy()
                watched = {"nmi": [nmi(truth, head) for head in trainer.labels.labels.numpy()]}
        images = trainer.steps_per_epoch * trainer.batch_size
        seconds = whole_seconds(clock)
        line: dict[str, Any] = {
            "event": "epoch",
            "epoch": trainer.epoch,
            "step": trainer.at.step,
            "loss": float(trainer.loss) / trainer.steps_per_epoch,
            "ln_k": config.ln_k,
            "lr": trainer.optimiser.param_groups[0]["lr"],
            "images_per_second": images / max(seconds, 1e-9),
            "seconds": {part: round(s, 4) for part, s in sorted(clock.items())},
            "label_share": sum(clock.get(part, 0.0) for part in LABEL_PARTS) / max(seconds, 1e-9),
            **self._sizes(),
            **watched,
        }
        self._write(line)
        for name in ("loss", "lr", "images_per_second", "label_share"):
            # the last step of the epoch: a run that is resumed here writes anew from the next
            self._plot(f"train/{name}", line[name], trainer.at.step - 1)
        if "nmi" in line:
            nmis = float(np.mean(line["nmi"]))
            self._plot("watch/nmi_with_classes", nmis, trainer.at.step - 1)
        tqdm.write(self._sentence(line))
        sys.stdout.flush()  # a file that the output goes to is to show it too

    def _sizes(self) -> dict[str, list[int]]:
        sizes = [
            np.bincount(labels, minlength=k)
            for labels, k in zip(
                self.trainer.labels.labels.numpy(), self.trainer.config.clusters, strict=True
            )
        ]
        return {
            "size_min": [int(s.min()) for s in sizes],
            "size_max": [int(s.max()) for s in sizes],
        }

    def _sentence(self, line: dict[str, Any]) -> str:
        epochs = self.trainer.config.epochs
        words = [
            f"epoch {line['epoch']:>{len(str(epochs))}}/{epochs}",
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
        words.append(f"{line['images_per_second']:,.0f} images/s")
        if self.last:
            words.append(f"label step {100 * line['label_share']:.1f}%")
        return "  ".join(words)

    def _write(self, line: dict[str, Any]) -> None:
        if self.speaks:
            append_log(self.trainer.run, line)

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
