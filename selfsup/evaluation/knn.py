"""Weighted nearest-neighbour accuracy, as of Wu et al. (2018) and the paper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from torch import Tensor

from selfsup.evaluation.features import TRUNK
from selfsup.evaluation.frame import Evaluation, Protocol, Row, classes, pairs, test_part
from selfsup.evaluation.neighbours import (
    grid_accuracy,
    most_similar,
    principal_components,
    projected,
)
from selfsup.evaluation.splits import validation_split

#: The paper's k and sigma, and the dimensions of its embedding.
PAPER, PAPER_DIM = (50, 0.1), 128


@dataclass(frozen=True)
class KnnSettings:
    """Of all combinations the best on validation images is taken."""

    k: tuple[int, ...] = (5, 10, 20, 50, 200)
    sigma: tuple[float, ...] = (0.05, 0.1, 0.5)
    layers: tuple[str, ...] = (TRUNK,)
    pca: tuple[int, ...] = (0, 128)
    """Principal components, of features of length 1, that are compared; 0: features as they are."""


@dataclass(frozen=True)
class Space:
    """Features in which neighbours are looked for."""

    layer: str
    pca: int
    """Principal components of all training images; 0: the features themselves."""
    train: Tensor
    test: Tensor


def spaces(evaluation: Evaluation, settings: KnnSettings) -> Iterator[Space]:
    """Give all layers, each with all numbers of components that it has."""
    both = [evaluation.layers(part, settings.layers) for part in ("train", "test")]
    for layer, train, test in zip(settings.layers, *both, strict=True):
        for dim in sorted({dim if dim < min(train.shape) else 0 for dim in settings.pca}):
            if dim == 0:
                yield Space(layer, 0, train, test)
                continue
            axes = principal_components(train, dim, evaluation.device, evaluation.seed)
            yield Space(layer, dim, projected(train, axes), projected(test, axes))


def knn(evaluation: Evaluation, settings: KnnSettings) -> list[Row]:
    """Return the accuracy of the paper's setting, and of the one that validation images choose.

    The validation images are a tenth of the training images, and take part as neighbours of test
    images. The paper's setting is on the first layer, and is the only one of a network that learned
    the classes of the validation images.
    """
    train, test = evaluation.train.targets, evaluation.images("test").targets
    fit, held = validation_split(train, evaluation.seed)
    grid = sorted({PAPER, *product(settings.k, settings.sigma)})
    device, most = evaluation.device, max(k for k, _ in grid)

    def accuracies(near: tuple[Tensor, Tensor], truth: Tensor) -> dict[tuple[int, float], float]:
        similarity, index = near
        known = train.to(device)[index]
        return grid_accuracy(similarity, known, truth, evaluation.classes, grid)

    found, first = [], []
    for space in spaces(evaluation, settings):
        first += [space] if space.layer == settings.layers[0] else []
        near = most_similar(space.train[held], space.train, most, device=device, rows=fit)
        found += [(score, space, one) for one, score in accuracies(near, train[held]).items()]
    published = next((space for space in first if space.pca == PAPER_DIM), first[0])
    paper = next(one for one in found if one[1] is published and one[2] == PAPER)
    settled = {"paper": paper}
    if not evaluation.taught:
        settled["chosen"] = max(found, key=lambda one: one[0])
    tested = {
        id(space): accuracies(most_similar(space.test, space.train, most, device=device), test)
        for _, space, _ in settled.values()
    }
    return [
        {"setting": setting, "layer": space.layer, "pca": space.pca, "k": k, "sigma": sigma,
         "validation": None if evaluation.taught else score,
         "top1": tested[id(space)][k, sigma]}
        for setting, (score, space, (k, sigma)) in settled.items()
    ]  # fmt: skip


KNN = Protocol(
    "knn",
    "weighted vote of the nearest training images; k and sigma by validation",
    knn,
    needs=(classes, test_part, pairs),
    usual=True,
)
