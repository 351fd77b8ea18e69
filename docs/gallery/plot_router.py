"""
The load of a router of experts
===============================

A mixture of experts sends each token to one expert, and an expert has room for so many tokens. A
router by argmax overloads its favourites, whose surplus is dropped or padded for. Balanced labels
use all the room, at the smallest loss of router score.
"""

import matplotlib.pyplot as plt
import numpy as np

from sinkhorn_ot import balanced_labels

rng = np.random.default_rng(0)
tokens, experts, batches = 4096, 16, 20
favour = rng.normal(scale=1.2, size=experts)
capacity = tokens // experts

loads: dict[str, list[np.ndarray]] = {"argmax": [], "balanced": []}
dropped, given_up = [], []
for _ in range(batches):
    scores = rng.normal(size=(tokens, experts)).astype(np.float32) + favour
    top = scores.argmax(axis=1)
    exact = balanced_labels(scores, sizes_max=capacity, sizes_min=0)
    loads["argmax"].append(np.bincount(top, minlength=experts))
    loads["balanced"].append(exact.counts)
    dropped.append(np.maximum(loads["argmax"][-1] - capacity, 0).sum() / tokens)
    given_up.append((scores[range(tokens), top].sum() - exact.objective) / tokens)

# %%
# With a capacity of the mean load, so much of the tokens has no room where their argmax is:
print(f"dropped by argmax: {100 * np.mean(dropped):.1f}% of the tokens, balanced: none")
print(f"a balanced token has on average {np.mean(given_up):.3f} less score than its favourite gave")

figure, axis = plt.subplots(figsize=(7, 3))
for name, offset in (("argmax", -0.2), ("balanced", 0.2)):
    axis.bar(np.arange(experts) + offset, np.mean(loads[name], axis=0), width=0.4, label=name)
axis.axhline(capacity, color="k", linewidth=1, linestyle="--", label="capacity")
axis.set_xlabel("expert")
axis.set_ylabel("tokens of a batch")
axis.legend()
figure.tight_layout()
