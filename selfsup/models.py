"""A small residual network with several linear heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class MultiHead(nn.Module):
    """Several linear classifiers that share their input, kept as one matrix for speed."""

    def __init__(self, dim: int, clusters: Sequence[int]) -> None:
        super().__init__()
        self.clusters = tuple(clusters)
        self.linear = nn.Linear(dim, sum(clusters))

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return one (B, K) matrix of logits per head."""
        return torch.split(self.linear(features), list(self.clusters), dim=1)

    def head(self, index: int, features: Tensor) -> Tensor:
        """Return the logits of one head only."""
        start = sum(self.clusters[:index])
        rows = slice(start, start + self.clusters[index])
        return F.linear(features, self.linear.weight[rows], self.linear.bias[rows])


class Network(nn.Module):
    """Trunk and heads.

    Parameters
    ----------
    mean, std : Tensor
        (C,) statistics of the training images in [0, 1]; kept with the weights, so that a
        checkpoint needs nothing else to be used.
    clusters : sequence of int
        Number of outputs of every head.
    width, blocks, stem_stride : int
        Channels after the stem, residual blocks per stage, stride of the first convolution.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        clusters: Sequence[int],
        width: int = 16,
        blocks: int = 1,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1).clone())
        self.register_buffer("std", std.view(1, -1, 1, 1).clone())
        layers: list[nn.Module] = [
            nn.Conv2d(len(mean), width, 3, stem_stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
        for stage in range(3):
            for block in range(blocks):
                outputs = width * 2**stage
                layers.append(Block(channels, outputs, 2 if stage and not block else 1))
                channels = outputs
        self.trunk = nn.Sequential(*layers)
        # Standardised features: the logits of a random network then differ between images.
        self.norm = nn.BatchNorm1d(channels, affine=False)
        self.dim = channels
        self.heads = MultiHead(channels, clusters)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Tensor:
        """Return the (B, D) output of the trunk for images in [0, 1]."""
        x = (images - self.mean) / self.std
        x = self.trunk(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))
        features: Tensor = self.norm(x)
        return features

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of every head."""
        outputs: tuple[Tensor, ...] = self.heads(self.features(images))
        return outputs

    @torch.no_grad()
    def calibrate(self, images: Tensor, batch: int = 500) -> None:
        """Measure the statistics of batch normalisation, which a new network lacks.

        The first labels come from the untrained network in evaluation mode.
        """
        norms = [m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        momenta = [m.momentum for m in norms]
        for m in norms:
            m.momentum = None  # a plain mean over the batches
        self.train()
        for part in torch.split(images, batch):
            if len(part) > 1:
                self.features(part.to(self.mean.device).float() / 255)
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
