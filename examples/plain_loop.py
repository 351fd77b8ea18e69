"""SeLa in a PyTorch loop of one's own: python examples/plain_loop.py."""

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score as nmi
from torch import nn

from selfsup import SelfLabels, update_times

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
n, epochs, clusters = len(images), 30, (10, 10, 10)

torch.manual_seed(0)
trunk = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
    nn.Conv2d(32, 64, 3, 2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(64, affine=False),
)  # fmt: skip
heads = nn.ModuleList(nn.Linear(64, k) for k in clusters)
optimiser = torch.optim.SGD([*trunk.parameters(), *heads.parameters()], 0.05, 0.9, nesterov=True)
labels = SelfLabels(n, clusters, epsilon=0.1, times=update_times(epochs * n, 120, power=1))

seen = 0
for _ in range(epochs):
    for index in torch.randperm(n).split(128):
        if labels.due(seen):
            with torch.no_grad():
                features = trunk.eval()(images)
            labels.update(features=features, heads=heads)
        shifts = torch.randint(-1, 2, (2,)).tolist()
        views = images[index].roll(shifts, (2, 3)) + 0.1 * torch.randn(len(index), 1, 8, 8)
        features = trunk.train()(views)
        loss = labels.loss([head(features) for head in heads], index)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen += len(index)
labels.update(features=trunk.eval()(images).detach(), heads=heads)  # the last of the 120
print(f"NMI with the digits: {sum(nmi(digits.target, h) for h in labels.labels) / 3:.3f}")
