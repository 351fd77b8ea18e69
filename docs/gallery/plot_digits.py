"""
Handwritten digits in ten equal groups
======================================

The 1,797 digits of scikit-learn, without their classes. The groups of k-means differ in size by
almost three times; those of :class:`sinkhorn_ot.BalancedKMeans` have 179 or 180 images each, and
agree nearly as well with the true digits.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score

from sinkhorn_ot import BalancedKMeans

digits = load_digits()
x = digits.data / 16.0
plain = KMeans(10, n_init=10, random_state=0).fit_predict(x)
balanced = BalancedKMeans(10, n_init=10, random_state=0).fit_predict(x)

# %%
# A column is a group: its size, and six of its members.
tiles = np.pad(digits.images, ((0, 0), (1, 1), (1, 1)))
figure, axes = plt.subplots(2, 1, figsize=(8, 7))
for axis, labels, title in zip(axes, (plain, balanced), ("k-means", "balanced"), strict=True):
    columns = [np.concatenate(tiles[labels == group][:6]) for group in range(10)]
    sizes = np.bincount(labels)
    agreement = normalized_mutual_info_score(digits.target, labels)
    axis.imshow(np.concatenate(columns, axis=1), cmap="gray_r")
    axis.set_xticks(np.arange(10) * 10 + 4.5, sizes)
    axis.set_yticks([])
    axis.set_title(f"{title}: NMI with the true digits {agreement:.3f}")
figure.tight_layout()
