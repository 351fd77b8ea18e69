"""
SeLa in one's own training loop
===============================

SeLa learns from labels that it invents: label all images by transport, train on the labels,
repeat. :class:`selfsup.SelfLabels` keeps the labels; network, data and optimiser are yours. Here
a small network learns scikit-learn's digits, whose classes are only used to see how well it went.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score
from torch import nn
from torch.nn import functional as F

from selfsup import SelfLabels, update_times

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
images = F.interpolate(images, 16, mode="bilinear")
trunk = nn.Sequential(
    nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
    nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
    nn.Conv2d(32, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU(),
    nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.BatchNorm1d(128, affine=False),
)  # fmt: skip
heads = nn.ModuleList(nn.Linear(128, 10) for _ in range(5))
optimiser = torch.optim.SGD(
    [*trunk.parameters(), *heads.parameters()], lr=0.05, momentum=0.9, weight_decay=5e-4
)


def augmented(x: torch.Tensor) -> torch.Tensor:
    """Turn, scale and shift each image at random."""
    turn = torch.empty(len(x)).uniform_(-0.35, 0.35)
    scale = torch.empty(len(x)).uniform_(0.8, 1.25)
    shift = torch.empty(len(x), 2, 1).uniform_(-0.24, 0.24)
    cos, sin = torch.cos(turn) * scale, torch.sin(turn) * scale
    matrix = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    grid = F.affine_grid(torch.cat([matrix, shift], 2), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


# %%
# The whole method is in the three lines that mention ``labels``.
n, epochs, seen, agreement = len(images), 30, 0, []
labels = SelfLabels(n, [10] * 5, epsilon=0.1, times=update_times(epochs * n, 120, power=1.0))
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
for _ in range(epochs):
    for index in torch.randperm(n).split(100):
        if labels.due(seen):
            trunk.eval()
            with torch.no_grad():
                labels.update(heads=list(heads), features=trunk(images))
            trunk.train()
            truth = digits.target
            agreement.append([normalized_mutual_info_score(truth, y) for y in labels.labels])
        features = trunk(augmented(images[index]))
        loss = labels.loss([head(features) for head in heads], index)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen += len(index)
    schedule.step()

pixels = KMeans(10, n_init=10, random_state=0).fit_predict(digits.data)
figure, axis = plt.subplots(figsize=(7, 3))
axis.plot(agreement)
axis.axhline(normalized_mutual_info_score(digits.target, pixels), color="k", linestyle="--")
axis.set_xlabel("label updates")
axis.set_ylabel("NMI with the true digits")
axis.legend([*(f"head {h}" for h in range(5)), "k-means on pixels"])
figure.tight_layout()
