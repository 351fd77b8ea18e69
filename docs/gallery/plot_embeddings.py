"""
Embeddings in twenty equal groups, and new ones
===============================================

Embeddings of a network, here principal components of scikit-learn's digits, are put into twenty
groups of equal size. Items that come later are labelled by the potentials of the first solve:
they follow the same borders, and need no new solve.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from sinkhorn_ot import BalancedKMeans, sinkhorn

digits = load_digits()
embeddings = PCA(16, random_state=0).fit_transform(digits.data / 16)
order = np.random.default_rng(0).permutation(len(embeddings))
first, later = embeddings[order[:1400]], embeddings[order[1400:]]

# %%
# Exactly equal groups, and centres that fit them.
model = BalancedKMeans(20, random_state=0).fit(first)
print("sizes", np.bincount(model.labels_))


def logits_of(x: np.ndarray) -> np.ndarray:
    """Return the negative squared distances of embeddings and centres."""
    return -((x[:, None] - model.cluster_centers_) ** 2).sum(axis=2)


# %%
# ``predict`` of a solve uses its potentials: nearly equal sizes for new items of the same kind,
# where the nearest centre would follow the centres alone. ``model.predict`` is the nearest
# centre, as of scikit-learn's k-means.
result = sinkhorn(logits_of(first), epsilon=0.05, tol=1e-6)
sizes = {
    "nearest centre": np.bincount(model.predict(later), minlength=20),
    "potentials of the first solve": np.bincount(result.predict(logits_of(later)), minlength=20),
}
figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True)
for axis, (title, counts) in zip(axes, sizes.items(), strict=True):
    axis.bar(range(20), counts)
    axis.axhline(len(later) / 20, color="k", linewidth=1, linestyle="--")
    axis.set_title(f"new items by {title}:\n{counts.min()} to {counts.max()}")
figure.tight_layout()
