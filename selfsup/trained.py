"""What a run has learned: its network and its labels, and what they say of new images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from selfsup.config import Config
from selfsup.data import ImageSet
from selfsup.label_report import blocks
from selfsup.models import Network, build_network
from selfsup.runs import load_checkpoint, load_config
from selfsup.sela import Labels, extract_features


@dataclass(frozen=True)
class Trained:
    """The newest checkpoint of a run."""

    config: Config
    network: Network
    labels: Labels

    @classmethod
    def load(cls, run: Path, data: str | None = None, device: str = "cpu") -> Trained:
        """Load it, with other settings of where the images are and where to compute."""
        config = load_config(run, data)
        state = load_checkpoint(run, device)
        weights = state["network"]
        network = build_network(config, weights["mean"].flatten(), weights["std"].flatten())
        network.load_state_dict(weights)
        network.to(device).eval()
        config = replace(config, device=device)
        parts = (state["labels"].cpu(), tuple(state["potentials"]), tuple(state["centroids"]))
        return cls(config, network, Labels(*parts))

    @torch.no_grad()
    def predict(self, images: ImageSet) -> Tensor:
        """Return (heads, n) labels of any images.

        That is the label of SeLa's plan, ``argmax_k logits_k + g_k``, with the last update's
        potential g. Heads without one (trained on fixed labels, or whose turn never came) answer
        as classifiers do; those of k-means take the nearest centroid.
        """
        config = self.config
        features = extract_features(self.network, images, config, views=config.label_views)
        heads = []
        for head in range(len(config.clusters)):
            g, centroids = self.labels.potentials[head], self.labels.centroids[head]
            if centroids is not None:
                found = torch.cdist(features, centroids).argmin(1)
            else:
                logits = self.network.heads.head(head, features)
                shift = 0.0 if g is None else g
                found = torch.cat([(block.double() + shift).argmax(1) for block in blocks(logits)])
            heads.append(found.cpu())
        return torch.stack(heads) if heads else torch.empty((0, len(images)), dtype=torch.int64)
