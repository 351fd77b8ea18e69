"""
What epsilon does
=================

``sinkhorn`` maximises ``<P, logits> + epsilon * H(P)``. A large epsilon makes a soft plan that
mixes the classes; a small one makes a hard plan, close to the best labels, in more reads of the
matrix. What counts is the ratio of the logits' spread to epsilon: SeLa's lambda is ``1 /
epsilon``.
"""

import matplotlib.pyplot as plt
import numpy as np

from sinkhorn_ot import balanced_labels, sinkhorn

rng = np.random.default_rng(1)
logits = rng.normal(size=(4000, 20)) + rng.normal(size=20)
best = balanced_labels(logits).objective

# %%
# The plan of one row at five values of epsilon: the mass moves to one class.
epsilons = [3.0, 1.0, 0.3, 0.1, 0.03]
figure, axes = plt.subplots(1, 5, figsize=(11, 2.2), sharey=True)
for axis, epsilon in zip(axes, epsilons, strict=True):
    result = sinkhorn(logits, epsilon=epsilon, tol=1e-6)
    axis.bar(range(20), result.soft_labels(logits[:1])[0])
    axis.set_title(f"epsilon = {epsilon:g}")
axes[0].set_ylabel("probability")
figure.tight_layout()

# %%
# How much of the best balanced objective the argmax labels reach, how far class sizes are off,
# and what the solve costs. (Where the objective is above that of the best balanced labels, the
# labels are not balanced.)
epsilons = np.geomspace(3, 0.001, 12)
results = [sinkhorn(logits, epsilon=epsilon, tol=1e-4) for epsilon in epsilons]
reached = [logits[range(4000), r.labels].sum() / best for r in results]
largest = [r.counts.max() / 200 for r in results]

figure, axes = plt.subplots(1, 3, figsize=(11, 2.8))
for axis, values, title in zip(
    axes,
    (reached, largest, [r.n_passes for r in results]),
    ("objective of the labels\n/ best balanced objective", "largest class / mean", "reads"),
    strict=True,
):
    axis.semilogx(epsilons, values, "o-")
    axis.set_xlabel("epsilon")
    axis.set_title(title)
    axis.invert_xaxis()
figure.tight_layout()
