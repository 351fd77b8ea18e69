"""Cluster embeddings that any network made, heads alone: python examples/frozen_features.py FILE.

FILE is an (N, D) .npy file; without one, the pixels of scikit-learn's digits stand for it. With a
good network and few images (300 photographs, say) this does what training from scratch cannot.
"""

import sys

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score as nmi
from torch import nn

from selfsup import SelfLabels, update_times

digits = load_digits()
embeddings = np.load(sys.argv[1]) if len(sys.argv) > 1 else digits.data
features = torch.tensor(embeddings, dtype=torch.float32)
features = (features - features.mean(0)) / (features.std(0) + 1e-3)
n, dim, clusters, epochs = len(features), features.shape[1], (10, 10, 10), 60

torch.manual_seed(0)
heads = nn.ModuleList(nn.Linear(dim, k) for k in clusters)
optimiser = torch.optim.SGD(heads.parameters(), lr=0.1, momentum=0.9)
labels = SelfLabels(n, clusters, epsilon=0.05, times=update_times(epochs * n, 60, power=1))
for epoch in range(epochs):
    if labels.due(epoch * n):
        labels.update(features=features, heads=heads)
    for index in torch.randperm(n).split(256):
        views = nn.functional.dropout(features[index], 0.5)
        loss = labels.loss([head(views) for head in heads], index)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
labels.update(features=features, heads=heads)
print(f"sizes of head 0: {torch.bincount(labels.labels[0]).tolist()}")
if len(sys.argv) == 1:
    print(f"NMI with the digits: {sum(nmi(digits.target, h) for h in labels.labels) / 3:.3f}")
