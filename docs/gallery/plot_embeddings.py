"""
Embeddings in twenty equal groups, and new ones
===============================================

Embeddings of a network, here principal components of scikit-learn's digits, are put into twenty
groups of equal size around twenty of them. Items that come later are labelled by the potentials of
the first solve: they keep its borders, and need no new solve.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from sinkhorn_ot import balanced_labels, sinkhorn

digits = load_digits()
embeddings = PCA(16, random_state=0).fit_transform(digits.data / 16)
order = np.random.default_rng(0).permutation(len(embeddings))
first, later = embeddings[order[:1000]], embeddings[order[1000:]]
centres = first[:20]


def logits_of(x: np.ndarray) -> np.ndarray:
    """Return the negative squared distances of embeddings and centres."""
    return -((x[:, None] - centres) ** 2).sum(axis=2)


# %%
# Exactly equal groups. (``BalancedKMeans(20)`` moves the centres as well.)
groups = balanced_labels(logits_of(first)).labels
print("sizes", np.bincount(groups))

# %%
# ``predict`` adds the potentials of a solve to the logits of new rows and takes the argmax. The
# new items are not balanced by force; their groups are nearly equal because they are of the same
# kind as the first ones. The nearest centre alone has its favourites.
result = sinkhorn(logits_of(first), epsilon=0.05, tol=1e-6)
new = logits_of(later)
labels = {"nearest centre": new.argmax(axis=1), "predict of the solve": result.predict(new)}
figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True)
for axis, (title, found) in zip(axes, labels.items(), strict=True):
    counts = np.bincount(found, minlength=20)
    axis.bar(range(20), counts)
    axis.axhline(len(later) / 20, color="k", linewidth=1, linestyle="--")
    axis.set_title(f"new items by {title}:\n{counts.min()} to {counts.max()} in a group")
figure.tight_layout()
