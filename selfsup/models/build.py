"""Networks from settings."""

from __future__ import annotations

from typing import assert_never

from torch import Tensor

from selfsup.config import Config
from selfsup.models.alexnet import AlexNet, initialise
from selfsup.models.network import Network, Trunk
from selfsup.models.resnet import PreActResNet, ResNet, SmallResNet

#: With up to four channels, oneDNN's 1 x 1 convolutions of stride 2 write past their memory where
#: they are channels_last and the processor has AVX2 but not AVX-512 (PyTorch 2.14.1).
LEAST_CHANNELS_LAST = 8


def build_trunk(config: Config, channels: int) -> Trunk:
    """Return a new trunk, whose weights come from torch's global generator.

    Parameters
    ----------
    config : Config
        `arch` and, for the networks that have them, `width`, `blocks`, `stem_stride` and
        `final_norm`.
    channels : int
        Channels of the images.
    """
    match config.arch:
        case "small-resnet":
            return SmallResNet(channels, config.width, config.blocks, config.stem_stride)
        case "alexnet":
            return AlexNet("big", channels)
        case "alexnet-small":
            return AlexNet("small", channels)
        case "resnet18":
            return ResNet(18, channels)
        case "resnet50":
            return ResNet(50, channels)
        case "preact-resnet18":
            return PreActResNet(18, channels, config.final_norm)
        case "preact-resnet50":
            return PreActResNet(50, channels, config.final_norm)
    assert_never(config.arch)


def build_network(config: Config, mean: Tensor, std: Tensor) -> Network:
    """Return a new network, whose weights come from torch's global generator.

    Parameters
    ----------
    config : Config
        The settings of :func:`build_trunk`, `clusters`, `rotation` and `channels_last`.
    mean, std : Tensor
        (C,) statistics of the training images in [0, 1].
    """
    trunk = build_trunk(config, len(mean))
    narrow = config.arch == "small-resnet" and config.width < LEAST_CHANNELS_LAST
    channels_last = config.channels_last and not narrow
    network = Network(trunk, config.clusters, mean, std, config.rotation, channels_last)
    if isinstance(trunk, AlexNet):
        network.heads.apply(initialise)
        if network.rotation_head is not None:
            initialise(network.rotation_head)
    return network
