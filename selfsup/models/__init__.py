"""Networks: a trunk, linear heads on its features, and their weights."""

from __future__ import annotations

from selfsup.models.alexnet import AlexNet
from selfsup.models.network import MultiHead, Network, build_network, build_trunk
from selfsup.models.resnet import PreActResNet, ResNet, SmallResNet
from selfsup.models.weights import load_weights

__all__ = [
    "AlexNet", "MultiHead", "Network", "PreActResNet", "ResNet", "SmallResNet", "build_network",
    "build_trunk", "load_weights",
]  # fmt: skip
