"""
Points in the plane, in equal groups
====================================

Three towns of very different size are to be served by six shops, each with room for the same
number of people. The nearest shop is the argmax of ``-distance**2``;
:func:`sinkhorn_ot.balanced_labels` gives each shop exactly 200 people, at the smallest sum of
squared distances that is possible.
"""

import matplotlib.pyplot as plt
import numpy as np

from sinkhorn_ot import balanced_labels

rng = np.random.default_rng(0)
people = np.concatenate([
    rng.normal((-2.0, 0.0), 0.9, (800, 2)),
    rng.normal((2.0, 1.0), 0.6, (300, 2)),
    rng.normal((1.5, -2.0), 0.3, (100, 2)),
])  # fmt: skip
shops = rng.uniform((-3, -2.5), (3, 2), (6, 2))

# %%
# Logits are similarities: larger is better. Here they are negative costs.
logits = -((people[:, None] - shops) ** 2).sum(axis=2)
nearest = logits.argmax(axis=1)
balanced = balanced_labels(logits)

figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharex=True, sharey=True)
for axis, labels, title in (
    (axes[0], nearest, "nearest shop"),
    (axes[1], balanced.labels, "balanced labels"),
):
    sizes = np.bincount(labels, minlength=6)
    axis.scatter(*people.T, c=labels, cmap="tab10", s=6, vmax=9)
    axis.scatter(*shops.T, c=range(6), cmap="tab10", s=140, marker="s", edgecolors="k", vmax=9)
    axis.set_title(f"{title}: sizes {sizes.min()} to {sizes.max()}")
    axis.set_aspect("equal")
figure.tight_layout()

# %%
# The result carries its proof: no labels with these sizes have an objective above
# ``upper_bound``.
print("sizes", balanced.counts)
print("objective", balanced.objective, "upper bound", balanced.upper_bound)
