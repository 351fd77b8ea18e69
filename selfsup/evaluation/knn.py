"""Weighted nearest-neighbour accuracy, as of Wu et al. (2018) and the paper."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

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
    """Principal components that are compared; 0: the features themselves."""


def knn(evaluation: Evaluation, settings: KnnSettings) -> list[Row]:
    """Return the accuracy of the paper's setting, and of the one that validation images choose.

    The validation images are a tenth of the training images, and take part as neighbours of test
    images. Components are those of all training images.
    """
    train, test = evaluation.train.targets, evaluation.images("test").targets
    fit, held = validation_split(train, evaluation.seed)
    grid = sorted({PAPER, *product(settings.k, settings.sigma)})
    device, most = evaluation.device, max(k for k, _ in grid)
    found: list[tuple[Row, Any]] = []
    both = [evaluation.layers(part, settings.layers) for part in ("train", "test")]
    for layer, known, asked in zip(settings.layers, *both, strict=True):
        for dim in settings.pca:
            if dim >= known.shape[1]:
                continue
            bank, queries = known, asked
            if dim:
                components = principal_components(known, dim, device)
                bank, queries = projected(known, components), projected(asked, components)
            similarity, index = most_similar(bank[held], bank, most, device=device, rows=fit)
            scores = grid_accuracy(
                similarity, train.to(device)[index], train[held], evaluation.classes, grid
            )
            for (k, sigma), score in scores.items():
                row = {"layer": layer, "pca": dim, "k": k, "sigma": sigma, "validation": score}
                found.append((row, (bank, queries)))
    layer, wide = settings.layers[0], both[0][0].shape[1] > PAPER_DIM
    paper = [
        (row, space) for row, space in found
        if (row["k"], row["sigma"]) == PAPER and row["layer"] == layer
        and row["pca"] in ((PAPER_DIM,) if wide else (0,))
    ]  # fmt: skip
    best = max(found, key=lambda one: one[0]["validation"])
    rows = []
    for setting, (row, (bank, queries)) in [*(("paper", one) for one in paper), ("chosen", best)]:
        similarity, index = most_similar(queries, bank, row["k"], device=device)
        chosen = [(row["k"], row["sigma"])]
        (score,) = grid_accuracy(
            similarity, train.to(device)[index], test, evaluation.classes, chosen
        ).values()
        rows.append({"setting": setting, **row, "top1": score})
    return rows


KNN = Protocol(
    "knn",
    "weighted vote of the nearest training images; k and sigma by validation",
    knn,
    needs=(classes, test_part, pairs),
    usual=True,
)
