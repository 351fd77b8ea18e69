"""A trunk with several linear heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class Trunk(nn.Module):
    """Makes (B, dim) features of (B, C, H, W) images with mean 0 and deviation 1."""

    dim: int


class MultiHead(nn.Module):
    """Linear classifiers of `clusters` outputs each on `dim` features, one matrix for speed."""

    linear: nn.Linear | None

    def __init__(self, dim: int, clusters: Sequence[int]) -> None:
        super().__init__()
        self.clusters = tuple(clusters)
        self.linear = nn.Linear(dim, sum(clusters)) if clusters else None

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return one (B, K) matrix of logits per head."""
        if self.linear is None:
            return ()
        return torch.split(self.linear(features), list(self.clusters), dim=1)

    def __getitem__(self, index: int) -> Callable[[Tensor], Tensor]:
        """Return one head: it makes (B, K) logits of (B, D) features."""
        weight, bias = self.parameters_of(index)
        return partial(F.linear, weight=weight, bias=bias)

    def parameters_of(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the (K, D) weights and the (K,) biases of one head, as views."""
        if self.linear is None or not 0 <= index < len(self.clusters):
            raise IndexError(f"no head {index}: there are {len(self.clusters)}")
        start = sum(self.clusters[:index])
        rows = slice(start, start + self.clusters[index])
        return self.linear.weight[rows], self.linear.bias[rows]


class Network(nn.Module):
    """A trunk that makes (B, dim) features, a head for each of `clusters`, and one of rotations.

    The (C,) `mean` and `std` of the training images in [0, 1] are kept with the weights, so that a
    checkpoint needs nothing else to be used.
    """

    mean: Tensor
    std: Tensor
    rotation_head: nn.Linear | None

    def __init__(
        self,
        trunk: nn.Module,
        dim: int,
        clusters: Sequence[int],
        mean: Tensor,
        std: Tensor,
        rotation: bool = False,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1).clone())
        self.register_buffer("std", std.view(1, -1, 1, 1).clone())
        self.dim = dim
        self.trunk = trunk
        self.heads = MultiHead(self.dim, clusters)
        self.rotation_head = nn.Linear(self.dim, 4) if rotation else None
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.trunk.to(memory_format=self.memory_format)

    def features(self, images: Tensor) -> Tensor:
        """Return the (B, D) output of the trunk for (B, C, H, W) images in [0, 1]."""
        x = (images - self.mean) / self.std
        features: Tensor = self.trunk(x.contiguous(memory_format=self.memory_format))
        return features

    def forward(self, images: Tensor, rotated: bool = False) -> tuple[Tensor, ...]:
        """Return (B, K) logits of every head for (B, C, H, W) images in [0, 1].

        With `rotated` the images are (4B, C, H, W): B of them, then the same ones turned by 90, 180
        and 270 degrees. Heads see the upright ones alone, as in the authors' code, and the (4B, 4)
        logits of the turns come last.
        """
        if not rotated:
            return tuple(self.heads(self.features(images)))
        if self.rotation_head is None:
            raise ValueError("this network has no rotation head: build it with rotation=True")
        if len(images) % 4:
            raise ValueError(f"{len(images)} images are not four turns of the same ones")
        features = self.features(images)
        return *self.heads(features[: len(features) // 4]), self.rotation_head(features)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Measure the statistics of batch normalisation as plain means over batches of images.

        A new network lacks them, and makes the first labels in evaluation mode. A batch of a single
        image has no variance and is left out.
        """
        norms = [m for m in self.modules() if isinstance(m, _BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        modes = [(module, module.training) for module in self.modules()]
        self.eval()  # no dropout, hence no random numbers
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None
        try:
            for images in batches:
                if len(images) > 1:
                    self.features(images.to(self.mean.device))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            for module, training in modes:
                module.training = training


def parameter_count(module: nn.Module) -> int:
    """Return how many numbers a module learns."""
    return sum(parameter.numel() for parameter in module.parameters())
