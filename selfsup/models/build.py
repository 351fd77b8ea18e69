"""Networks from settings."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from selfsup.config import ModelConfig
from selfsup.errors import ConfigError
from selfsup.models.alexnet import AlexNet, initialise
from selfsup.models.network import Network
from selfsup.models.resnet import Depth, PreActResNet, ResNet, SmallResNet

#: With up to four channels, oneDNN's 1 x 1 convolutions of stride 2 write past their memory where
#: they are channels_last and the processor has AVX2 but not AVX-512 (PyTorch 2.14.1).
LEAST_CHANNELS_LAST = 8


def build_trunk(config: ModelConfig, channels: int) -> nn.Module:
    """Return a new trunk for images of so many channels; weights come from the global generator."""
    match config.arch:
        case "small-resnet":
            return SmallResNet(channels, config.width, config.blocks, config.stem_stride)
        case "alexnet" | "alexnet-small":
            return AlexNet("small" if config.arch == "alexnet-small" else "big", channels)
        case "resnet18" | "resnet50":
            return ResNet(50 if config.arch == "resnet50" else 18, channels)
        case "preact-resnet18" | "preact-resnet50":
            depth: Depth = 50 if config.arch == "preact-resnet50" else 18
            return PreActResNet(depth, channels, config.final_norm)
        case "own":
            raise ConfigError("this network was passed from Python: pass it again, as trunk=")
    return _own_trunk(config.arch)


def _own_trunk(name: str) -> nn.Module:
    """Call module:function."""
    module, _, function = name.partition(":")
    try:
        trunk = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"arch {name}: {error}; it is looked for in PYTHONPATH") from error
    if not isinstance(trunk, nn.Module):
        raise ConfigError(f"arch {name} returned a {type(trunk).__name__}, not a torch.nn.Module")
    return trunk


@torch.no_grad()
def feature_dim(trunk: nn.Module, channels: int, side: int) -> int:
    """Return D of a trunk that makes (B, D) features; measured, unless it tells in `dim`."""
    if isinstance(dim := getattr(trunk, "dim", None), int):
        return dim
    training = trunk.training
    features = trunk.eval()(torch.zeros(2, channels, side, side))
    trunk.train(training)
    if not isinstance(features, Tensor) or features.ndim != 2:
        shape = tuple(getattr(features, "shape", ())) or type(features).__name__
        raise ConfigError(
            f"{type(trunk).__name__} makes {shape} of 2 images of {side} x {side}; a trunk makes "
            "(2, D) features: take its classifier away, pool its map"
        )
    return features.shape[1]


def build_network(
    config: ModelConfig,
    clusters: Sequence[int],
    mean: Tensor,
    std: Tensor,
    image_size: int,
    trunk: nn.Module | None = None,
) -> Network:
    """Return a new network, whose weights come from torch's global generator.

    It has a head for each K of `clusters`, and a `trunk` of one's own instead of ``config.arch`` if
    there is one. `mean` and `std` are the (C,) statistics of the training images in [0, 1].
    """
    trunk = build_trunk(config, len(mean)) if trunk is None else trunk
    narrow = config.arch == "small-resnet" and config.width < LEAST_CHANNELS_LAST
    channels_last = config.channels_last and not narrow
    dim = feature_dim(trunk, len(mean), image_size)
    network = Network(trunk, dim, clusters, mean, std, config.rotation, channels_last)
    if isinstance(trunk, AlexNet):
        network.heads.apply(initialise)
        if network.rotation_head is not None:
            initialise(network.rotation_head)
    return network
