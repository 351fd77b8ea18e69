"""
Class sizes before and after
============================

A classifier that was never told to be fair has favourites. Labels by argmax follow them; labels
by optimal transport give all classes nearly the same size, and exact ones give them the same.
"""

import matplotlib.pyplot as plt
import numpy as np

from sinkhorn_ot import balanced_labels, equipartition_labels

rng = np.random.default_rng(0)
n, k = 50_000, 50
logits = rng.normal(size=(n, k)) + rng.normal(scale=0.7, size=k)

# %%
# ``equipartition_labels`` balances the *masses* of the soft plan and labels each row by its
# largest entry. ``balanced_labels`` balances the labels themselves.
sizes = {
    "argmax": np.bincount(logits.argmax(axis=1), minlength=k),
    "equipartition_labels": np.bincount(equipartition_labels(logits), minlength=k),
    "balanced_labels": balanced_labels(logits).counts,
}

figure, axes = plt.subplots(1, 3, figsize=(10, 3), sharey=True)
for axis, (name, counts) in zip(axes, sizes.items(), strict=True):
    axis.bar(range(k), counts, width=1.0)
    axis.axhline(n / k, color="k", linewidth=1, linestyle="--")
    axis.set_title(f"{name}\n{counts.min()} to {counts.max()}")
    axis.set_xlabel("class")
axes[0].set_ylabel("rows")
axes[0].set_ylim(0, 4000)
figure.tight_layout()
