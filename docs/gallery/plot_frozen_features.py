"""
Heads on frozen features
========================

A few hundred images are too few for SeLa to learn features from. Take those of a network that has
seen many: it stays as it is, and SeLa trains heads on its features alone. Here principal components
of scikit-learn's digits stand for these features; ``examples/frozen_features.py FILE.npy`` takes
yours.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score as nmi
from torch import nn

from selfsup import SelfLabels, update_times

torch.manual_seed(0)
digits = load_digits()
features = torch.tensor(PCA(16, random_state=0).fit_transform(digits.data), dtype=torch.float32)
features /= features.std()
n, epochs = len(features), 60

# %%
# Three heads, of ten clusters each. What augmentation is to images, noise is to features: a head
# has to give a feature and its neighbours the same label.
heads = nn.ModuleList(nn.Linear(16, 10) for _ in range(3))
optimiser = torch.optim.SGD(heads.parameters(), lr=0.1, momentum=0.9)
labels = SelfLabels(n, [10] * 3, epsilon=0.05, times=update_times(epochs * n, 60, power=1))
for epoch in range(epochs):
    if labels.due(epoch * n):
        labels.update(features=features, heads=list(heads))
    for index in torch.randperm(n).split(256):
        views = features[index] + torch.randn(len(index), 16)
        optimiser.zero_grad()
        labels.loss([head(views) for head in heads], index).backward()
        optimiser.step()
labels.update(features=features, heads=list(heads))

# %%
# How well clusters agree with the true digits, which nothing was told of.
print("heads  ", *(f"{nmi(digits.target, head):.3f}" for head in labels.labels))
plain = KMeans(10, n_init=10, random_state=0).fit_predict(features)
print("k-means", f"{nmi(digits.target, plain):.3f}", "sizes", np.bincount(plain))

# %%
# A column is a cluster of the first head: its size, and six of its members.
figure, axis = plt.subplots(figsize=(8, 4))
tiles = np.pad(digits.images, ((0, 0), (1, 1), (1, 1)))
columns = [np.concatenate(tiles[labels.labels[0] == k][:6]) for k in range(10)]
axis.imshow(np.concatenate(columns, axis=1), cmap="gray_r")
axis.set_xticks(np.arange(10) * 10 + 4.5, torch.bincount(labels.labels[0]).tolist())
axis.set_yticks([])
figure.tight_layout()
