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
    """Return when to label: ``total * (i / (updates - 1)) ** power`` images seen.

    Parameters
    ----------
    total : float
        Images that are seen in training, N times the epochs; the last update comes there.
    updates : int
        How many there are, the first at 0.
    power : float
        With 1 the gaps are equal, above 1 they grow.  The authors' code has 2 on ImageNet and 1 on
        CIFAR, that of SeLaVi 1.5.

    Returns
    -------
    list of float
        The `updates` numbers of images, in rising order.
    """
    return [total * (i / max(1, updates - 1)) ** power for i in range(updates)]


def multi_head_loss(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return the cross-entropy, averaged over heads: E(p, q) of Asano et al., ICLR 2020.

    Parameters
    ----------
    outputs : sequence of (B, K) torch.Tensor
        Logits of each head, whose numbers of classes K may differ.
    labels : (heads, B) int64 torch.Tensor
        On the device of the logits.

    Returns
    -------
    torch.Tensor
        A number in nats, with a gradient.

    Raises
    ------
    ValueError
        Not as many rows of labels as heads.
    """
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
    """Label by optimal transport (Asano et al., ICLR 2020, section 3): clusters of equal size.

    Parameters
    ----------
    head : int
        Which head it is.
    logits : (n, K) torch.Tensor
        The head's outputs for the rows that are here, in any floating dtype.
    features : (n, D) torch.Tensor or None
        Not looked at.
    g : (K,) float64 torch.Tensor or None
        The potential of the last call, from which the solve starts.
    shard : Shard
        Which rows of all N these are, and which processes have the others.
    epsilon : float
        1 / lambda, in units of the logits.
    tol : float
        The solve stops when ``||column masses - b||_1 <= tol``, of 2 at most.
    max_iter : int
        The most updates of g.
    b : callable, optional
        Returns the (K,) shares of the clusters, which sum to 1, of `head`, `logits` and `shard`.

    Returns
    -------
    Labelling
        (n,) int64 labels, g as the next start, and the `sinkhorn_ot.SinkhornResult`, which says
        whether `tol` was reached.

    Raises
    ------
    ValueError
        NaN or infinity in the logits, or what else :func:`sinkhorn_ot.sinkhorn` refuses.
    """
    with warnings.catch_warnings(category=SinkhornWarning, action="ignore"):  # the result tells
        solved = sinkhorn(
            logits, b=b and b(head, logits, shard), epsilon=epsilon, tol=tol, max_iter=max_iter,
            g_init=g if g is None else g.to(logits.device), process_group=shard.group)  # fmt: skip
    return Labelling(solved.labels, solved.g.cpu(), solved)


class SelfLabels:
    """Labels of n images by heads of `clusters` classes, renewed at `times`, in images seen.

    They are random and balanced at first.  The method is that of Asano, Rupprecht and Vedaldi, ICLR
    2020, section 3.

    Parameters
    ----------
    n : int
        The number of images.
    clusters : sequence of int
        K of each head.
    epsilon : float
        1 / lambda of :func:`equipartition`, in units of the logits; unused where a `labeller` is
        given.
    times : sequence of float
        When labels are renewed, in images seen, rising: :func:`update_times`.
    labeller : callable, optional
        What makes the labels instead of :func:`equipartition`, such as those of
        :mod:`selfsup.labellers`.
    one_head : bool
        Whether an update renews one head, in turn, and leaves the others as they are.
    groups : int
        Groups of heads, shuffled at each update; each can be given features of its own.
    seed : int
        Of the first labels and of the groups.
    process_group : torch.distributed.ProcessGroup, optional
        The processes that have the images together.

    Attributes
    ----------
    labels : (heads, n) int64 torch.Tensor
        On the CPU, all n in each process.
    states : list of torch.Tensor or None
        What each head's next solve starts from: the (K,) float64 potential g, where labels come
        from transport.
    updates : int
        How many updates there were.

    Raises
    ------
    ValueError
        `clusters` that is one number or holds one below 1.
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
        """Whether to update before the next step; after the last one too, for the last update.

        Parameters
        ----------
        images_seen : float
            How many images were trained on so far.

        Returns
        -------
        bool
            Whether the next of `times` has come.
        """
        return self.updates < len(self.times) and images_seen >= self.times[self.updates] - 1e-6

    def heads_due(self) -> list[list[int]]:
        """Return the heads of the next update, by the group that shares features.

        Returns
        -------
        list of list of int
            The heads of each group.
        """
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
        """Label anew from `logits`, or from what `heads` make of `features`, one head at a time.

        All heads are renewed, or those whose turn it is; after an error, none.

        Parameters
        ----------
        logits : sequence of (n, K) torch.Tensor
            Of each head, larger is better, in any floating dtype.
        heads : sequence of callable
            Instead of `logits`: each makes (n, K) logits of the features.
        features : (n, D) torch.Tensor or callable, optional
            What `heads` are given; a function makes them for the number of a group.
        rows : slice, optional
            Which of the n images all of this is about, where other processes have the others.

        Returns
        -------
        dict of int to Labelling
            Of each head that was renewed: its labels, its state, and how the solve went.

        Raises
        ------
        ValueError
            Logits of another shape or with NaN, or not one matrix for each head.
        """
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
        """Return the loss of outputs on the labels of their images.

        Parameters
        ----------
        outputs : sequence of (B, K) torch.Tensor
            Logits of each head.
        index : (B,) int64 torch.Tensor
            The positions of these images among all n.

        Returns
        -------
        torch.Tensor
            :func:`multi_head_loss`, in nats.

        Raises
        ------
        ValueError
            Outputs of another shape, or not one for each head.
        """
        y = self.labels[:, index.cpu()]
        z = [self._logits(h, outputs, y.shape[1]) for h in range(len(y))]
        return multi_head_loss(z, y.to(z[0].device))

    def predict(self, logits: Sequence[Tensor]) -> Tensor:
        """Return labels of any images: ``argmax_k logits_k + g_k``.

        Parameters
        ----------
        logits : sequence of (B, K) torch.Tensor
            Of each head.

        Returns
        -------
        (heads, B) int64 torch.Tensor
            On the device of the logits.  A head that was never renewed has no g and takes the
            argmax.

        Raises
        ------
        ValueError
            Not one matrix for each head.
        """
        g = [0.0 if g is None else g.to(logits[0].device) for g in self.states]
        return torch.stack([(z.double() + g).argmax(1) for z, g in zip(logits, g, strict=True)])

    def state_dict(self) -> dict[str, Any]:
        """Return labels, potentials and position, for a checkpoint.

        Returns
        -------
        dict
            `labels`, `states` and `updates`; the tensors are not copied.
        """
        return {"labels": self.labels, "states": self.states, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Parameters
        ----------
        state : dict
            What :meth:`state_dict` returned.
        """
        self.labels, self.states, self.updates = (state[x] for x in ("labels", "states", "updates"))
