"""How features fare while they are learned, where classes are known: kNN among a few images."""

from __future__ import annotations

import torch

from selfsup.config import Config
from selfsup.data import ImageSet
from selfsup.evaluation.features import TRUNK, View, stream
from selfsup.evaluation.neighbours import leave_one_out
from selfsup.models import Network
from selfsup.seeds import Stream, generator_of

#: Images that are looked at, at most; and of all images for each epoch between two looks. A look
#: is one forward pass, an epoch about three for each image: so it is a hundredth of the time.
MOST, SHARE = 2000, 0.03
#: Votes and sigma of Wu et al. (2018), as the authors' code has them while it trains.
K, SIGMA = 10, 0.1


class KnnWatch:
    """The kNN accuracy of some training images among themselves, always the same ones.

    Parameters
    ----------
    config : Config
        `run.knn_every` says after which epochs; the last one always.
    images : ImageSet
        The training images, with classes.
    """

    def __init__(self, config: Config, images: ImageSet) -> None:
        every, n = config.run.knn_every, len(images)
        self.every, self.epochs = every, config.optimiser.epochs
        count = min(MOST, round(SHARE * every * n), n)
        order = torch.randperm(n, generator=generator_of(config.run.seed, Stream.SPLITS))
        some = order[:count].sort().values
        self.images = images.select(some) if images.labelled and count > K else None
        self.view = View.of(config)
        self.precision = config.optimiser.precision

    def due(self, epoch: int) -> bool:
        """Whether to look after so many epochs."""
        return self.images is not None and (epoch % self.every == 0 or epoch == self.epochs)

    def __call__(self, network: Network) -> float:
        """Return the accuracy; the network stays as it is."""
        assert self.images is not None
        blocks = stream(network, self.images, self.view, precision=self.precision, quiet=True)
        features = torch.cat([found[TRUNK] for _, found in blocks])
        targets, classes = self.images.targets, len(self.images.classes)
        return leave_one_out(features, targets, classes, K, SIGMA)
