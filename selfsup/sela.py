"""The method: label by optimal transport, train on the labels, repeat.

SeLa (Asano, Rupprecht and Vedaldi, ICLR 2020) minimises one cross-entropy over two unknowns, the
network p and the labels q of the N images::

    E(p, q) = - 1/N sum_i sum_y q(y|x_i) log p(y|x_i)    all K labels equally often in q

Without the constraint one label for all images and a network that always says so reach E = 0.
With it, ln K - E is a lower bound on the information between labels and images. The two are
improved in turn::

    labels = random_labels(...)
    for step, batch in enumerate(batches):
        if next(times) <= images seen:              # update_times
            labels = label_step(network, labels)    # q, the network fixed
        loss(network(views), labels[batch])         # p, the labels fixed: SGD

*Label step.* With P = p / N the best q is an optimal transport plan between images and labels.
With an entropy (epsilon = 1 / lambda) it is ``diag(a) p**lambda diag(b)``, which
:func:`sinkhorn_ot.sinkhorn` finds; the label of an image is the likeliest of its row. Of a head
only one N x K matrix of logits exists at a time; the potentials of the last update start the next.

Where the authors' code does what was not meant, this does not follow it: the label pass runs in
evaluation mode and data-set order, on the images themselves or on views of its own, not in
training mode on shuffled training views (which also changed the statistics of batch
normalisation). The solver stops at a violation that does not depend on N.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from selfsup.baselines import kmeans
from selfsup.config import Config
from selfsup.data import ImageSet
from selfsup.label_report import Clock, LabelReport, Solved, blocks, cross_entropies, head_report
from selfsup.marginals import match, size_profile
from selfsup.models import Network
from selfsup.seeds import Stream, generator_of, seed_of
from selfsup.world import World
from sinkhorn_ot import SinkhornWarning, sinkhorn

#: Images of one batch of a label pass, and numbers in them: larger ones gain nothing.
BATCH_IMAGES, BATCH_NUMBERS = 250, 1 << 24


def update_times(total: float, updates: int, power: float) -> list[float]:
    """Return the moments of the label updates, counted in training images seen.

    The gaps grow with a power above 1: labels change fast at first. The first moment is 0, the
    last of several is `total`, so that the final labels are those of the final network.
    """
    if updates == 1:
        return [0.0]
    return [total * (i / (updates - 1)) ** power for i in range(updates)]


def random_labels(n: int, config: Config) -> Tensor:
    """Return (heads, n) balanced random labels: class sizes differ by one at most."""
    heads = []
    for head, k in enumerate(config.clusters):
        order = torch.randperm(n, generator=generator_of(config.seed, Stream.LABELS, head))
        heads.append(order % k)
    return torch.stack(heads) if heads else torch.empty((0, n), dtype=torch.int64)


def heads_due(update: int, config: Config) -> list[list[int]]:
    """Return the heads that an update renews, in the groups that share a pass over the images."""
    heads = list(range(len(config.clusters)))
    if config.heads_per_update == "one":
        return [[heads[update % len(heads)]]]
    if config.head_groups == 1:
        return [heads]
    shuffled = torch.randperm(
        len(heads), generator=generator_of(config.seed, Stream.HEAD_GROUPS, update)
    ).tolist()
    return [shuffled[g :: config.head_groups] for g in range(config.head_groups)]


def multi_head_loss(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return the cross-entropy, averaged over heads; `labels` is (heads, B)."""
    losses = [F.cross_entropy(z, y) for z, y in zip(logits, labels, strict=True)]
    return torch.stack(losses).mean()


def quarter_turns(images: Tensor) -> Tensor:
    """Return (4B, C, S, S): the (B, C, S, S) images turned by 0, 90, 180 and 270 degrees."""
    return torch.cat([torch.rot90(images, turns, (2, 3)) for turns in range(4)])


