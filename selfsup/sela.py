"""SeLa (Asano, Rupprecht and Vedaldi, ICLR 2020): label by optimal transport, train, repeat.

E(p, q) = - 1/N sum_i sum_y q(y|x_i) log p(y|x_i) is minimised in turn over labels q of N images, in
which all K occur equally often (else one for all would reach 0), and the network p. The best q is
a transport plan: with an entropy (epsilon = 1 / lambda) diag(a) p**lambda diag(b). A label is the
likeliest of its row, ``argmax_k logits_ik + g_k`` with g = epsilon ln a. README.md has the loop.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn

from sinkhorn_ot import SinkhornResult, SinkhornWarning, sinkhorn


def update_times(total: float, updates: int, power: float = 2.0) -> list[float]:
    """Return when to label: from 0 to the end, at `total` images seen; gaps grow if power > 1."""
    return [total * (i / max(1, updates - 1)) ** power for i in range(updates)]


def multi_head_loss(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return the cross-entropy of (B, K) logits with (heads, B) labels, averaged over heads."""
    losses = [nn.functional.cross_entropy(z, y) for z, y in zip(outputs, labels, strict=True)]
    return torch.stack(losses).mean()


class Shard(NamedTuple):
    """Which of the n rows are here; the processes of `group` have them all together."""

    n: int
    rows: slice
    group: distributed.ProcessGroup | None = None

    def gather(self, x: Tensor) -> Tensor:
        """All-reduce the rows of all processes into one tensor."""
        (whole := x.new_zeros((self.n, *x.shape[1:])))[self.rows] = x
        if self.group:
            distributed.all_reduce(whole, group=self.group)
        return whole


class Labelling(NamedTuple):
    """What a labeller makes: a shard's (n,) labels, the next start, how it went (labellers.py)."""

    labels: Tensor
    state: Tensor | None = None
    solved: SinkhornResult | None = None


Labeller = Callable[[int, Tensor, Tensor | None, Tensor | None, Shard], Labelling]


def equipartition(
    head: int, logits: Tensor, features: Tensor | None, g: Tensor | None, shard: Shard, *,
    epsilon: float = 0.04, tol: float = 1e-3, max_iter: int = 1000,
    b: Callable[[int, Tensor, Shard], Tensor] | None = None) -> Labelling:  # fmt: skip
    """Label by transport: K equally large clusters, or of the (K,) shares that `b` returns."""
    with warnings.catch_warnings(category=SinkhornWarning, action="ignore"):  # the result tells
        solved = sinkhorn(
            logits, b=b and b(head, logits, shard), epsilon=epsilon, tol=tol, max_iter=max_iter,
            g_init=g if g is None else g.to(logits.device), process_group=shard.group)  # fmt: skip
    return Labelling(solved.labels, solved.g.cpu(), solved)


class SelfLabels:
    """Labels of n images by heads of `clusters` classes, renewed at `times`, in images seen.

    With `one_head` an update renews one head, in turn; the others keep theirs, random at first.
    `groups` of heads, shuffled at each update, can see other features: a function of the group.
    """

    def __init__(
        self, n: int, clusters: Sequence[int], epsilon: float = 0.04, *,
        times: Sequence[float] = (0.0,), labeller: Labeller | None = None, one_head: bool = False,
        groups: int = 1, seed: int = 0, process_group: distributed.ProcessGroup | None = None,
    ) -> None:  # fmt: skip
        if isinstance(clusters, int) or min(clusters, default=1) < 1:
            raise ValueError(f"clusters must be a K >= 1 of each head, as in [10], got {clusters}")
        self.n, self.clusters, self.times, self.seed = n, tuple(clusters), times, seed
        self.one_head, self.groups, self.process_group = one_head, groups, process_group
        self.labeller, self.updates = labeller or partial(equipartition, epsilon=epsilon), 0
        start = [self._shuffled(n, h) % k for h, k in enumerate(clusters)]  # random and balanced
        self.labels = torch.stack(start) if start else torch.empty((0, n), dtype=torch.int64)
        self.states: list[Tensor | None] = [None] * len(clusters)

    def _shuffled(self, n: int, position: int) -> Tensor:
        return torch.randperm(n, generator=torch.Generator().manual_seed(self.seed + position))

    def due(self, images_seen: float) -> bool:
        """Whether to update before the next step; after the last one too, for the last update."""
        return self.updates < len(self.times) and images_seen >= self.times[self.updates] - 1e-6

    def heads_due(self) -> list[list[int]]:
        """Return the heads of the next update, by the group that shares features."""
        heads = list(range(len(self.labels)))
        if self.one_head:
            return [[heads[self.updates % len(heads)]]]
        order = heads if self.groups == 1 else self._shuffled(len(heads), self.updates).tolist()
        return [order[g :: self.groups] for g in range(self.groups)]

    def _logits(self, h: int, given: Sequence[Any], rows: int, x: Any = None) -> Tensor:
        if len(given) != len(self.clusters):
            raise ValueError(f"there are {len(self.clusters)} heads, got {len(given)} for them")
        z, k = given[h](x) if callable(given[h]) else given[h], self.clusters[h]
        if not isinstance(z, Tensor) or z.shape != (rows, k):
            got = f"{type(z).__name__} {getattr(z, 'shape', '')}"
            raise ValueError(f"head {h} needs logits in a {rows} x {k} tensor, got {got}")
        return z

    @torch.no_grad()
    def update(
        self, logits: Sequence[Tensor] = (), *, heads: Sequence[Callable[[Any], Tensor]] = (),
        features: Tensor | Callable[[int], Tensor] | None = None, rows: slice | None = None,
    ) -> dict[int, Labelling]:  # fmt: skip
        """Label anew from (n, K) `logits` of each head, or by `heads` on (n, D) `features`."""
        new, shard = {}, Shard(self.n, rows or slice(0, self.n), self.process_group)
        given, here = heads or logits, len(range(self.n)[shard.rows])
        for number, group in enumerate(self.heads_due()):
            x = features(number) if callable(features) else features
            for h in group:  # one N x K matrix exists at a time
                new[h] = self.labeller(h, self._logits(h, given, here, x), x, self.states[h], shard)
        for h, found in new.items():  # all or, after an error, none
            self.labels[h], self.states[h] = shard.gather(found.labels).cpu(), found.state
        self.updates += 1
        return new

    def loss(self, outputs: Sequence[Tensor], index: Tensor) -> Tensor:
        """Return the loss of a (B, K) output of each head on the images at `index`."""
        y = self.labels[:, index.cpu()]
        z = [self._logits(h, outputs, y.shape[1]) for h in range(len(y))]
        return multi_head_loss(z, y.to(z[0].device))

    def predict(self, logits: Sequence[Tensor]) -> Tensor:
        """Return (heads, B) labels of any images from a (B, K) matrix of each head."""
        g = [0.0 if g is None else g.to(logits[0].device) for g in self.states]
        return torch.stack([(z.double() + g).argmax(1) for z, g in zip(logits, g, strict=True)])

    def state_dict(self) -> dict[str, Any]:
        """Return labels, potentials and position."""
        return {"labels": self.labels, "states": self.states, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.labels, self.states, self.updates = (state[x] for x in ("labels", "states", "updates"))
