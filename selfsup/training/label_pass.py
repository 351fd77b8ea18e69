"""The label pass: features of all images, the labels of one head after the other, a report."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from selfsup.config import Config, LabelConfig
from selfsup.data import ImageSet
from selfsup.errors import ConfigError, RunError
from selfsup.evaluation.scores import entropy, nmi
from selfsup.labellers import labeller_of
from selfsup.models import Network
from selfsup.seeds import Stream, generator_of, seed_of
from selfsup.sela import Labeller, Labelling, SelfLabels, Shard, update_times
from selfsup.training.processes import World
from selfsup.training.step import autocast

#: Images of one batch of a label pass, and numbers in them: larger ones gain nothing.
BATCH_IMAGES, BATCH_NUMBERS = 250, 1 << 24
#: Rows of features that a head takes at once where they are not on its device.
HEAD_ROWS = 1 << 16
#: Logits whose cross-entropies are worked on at once: 64 MB.
BLOCK = 1 << 24
#: Without --clusters: so many images for each, and never more clusters than that.
IMAGES_PER_CLUSTER, MOST_CLUSTERS = 20, 128


def batch_of(size: int) -> int:
    """Return how many images of size x size go through the network at once in a label pass."""
    return max(1, min(BATCH_IMAGES, BATCH_NUMBERS // (3 * size**2)))


@torch.no_grad()
def feature_pass(
    config: Config, network: Network, images: ImageSet, rows: slice | None = None,
    position: tuple[int, ...] = (0,),
) -> Tensor:  # fmt: skip
    """Return the (n, D) float32 features of `rows` of the images, as a run's label pass sees them.

    `position` decides the random views. As heads are linear, the mean features of several have the
    mean of their logits. In training mode there are dropout and the statistics of shuffled batches,
    as the authors have them, and the running statistics follow.
    """
    labels, device = config.labels, network.mean.device
    rows, training = rows or slice(0, len(images)), labels.label_mode == "train"
    index = torch.arange(rows.start, rows.stop)
    if training:
        generator = generator_of(config.run.seed, Stream.LABEL_VIEWS, *position)
        index = index[torch.randperm(len(index), generator=generator)]
    batch = batch_of(size := config.data.image_size)
    batches = list(torch.split(index, batch)) if len(index) else []
    if training and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]  # one image has no variance
    total = _room(labels.features_in, len(index), network.dim, device)
    was_training, first = network.training, rows.start // batch
    network.train(training)
    for view in range(labels.label_views):
        seed = partial(seed_of, config.run.seed, Stream.LABEL_VIEWS, *position, view)
        seeds = [seed(first + i) for i in range(len(batches))]
        if training:  # dropout draws from the global generator
            torch.manual_seed(seed())
        shown = images.views(batches, config.label_augment, size, seeds=seeds, device=device)
        for some, x in zip(batches, shown, strict=True):
            with autocast(device, config.optimiser.precision):
                features = network.features(x)
            share = (features.float() / labels.label_views).to(total.device)
            total[(some - rows.start).to(total.device)] += share
    network.train(was_training)
    return total


def _room(place: str, n: int, dim: int, device: torch.device) -> Tensor:
    if place != "disk" or not n:
        return torch.zeros((n, dim), device=device if place == "device" else "cpu")
    with tempfile.NamedTemporaryFile(prefix="features-") as file:  # unlinked, but mapped
        file.truncate(4 * n * dim)
        return torch.from_file(file.name, shared=True, size=n * dim).view(n, dim)


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
    ln_k: float
    ce_before: float
    """Cross-entropy of the labels before the update, in nats, at the network as it is."""
    ce_after: float  #: And after; it may rise, as argmax labels are not exactly balanced.
    bits: float  #: (ln K - cross-entropy) / ln 2: a lower bound on the information about the image.
    entropy: float  #: Of the labels, in nats; ln K when all classes are equally large.
    size_min: int
    size_max: int
    changed: float  #: Part of the labels that changed.
    nmi_last: float  #: Normalised mutual information with the labels before.
    violation: float
    converged: bool
    passes: float  #: Reads of the N x K matrix.


@dataclass(frozen=True)
class LabelReport:
    """What a label step did, and where its time went."""

    heads: tuple[HeadReport, ...]
    seconds: dict[str, float]
    """forward: views and network; logits: heads and cross-entropies; transport: the solves."""


class Watched:
    """A labeller that notes how labels fare with the logits, before and after, and its time."""

    def __init__(self, labeller: Labeller, world: World) -> None:
        self.labeller, self.world = labeller, world
        self.begin(torch.empty(0), torch.device("cpu"))

    def begin(self, labels: Tensor, device: torch.device) -> None:
        """Take note of the labels before an update."""
        self.old, self.clock = labels.clone(), Clock(device)
        self.entropies: dict[int, Tensor] = {}

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
            head, math.log(k), before, after, (math.log(k) - after) / math.log(2),
            entropy(sizes.numpy()), int(sizes.min()), int(sizes.max()),
            float((old != labels).double().mean()), nmi(old.numpy(), labels.numpy()),
            violation=0.0 if solved is None else float(solved.marginal_violation),
            converged=solved is None or bool(solved.converged),
            passes=0.0 if solved is None else float(solved.n_passes),
        )  # fmt: skip


def cross_entropies(logits: Tensor, *labellings: Tensor) -> Tensor:
    """Return the cross-entropy of each (n,) labelling, summed over the rows, in float64."""
    sums = torch.zeros(len(labellings), dtype=torch.float64, device=logits.device)
    rows = max(1, BLOCK // logits.shape[1])
    for block, *some in zip(*(torch.split(x, rows) for x in (logits, *labellings)), strict=True):
        logs = block.log_softmax(1)
        sums -= torch.stack([logs.gather(1, y[:, None]).double().sum() for y in some])
    return sums


def fit_clusters(config: LabelConfig, n: int) -> tuple[int, ...]:
    """Return K of each head, chosen where it is 0; refuse more clusters than images."""
    if n < 2:
        raise ConfigError(f"{n} image: labels need at least 2 to be told apart")
    k = max(2, min(MOST_CLUSTERS, n // IMAGES_PER_CLUSTER))
    clusters = tuple(asked or k for asked in config.clusters)
    if max(clusters, default=0) > n:
        raise ConfigError(
            f"--clusters {max(clusters)} are more than the {n} images; some {k} fit, or 0 to choose"
        )
    return clusters


def new_labels(config: LabelConfig, n: int, seed: int, total: int, world: World) -> SelfLabels:
    """Return random balanced labels, to be renewed as `config` says while `total` images go by."""
    start, labeller = seed_of(seed, Stream.LABELS), seed_of(seed, Stream.LABELLER, 0)
    times: list[float] = []
    if config.labelling not in ("fixed", "none"):
        times = update_times(total, config.updates, config.schedule_power)
    return SelfLabels(
        n, config.clusters, times=times, labeller=Watched(labeller_of(config, labeller), world),
        one_head=config.heads_per_update == "one", groups=config.head_groups, seed=start,
        process_group=world.group,
    )  # fmt: skip


def label_step(
    config: Config, network: Network, images: ImageSet, labels: SelfLabels, world: World
) -> LabelReport:
    """Label the images anew, the network fixed; of several processes each has its rows."""
    watch = labels.labeller
    assert isinstance(watch, Watched)
    watch.begin(labels.labels, network.mean.device)
    rows = world.share(len(images), batch_of(config.data.image_size))
    update = labels.updates

    def features(group: int) -> Tensor:
        with watch.clock("forward"):
            return feature_pass(config, network, images, rows, (update, group))

    def logits(head: int, x: Tensor) -> Tensor:
        with watch.clock("logits"):
            return in_blocks(network, head, x)

    heads = [partial(logits, head) for head in range(len(labels.labels))]
    found = labels.update(features=features, heads=heads, rows=rows)
    with watch.clock("report"):
        told = found.items() if world.first else ()
        reports = [watch.report(h, labels.labels[h], labels.clusters[h], x) for h, x in told]
    return LabelReport(tuple(reports), watch.clock.seconds)


@torch.no_grad()
def in_blocks(network: Network, head: int, features: Tensor) -> Tensor:
    """Return the (n, K) logits of a head on its device; features elsewhere come in blocks."""
    device = network.mean.device
    if features.device == device:
        return network.heads[head](features)
    logits = torch.empty((len(features), network.heads.clusters[head]), device=device)
    for rows in torch.split(torch.arange(len(features)), HEAD_ROWS):
        logits[rows] = network.heads[head](features[rows].to(device))
    return logits
