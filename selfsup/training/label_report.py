"""What a label step did, in numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from selfsup.evaluation.scores import entropy, nmi
from sinkhorn_ot import SinkhornResult

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


def head_report(
    head: int, entropies: Tensor, old: Tensor, new: Tensor, k: int, solved: SinkhornResult | None
) -> HeadReport:
    """Return the report on one head from the labels of all, (heads, N), before and after."""
    before, after = entropies.tolist()
    sizes = torch.bincount(new[head], minlength=k)
    return HeadReport(
        head=head,
        ce_before=before,
        ce_after=after,
        bits_before=(math.log(k) - before) / math.log(2),
        bits=(math.log(k) - after) / math.log(2),
        entropy=entropy(sizes.numpy()),
        size_min=int(sizes.min()),
        size_max=int(sizes.max()),
        changed=float((old[head] != new[head]).double().mean()),
        nmi_last=nmi(old[head].numpy(), new[head].numpy()),
        violation=0.0 if solved is None else float(solved.marginal_violation),
        converged=solved is None or bool(solved.converged),
        passes=0.0 if solved is None else float(solved.n_passes),
    )


def blocks(logits: Tensor) -> Iterator[Tensor]:
    """Give the rows in blocks, for what needs a copy."""
    return iter(torch.split(logits, max(1, BLOCK // logits.shape[1])))


def cross_entropies(logits: Tensor, *labellings: Tensor) -> Tensor:
    """Return the cross-entropy of each (n,) labelling, summed over the rows, in float64."""
    sums = torch.zeros(len(labellings), dtype=torch.float64, device=logits.device)
    done = 0
    for block in blocks(logits):
        normaliser = block.logsumexp(1)
        for i, labels in enumerate(labellings):
            y = labels[done : done + len(block), None]
            sums[i] += (normaliser - block.gather(1, y)[:, 0]).double().sum()
        done += len(block)
    return sums