def objective(outputs: Sequence[Tensor], labels: Tensor, *, rotated: bool) -> Tensor:
    """Return the loss of a batch; with `rotated`, that of RotNet's quarter turns is added."""
    if not rotated:
        return multi_head_loss(outputs, labels)
    *heads, turns = outputs
    truth = torch.arange(4, device=turns.device).repeat_interleave(len(turns) // 4)
    loss = F.cross_entropy(turns, truth)
    return loss + multi_head_loss(heads, labels) if heads else loss


def autocast(config: Config, device: torch.device) -> AbstractContextManager[None]:
    """Return the context of mixed precision, as the settings ask for it."""
    on = config.precision != "float32"
    dtype = getattr(torch, config.precision) if on else None
    return torch.autocast(device.type, dtype=dtype, enabled=on)


@torch.no_grad()
def extract_features(
    network: Network,
    images: ImageSet,
    config: Config,
    rows: slice | None = None,
    *,
    views: int = 1,
    position: tuple[int, ...] = (0,),
) -> Tensor:
    """Return the (n, D) float32 features of `rows` of the images in order, in evaluation mode.

    They see ``config.label_augment``; the mean over several `views` is, as heads are linear, also
    the mean of the logits. `position` decides the random views.
    """
    device, size = network.mean.device, config.image_size
    unit = label_batch(config)
    rows = slice(0, len(images)) if rows is None else rows
    starts = range(rows.start, rows.stop, unit)
    batches = [torch.arange(i, min(i + unit, rows.stop)) for i in starts]
    total = torch.zeros((rows.stop - rows.start, network.dim), device=device)
    was_training = network.training
    network.eval()
    for view in range(views):
        seeds = [
            seed_of(config.seed, Stream.LABEL_VIEWS, *position, view, i // unit) for i in starts
        ]
        shown = images.views(batches, config.label_augment, size, seeds=seeds, device=device)
        for index, x in zip(batches, shown, strict=True):
            with autocast(config, device):
                features = network.features(x)
            total[index - rows.start] += features.float() / views
    network.train(was_training)
    return total


def label_batch(config: Config) -> int:
    """Return how many images of a label pass go through the network at once."""
    return max(1, min(BATCH_IMAGES, BATCH_NUMBERS // (3 * config.image_size**2)))


@dataclass(frozen=True)
class Labels:
    """Labels of all heads, and what starts the next label step."""

    labels: Tensor
    """(heads, N) int64, in data-set order."""
    potentials: tuple[Tensor | None, ...]
    """(K,) float64 of each head that has been solved: predicts labels of new images."""
    centroids: tuple[Tensor | None, ...]
    """(K, D) float32 of each head that was labelled by k-means."""

    @classmethod
    def at_random(cls, n: int, config: Config) -> Labels:
        """Return the start: random and balanced."""
        nothing = (None,) * len(config.clusters)
        return cls(random_labels(n, config), nothing, nothing)


@torch.no_grad()
def label_step(
    network: Network, images: ImageSet, config: Config, old: Labels, update: int, world: World
) -> tuple[Labels, LabelReport]:
    """Label the images anew, the network fixed; of several processes each solves for its rows."""
    n = len(images)
    rows = world.share(n, label_batch(config))
    labels, potentials = old.labels.clone(), list(old.potentials)
    centroids = list(old.centroids)
    clock = Clock(network.mean.device)
    reports = []
    for number, group in enumerate(heads_due(update, config)):
        with clock("forward"):
            features = extract_features(
                network, images, config, rows, views=config.label_views, position=(update, number)
            )
        for head in group:
            with clock("logits"):
                logits = network.heads.head(head, features)
            with clock("transport"):
                solved = Solved()
                if config.labelling == "k-means":
                    seed = seed_of(config.seed, Stream.KMEANS, head)
                    found, centroids[head] = kmeans(
                        features, config.clusters[head], centroids[head], seed, rows, n, world
                    )
                elif config.labelling == "argmax":
                    found = logits.argmax(1)
                    potentials[head] = torch.zeros(logits.shape[1], dtype=torch.float64)
                else:
                    found, potentials[head], solved = transport(
                        logits, config, head, potentials[head], world
                    )
            with clock("logits"):
                before = old.labels[head, rows].to(logits.device)
                entropies = world.sum(cross_entropies(logits, before, found)) / n
            with clock("report"):
                labels[head] = world.gather_rows(found, rows, n).cpu()
                if world.first:
                    reports.append(head_report(head, entropies, old.labels, labels, config, solved))
            del logits
    new = Labels(labels, tuple(potentials), tuple(centroids))
    return new, LabelReport(tuple(reports), clock.seconds)


def transport(
    logits: Tensor, config: Config, head: int, start: Tensor | None, world: World
) -> tuple[Tensor, Tensor, Solved]:
    """Return the balanced labels of this process's rows, the potential g, and how it went."""
    profile, b = size_profile(config, head), None
    if profile is not None:
        masses = torch.zeros(logits.shape[1], dtype=torch.float64, device=logits.device)
        for block in blocks(logits):
            masses += block.softmax(1).double().sum(0)
        b = match(profile, world.sum(masses)).to(logits.device)
    with warnings.catch_warnings():
        # the violation that was reached is in the log, and a cap on the work is wanted here
        warnings.simplefilter("ignore", SinkhornWarning)
        result = sinkhorn(
            logits,
            b=b,
            epsilon=config.epsilon,
            tol=config.tol,
            max_iter=config.max_iter,
            g_init=None if start is None else start.to(logits.device),
            process_group=world.group,
        )
    solved = Solved(result.marginal_violation, result.converged, result.n_passes)
    return result.labels, result.g.cpu(), solved
