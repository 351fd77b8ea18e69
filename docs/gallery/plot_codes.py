"""
The codes of a minibatch: SwAV and DINOv2
=========================================

SwAV, DINOv2 and their heirs make soft targets of a minibatch by three iterations of Sinkhorn's
loop. :func:`sinkhorn_ot.sinkhorn_codes` is that loop, with the same numbers, safe in float16.
"""

import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

from sinkhorn_ot import sinkhorn_codes

torch.manual_seed(0)
features = F.normalize(torch.randn(256, 64), dim=1)
prototypes = F.normalize(torch.randn(32, 64), dim=1)
scores = features @ prototypes.T

# %%
# The loop as it is published, for comparison.
q = torch.exp(scores / 0.05).T
q /= q.sum()
for _ in range(3):
    q /= q.sum(dim=1, keepdim=True) * len(q)
    q /= q.sum(dim=0, keepdim=True) * q.shape[1]
published = (q * q.shape[1]).T

codes = sinkhorn_codes(scores, epsilon=0.05, n_iter=3)
print("largest difference", float((codes - published).abs().max()))
print("in float16", float((sinkhorn_codes(scores.half()).float() - published).abs().max()))

# %%
# What the prototypes get: of the softmax, and of the codes, iteration by iteration.
figure, axis = plt.subplots(figsize=(7, 3))
axis.plot(torch.softmax(scores / 0.05, dim=1).sum(dim=0), label="softmax")
for n_iter in (1, 3, 10):
    mass = sinkhorn_codes(scores, n_iter=n_iter).sum(dim=0)
    axis.plot(mass, label=f"{n_iter} iteration{'s' * (n_iter > 1)}")
axis.axhline(256 / 32, color="k", linewidth=1, linestyle="--")
axis.set_xlabel("prototype")
axis.set_ylabel("mass")
axis.legend()
figure.tight_layout()
