"""What a run has learned: its network and its labels, and what they say of new images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from selfsup.config import Config
from selfsup.data import ImageSet
from selfsup.labellers import nearest
from selfsup.models import Network, build_network
from selfsup.sela import SelfLabels
from selfsup.training.checkpoints import load_checkpoint, load_config
from selfsup.training.label_pass import feature_pass
from selfsup.training.processes import check_device

#: Rows that are labelled at once: their logits in float64 are to fit.
BLOCK = 1 << 14


@dataclass(frozen=True)
class Trained:
    """The newest checkpoint of a run: what :func:`selfsup.train` returns."""

    config: Config
    """The settings of the run."""
    network: Network
    """In evaluation mode, with its heads."""
    labels: SelfLabels
    """Its `labels` are those of the images that were trained on, (heads, N) int64 on the CPU."""
    images: str
    """The fingerprint of the images that were trained on."""

    @classmethod
    def load(
        cls, run: Path, data: str | None = None, device: str = "cpu", trunk: nn.Module | None = None
    ) -> Trained:
        """Load it, with other settings of where the images are and where to compute.

        Parameters
        ----------
        run : Path
            The run's directory.
        data : str, optional
            The folder of the images, where it has moved.
        device : str
            Such as "cpu" or "cuda"; "auto" takes the first GPU if there is one.
        trunk : torch.nn.Module, optional
            The network's part before the heads, where it was passed from Python.

        Returns
        -------
        Trained
            Network and labels of the newest checkpoint.

        Raises
        ------
        SelfsupError
            The directory holds no run, or weights that do not fit the network.
        """
        config, device = load_config(run, data), check_device(device)
        state = load_checkpoint(run, device)
        weights, clusters = state["network"], config.labels.clusters
        network = build_network(
            config.model, clusters, weights["mean"].flatten().cpu(), weights["std"].flatten().cpu(),
            config.data.image_size, trunk,
        )  # fmt: skip
        network.load_state_dict(weights)
        network.to(device).eval()
        labels = SelfLabels(state["labels"]["labels"].shape[1], clusters)
        labels.load_state_dict(state["labels"])
        return cls(config.but(device=device), network, labels, state["images"])

    def features(self, images: ImageSet) -> Tensor:
        """Return the features of images as they are, without random changes.

        Parameters
        ----------
        images : selfsup.data.ImageSet
            Any images: `selfsup.data.new_images` reads a folder.

        Returns
        -------
        (n, D) float32 torch.Tensor
            Where `features_in` of the settings has them: on the device, in memory or on disk.
        """
        return feature_pass(self.config.clean(), self.network, images)

    def predict(self, images: ImageSet) -> Tensor:
        """Return labels of any images.

        That is the label of SeLa's plan, ``argmax_k logits_k + g_k``, with the last update's
        potential g. Heads without one (trained on fixed labels, or whose turn never came) answer
        as classifiers do; those of k-means, balanced or not, take the nearest centroid, which
        does not make clusters of equal size.

        Parameters
        ----------
        images : selfsup.data.ImageSet
            Any images.

        Returns
        -------
        (heads, n) int64 torch.Tensor
            On the CPU.
        """
        return self.label(self.features(images))

    @torch.no_grad()
    def label(self, features: Tensor) -> Tensor:
        """Return labels from features, as :meth:`predict` does from images.

        Parameters
        ----------
        features : (n, D) torch.Tensor
            What :meth:`features` returns, on any device.

        Returns
        -------
        (heads, n) int64 torch.Tensor
            On the CPU.
        """
        found = torch.empty((len(self.labels.states), len(features)), dtype=torch.int64)
        for rows in torch.split(torch.arange(len(features)), BLOCK):
            block = features[rows].to(self.network.mean.device)
            for head, state in enumerate(self.labels.states):
                if state is not None and state.ndim == 2:
                    found[head, rows] = nearest(block, state.to(block.device)).cpu()
                    continue
                g = 0.0 if state is None else state.to(block.device)
                logits = self.network.heads[head](block).double()
                found[head, rows] = (logits + g).argmax(1).cpu()
        return found
