"""Residual networks: torchvision's, pre-activation ones, and a small one for small images."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck


class ResNet(torchvision.models.ResNet):  # type: ignore[misc]
    """torchvision's ResNet of `depth` layers up to the pooled features."""

    def __init__(self, depth: int, channels: int = 3) -> None:
        if depth == 18:
            super().__init__(BasicBlock, [2, 2, 2, 2])
        else:
            super().__init__(Bottleneck, [3, 4, 6, 3])
        self.fc = nn.Identity()
        if channels != 3:
            self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
            _initialise(self.conv1)


class PreActBlock(nn.Module):
    """Convolutions, each after normalisation and ReLU, and a shortcut: 3x3 twice, or 1x1, 3x3, 1x1.

    A `bottleneck` has three, with four times as many channels at the end as the `planes` inside.
    """

    def __init__(self, inputs: int, planes: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = 4 * planes if bottleneck else planes
        shapes = [(inputs, planes, 3, stride), (planes, planes, 3, 1)]
        if bottleneck:
            shapes = [(inputs, planes, 1, 1), (planes, planes, 3, stride), (planes, outputs, 1, 1)]
        self.depth, self.outputs = len(shapes), outputs
        for i, (incoming, outgoing, kernel, step) in enumerate(shapes, start=1):
            conv = nn.Conv2d(incoming, outgoing, kernel, step, kernel // 2, bias=False)
            self.add_module(f"bn{i}", nn.BatchNorm2d(incoming))
            self.add_module(f"conv{i}", conv)
        self.shortcut = _projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y, shortcut = x, x
        for i in range(1, self.depth + 1):
            y = F.relu(self.get_submodule(f"bn{i}")(y), inplace=True)
            if i == 1 and len(self.shortcut):
                shortcut = self.shortcut(y)
            y = self.get_submodule(f"conv{i}")(y)
        return torch.add(y, shortcut)


class PreActResNet(nn.Module):
    """Pre-activation ResNet (He et al. 2016) of 18 or 50 layers, up to the pooled features.

    Module names and initial weights (PyTorch's) are those of the authors' code, so that its weights
    load without `final_norm`, which normalises before the pooling.
    """

    def __init__(self, depth: int, channels: int = 3, final_norm: bool = True) -> None:
        super().__init__()
        counts = (2, 2, 2, 2) if depth == 18 else (3, 4, 6, 3)
        width = 64
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 7, 2, 3, bias=False),
            nn.MaxPool2d(3, 2, 1),
        ]
        for stage, count in enumerate(counts):
            blocks = []
            for i in range(count):
                stride = 2 if stage and not i else 1
                blocks.append(PreActBlock(width, 64 * 2**stage, stride, depth == 50))
                width = blocks[-1].outputs
            layers.append(nn.Sequential(*blocks))
        if final_norm:
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        """Return the (B, dim) features."""
        features: Tensor = self.features(images)
        return features


class SmallResNet(nn.Module):
    """Three stages of `blocks` residual blocks; `width` channels after the stem; standardised."""

    def __init__(self, channels: int, width: int = 16, blocks: int = 1, stem_stride: int = 1):
        super().__init__()
        stem = nn.Conv2d(channels, width, 3, stem_stride, 1, bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
        for stage in range(3):
            for block in range(blocks):
                outputs = width * 2**stage
                stride = 2 if stage and not block else 1
                shortcut = _projection(inputs, outputs, stride)
                if len(shortcut):
                    shortcut.append(nn.BatchNorm2d(outputs))
                layers.append(BasicBlock(inputs, outputs, stride, shortcut))
                inputs = outputs
        self.layers = nn.Sequential(*layers)
        # Standardised features: the logits of a random network then differ between images.
        self.norm = nn.BatchNorm1d(inputs, affine=False)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Return the (B, dim) features."""
        features: Tensor = self.norm(self.layers(images).mean((2, 3)))
        return features


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return the convolution of a shortcut whose ends differ in shape, else nothing."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
