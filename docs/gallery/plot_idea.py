"""
The idea in one picture
=======================

A classifier that was never told to be fair has favourites. Labels by argmax follow them. Labels by
optimal transport add one number to each class, the potential g, and take the argmax then: of all
ways to give each class as many rows, they keep the largest sum of logits.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np

from sinkhorn_ot import balanced_labels

rng = np.random.default_rng(0)
n, k = 600, 12
logits = rng.normal(size=(n, k)) + rng.normal(scale=0.9, size=k)
balanced = balanced_labels(logits)
order = np.argsort(balanced.labels, kind="stable")

# %%
# Left: the logits of 600 rows and 12 classes, and the potential that balances them. Right: how many
# rows each class gets.
figure, axes = plt.subplots(1, 4, figsize=(11, 3), width_ratios=[1.2, 1, 1, 1])
axes[0].imshow(logits[order], aspect="auto", cmap="viridis", interpolation="nearest")
axes[0].set(title="logits, N x K", xlabel="class", ylabel="row")
axes[1].bar(range(k), np.bincount(logits.argmax(axis=1), minlength=k), color="tab:orange")
axes[1].set(title="argmax of the logits", xlabel="class", ylabel="rows")
axes[2].bar(range(k), balanced.g, color="tab:gray")
axes[2].set(title="potential g", xlabel="class")
axes[3].bar(range(k), balanced.counts, color="tab:blue")
axes[3].set(title="argmax of logits + g", xlabel="class", ylim=axes[1].get_ylim())
for axis in (axes[1], axes[3]):
    axis.axhline(n / k, color="k", linewidth=1, linestyle="--")
figure.tight_layout()

# %%
# With a file's name as argument, the picture is saved: README's is made so.
if len(sys.argv) > 1 and sys.argv[1].endswith(".png"):
    figure.savefig(sys.argv[1], dpi=110)
