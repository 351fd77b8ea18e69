"""
An image in sixteen equally frequent colours
============================================

k-means spends its colours where most pixels are alike. :class:`sinkhorn_ot.BalancedKMeans` gives
each colour the same number of pixels, so that detail is kept wherever there are pixels.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_sample_image

from sinkhorn_ot import BalancedKMeans

image = load_sample_image("china.jpg")[::6, ::6] / 255.0
pixels = image.reshape(-1, 3)

# %%
# Both have scikit-learn's conventions.
plain = KMeans(16, n_init=1, random_state=0).fit(pixels)
balanced = BalancedKMeans(16, random_state=0).fit(pixels)

figure, axes = plt.subplots(1, 3, figsize=(11, 2.8))
axes[0].imshow(image)
axes[0].set_title("the image")
for axis, model, title in zip(axes[1:], (plain, balanced), ("k-means", "balanced"), strict=True):
    sizes = np.bincount(model.labels_)
    axis.imshow(model.cluster_centers_[model.labels_].reshape(image.shape).clip(0, 1))
    axis.set_title(f"{title}: {sizes.min()} to {sizes.max()} pixels")
for axis in axes:
    axis.axis("off")
figure.tight_layout()
