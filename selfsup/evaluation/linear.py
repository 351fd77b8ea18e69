"""Linear classifiers on fixed features: quickly, by L-BFGS on standardised features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from selfsup.evaluation.features import TRUNK
from selfsup.evaluation.frame import Evaluation, Protocol, Row, classes, pairs, test_part
from selfsup.evaluation.splits import validation_split

#: Rows that go through a classifier at once.
BLOCK = 1 << 16
#: Features up to so many bytes stay on the device while a classifier is fitted.
HELD = 8 << 30


@dataclass(frozen=True)
class LinearSettings:
    """The best C and layer on validation images are taken."""

    c: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """As of scikit-learn: the sum of losses counts C times as much as half the squared weights."""
    layers: tuple[str, ...] = (TRUNK,)
    max_iter: int = 200


@dataclass(frozen=True)
class Linear:
    """A classifier: ``((x - mean) / std) @ weight + bias``."""

    mean: Tensor
    std: Tensor
    weight: Tensor
    """(D, classes) float32."""
    bias: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """Return the (n,) classes of (n, D) features on any device."""
        found = []
        for block in torch.split(features, BLOCK):
            x = (block.to(self.mean.device).float() - self.mean) / self.std
            found.append((x @ self.weight + self.bias).argmax(1).cpu())
        return torch.cat(found)


class Standardised:
    """Rows of features with mean 0 and deviation 1, on a device, block after block."""

    def __init__(self, features: Tensor, rows: Tensor, device: torch.device) -> None:
        self.features, self.rows, self.device = features, rows, device
        total = torch.zeros(features.shape[1], dtype=torch.float64, device=device)
        squares = torch.zeros_like(total)
        for block in torch.split(rows, BLOCK):
            x = features[block].to(device).double()
            total += x.sum(0)
            squares += (x * x).sum(0)
        mean = total / len(rows)
        std = (squares / len(rows) - mean * mean).clamp_min(0).sqrt()
        self.mean = mean.float()
        self.std = torch.where(std > 1e-6 * (1 + mean.abs()), std, 1.0).float()
        held = 4 * len(rows) * features.shape[1] <= HELD
        self.held = [x for _, x in self._read()] if held else None

    def _read(self) -> Iterator[tuple[Tensor, Tensor]]:
        for block in torch.split(self.rows, BLOCK):
            yield block, (self.features[block].to(self.device).float() - self.mean) / self.std

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give positions among all features, and their (B, D) standardised rows."""
        if self.held is None:
            yield from self._read()
        else:
            yield from zip(torch.split(self.rows, BLOCK), self.held, strict=True)


def fit(
    data: Standardised, targets: Tensor, number: int, c: float, max_iter: int,
    start: Linear | None = None,
) -> Linear:  # fmt: skip
    """Fit multinomial logistic regression: scikit-learn's objective, by SciPy's L-BFGS.

    Parameters
    ----------
    data : Standardised
        The features.
    targets : Tensor
        (N,) int64 classes of all features, of which `data` has some.
    number : int
        Number of classes.
    c : float
        Inverse strength of the penalty, see :class:`LinearSettings`.
    max_iter : int
        Iterations of L-BFGS at most.
    start : Linear, optional
        Where to begin; only the speed depends on it.
    """
    n, dim = len(data.rows), len(data.mean)
    truth = targets.to(data.device)
    first = np.zeros((dim + 1) * number)
    if start is not None:
        first = torch.cat([start.weight, start.bias[None]]).double().cpu().numpy().ravel()

    @torch.no_grad()
    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        both = torch.from_numpy(flat).view(dim + 1, number)
        weight, bias = both[:-1].to(data.device).float(), both[-1].to(data.device).float()
        loss = torch.zeros((), dtype=torch.float64, device=data.device)
        slope = torch.zeros((dim + 1, number), dtype=torch.float64, device=data.device)
        for rows, x in data.blocks():
            logits, y = torch.addmm(bias, x, weight), truth[rows.to(data.device)]
            loss += F.cross_entropy(logits, y, reduction="sum")
            error = logits.softmax(1)
            error[torch.arange(len(y), device=data.device), y] -= 1
            slope[:-1] += (x.T @ error).double()
            slope[-1] += error.sum(0, dtype=torch.float64)
        gradient = slope.cpu() / n
        gradient[:-1] += both[:-1] / (c * n)
        penalty = float((both[:-1] ** 2).sum()) / (2 * c * n)
        return float(loss) / n + penalty, gradient.numpy().ravel()

    solved = minimize(
        objective, first, jac=True, method="L-BFGS-B",
        options={"maxiter": max_iter, "gtol": 1e-5, "ftol": 1e-9},
    )  # fmt: skip
    both = torch.from_numpy(solved.x).view(dim + 1, number).float().to(data.device)
    return Linear(data.mean, data.std, both[:-1], both[-1])


def accuracy(found: Tensor, targets: Tensor) -> float:
    """Return the share of equal classes."""
    return float((found == targets).double().mean())


def linear(evaluation: Evaluation, settings: LinearSettings) -> list[Row]:
    """Return the accuracy of logistic regression, C and layer chosen by validation.

    C is chosen on a tenth of the training images. The chosen classifier is fitted to all of them.
    Of a network that learned the classes of that tenth the choice means little, and its accuracy
    there is not told.
    """
    train, test = evaluation.train.targets, evaluation.images("test").targets
    some, held = validation_split(train, evaluation.seed)
    rows: list[Row] = []
    known = evaluation.layers("train", settings.layers)
    steps = tqdm(total=len(settings.layers) * len(settings.c) + 1, leave=False, disable=None,
                 desc=f"{evaluation.method}: linear")  # fmt: skip
    with steps:
        for layer, features in zip(settings.layers, known, strict=True):
            data, found = Standardised(features, some, evaluation.device), None
            for c in sorted(settings.c):  # weak penalties start from where strong ones ended
                found = fit(data, train, evaluation.classes, c, settings.max_iter, found)
                score = accuracy(found.predict(features[held]), train[held])
                rows.append({"solver": "L-BFGS", "layer": layer, "C": c, "validation": score})
                steps.update()
        best = max(rows, key=lambda row: row["validation"])
        features = known[settings.layers.index(best["layer"])]
        whole = Standardised(features, torch.arange(len(train)), evaluation.device)
        found = fit(whole, train, evaluation.classes, best["C"], settings.max_iter)
        asked = evaluation.features("test", best["layer"])
        best["top1"] = accuracy(found.predict(asked), test)
    if evaluation.taught:
        return [best | {"validation": None}]
    if len(settings.c) > 1 and best["C"] in (min(settings.c), max(settings.c)):
        best["note"] = "best C is the last one tried: try others with --linear.c"
    grid = [{name: row[name] for name in ("layer", "C", "validation")} for row in rows]
    return [best | {"grid": grid}]


LINEAR = Protocol(
    "linear",
    "logistic regression on standardised features by L-BFGS; C by validation",
    linear,
    needs=(classes, test_part, pairs),
    usual=True,
)
