"""
Semantic IDs without collisions
===============================

A recommender names an item by a few codes, such as ``(3, 11, 20)``: a centre, a centre of what is
left (the residual), and so on. With nearest centres popular regions make many items share a name.
Balanced codes leave each prefix the same number of items, and bounds of one item a code make
names unique.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans

from sinkhorn_ot import BalancedKMeans, balanced_labels

rng = np.random.default_rng(0)
topics = rng.normal(size=(40, 16)) * rng.gamma(1.0, size=(40, 1))
popular = rng.dirichlet(np.full(40, 0.3))
items = topics[rng.choice(40, 4000, p=popular)] + 0.3 * rng.normal(size=(4000, 16))
first, second, third = 16, 16, 32


def nearest_ids(x):
    """Return codes of residual quantisation by k-means, and the error that is left."""
    codes = []
    for k in (first, second, third):
        model = KMeans(k, n_init=1, random_state=0).fit(x)
        codes.append(model.labels_)
        x = x - model.cluster_centers_[model.labels_]
    return np.stack(codes, axis=1), (x**2).sum(axis=1).mean()


def unique_ids(x):
    """Return codes of which no two items have all three in common, and the error that is left."""
    model = BalancedKMeans(first, random_state=0).fit(x)
    codes = np.zeros((len(x), 3), int)
    codes[:, 0] = model.labels_
    x = x - model.cluster_centers_[model.labels_]
    for prefix in range(first):
        own = codes[:, 0] == prefix
        model = BalancedKMeans(second, random_state=0).fit(x[own])
        codes[own, 1] = model.labels_
        x[own] -= model.cluster_centers_[model.labels_]
    centres = KMeans(third, n_init=1, random_state=0).fit(x).cluster_centers_
    for prefix in np.unique(codes[:, :2], axis=0):
        own = (codes[:, :2] == prefix).all(axis=1)
        logits = -((x[own][:, None] - centres) ** 2).sum(axis=2)
        codes[own, 2] = balanced_labels(logits, sizes_max=1, sizes_min=0).labels
    return codes, ((x - centres[codes[:, 2]]) ** 2).sum(axis=1).mean()


# %%
# How many items share a name, from the most crowded name down.
figure, axis = plt.subplots(figsize=(7, 3))
for title, make in (("k-means", nearest_ids), ("balanced", unique_ids)):
    codes, error = make(items)
    _, counts = np.unique(codes, axis=0, return_counts=True)
    axis.loglog(np.arange(1, len(counts) + 1), np.sort(counts)[::-1], label=title)
    print(f"{title}: {len(counts)} names for {len(items)} items, squared error {error:.3f}")
axis.set_xlabel("names, the most crowded first")
axis.set_ylabel("items of that name")
axis.legend()
figure.tight_layout()
