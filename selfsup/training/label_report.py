"""What a label step did, in numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from selfsup.errors import RunError
from selfsup.evaluation.scores import entropy, nmi
from selfsup.sela import Labeller, Labelling, Shard
from selfsup.training.processes import World

#: Logits that are worked on at once: 64 MB.
BLOCK = 1 << 24


class Clock:
    """Seconds by part; a GPU is waited for, so that they belong to the part that caused them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time inside to `part`."""
        began = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began


@dataclass(frozen=True)
class HeadReport:
    """What an update did to one head."""

    head: int
    ce_before: float
    """Cross-entropy of the labels before the update, in nats, at the network as it is."""
    ce_after: float
    """And after; it may rise, as argmax labels are not exactly balanced."""
    bits_before: float
    """(ln K - cross-entropy) / ln 2: a lower bound on the information about the image."""
    bits: float
    entropy: float
    """Of the labels, in nats; ln K when all classes are equally large."""
    size_min: int
    size_max: int
    changed: float
    """Part of the labels that changed."""
    nmi_last: float
    """Normalised mutual information with the labels before."""
    violation: float
    converged: bool
    passes: float
    """Reads of the N x K matrix."""


@dataclass(frozen=True)
class LabelReport:
    """What a label step did, and where its time went."""

    heads: tuple[HeadReport, ...]
    seconds: dict[str, float]
    """forward: views and network; logits: heads and cross-entropies; transport: the solves."""


class Watched:
    """A labeller that tells how its labels fare with the logits, and how long it took."""

    def __init__(self, labeller: Labeller, world: World) -> None:
        self.labeller, self.world = labeller, world
        self.clock = Clock(torch.device("cpu"))
        self.old = torch.empty(0)
        self.entropies: dict[int, Tensor] = {}

    def begin(self, labels: Tensor, device: torch.device) -> None:
        """Take note of the labels before an update."""
        self.old, self.clock, self.entropies = labels.clone(), Clock(device), {}

    def __call__(
        self, head: int, logits: Tensor, features: Tensor | None, state: Tensor | None, shard: Shard
    ) -> Labelling:
        """Label, and compare the labels before and after."""
        with self.clock("transport"):
            if not self.world.sum(logits.sum(dtype=torch.float64)).isfinite():
                raise RunError("logits are not finite: training has diverged; a smaller --lr helps")
            found = self.labeller(head, logits, features, state, shard)
        with self.clock("logits"):
            before = self.old[head, shard.rows].to(logits.device)
            sums = cross_entropies(logits, before, found.labels)
            self.entropies[head] = self.world.sum(sums) / shard.n
        return found

    def report(self, head: int, labels: Tensor, k: int, found: Labelling) -> HeadReport:
        """Return the report on one head, whose (N,) labels are now these."""
        before, after = self.entropies[head].tolist()
        sizes, old, solved = torch.bincount(labels, minlength=k), self.old[head], found.solved
        return HeadReport(
            head, before, after, (math.log(k) - before) / math.log(2),
            (math.log(k) - after) / math.log(2), entropy(sizes.numpy()),
            int(sizes.min()), int(sizes.max()), float((old != labels).double().mean()),
            nmi(old.numpy(), labels.numpy()),
            violation=0.0 if solved is None else float(solved.marginal_violation),
            converged=solved is None or bool(solved.converged),
            passes=0.0 if solved is None else float(solved.n_passes),
        )  # fmt: skip


def cross_entropies(logits: Tensor, *labellings: Tensor) -> Tensor:
    """Return the cross-entropy of each (n,) labelling, summed over the rows, in float64."""
    sums = torch.zeros(len(labellings), dtype=torch.float64, device=logits.device)
    rows = max(1, BLOCK // logits.shape[1])
    for start in range(0, len(logits), rows):
        block = logits[start : start + rows]
        normaliser = block.logsumexp(1)
        for i, labels in enumerate(labellings):
            own = block.gather(1, labels[start : start + rows, None])[:, 0]
            sums[i] += (normaliser - own).double().sum()
    return sums
