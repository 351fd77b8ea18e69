"""The convolutional part of a trunk in pieces: what probes look at and detectors stand on."""

from __future__ import annotations

import copy
from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.fx.experimental import optimization
from torch.nn.modules.batchnorm import _BatchNorm

from selfsup.errors import ConfigError
from selfsup.models import AlexNet, PreActResNet, ResNet, SmallResNet


def stages(trunk: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutional part of a trunk, cut into modules that are applied in turn.

    Parameters
    ----------
    trunk : torch.nn.Module
        One of ours; the modules are its own, not copies.

    Returns
    -------
    dict of str to torch.nn.Module
        AlexNet: conv1 to conv5, each up to its ReLU. ResNets: stem, layer1 to layer4 (layer3 of a
        small one). All end in (B, C, H, W) maps, before any pooling that is global.

    Raises
    ------
    ConfigError
        The trunk is of a kind whose parts are not known.
    """
    match trunk:
        case AlexNet():
            layers, ends = list(trunk.features), [3, 7, 11, 14, 17]
        case ResNet():
            layers, ends = list(trunk.children())[:-2], [3, 5, 6, 7, 8]
        case PreActResNet():
            layers = list(trunk.features)[:-2]  # without pooling and flattening
            ends = [1, 3, 4, 5, len(layers)]
        case SmallResNet():
            layers = list(trunk.layers)
            blocks = (len(layers) - 3) // 3
            ends = [3 + i * blocks for i in range(4)]
        case _:
            raise ConfigError(
                f"the layers of a {type(trunk).__name__} are not known: only those of AlexNet and "
                "the ResNets of --arch are"
            )
    names = ["stem", "layer1", "layer2", "layer3", "layer4"]
    if isinstance(trunk, AlexNet):
        names = ["conv1", "conv2", "conv3", "conv4", "conv5"]
    cuts = pairwise([0, *ends])
    return {
        name: nn.Sequential(*layers[start:end])
        for name, (start, end) in zip(names, cuts, strict=False)
    }


class Fixed(nn.Sequential):
    """A module that stays in evaluation mode."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(OrderedDict(module=module.eval()))

    def train(self, mode: bool = True) -> Fixed:
        """Do nothing of the kind."""
        return super().train(False)


def fix_norms(module: nn.Module) -> None:
    """Make the batch normalisation in a module keep its running statistics from now on."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm) and not isinstance(parent, Fixed):
                setattr(parent, name, Fixed(child))


def absorbed(module: nn.Module) -> nn.Module:
    """Return a copy of a traceable module whose convolutions do their normalisations' work.

    The statistics become parts of the weights, as in the authors' evaluation. Normalisation that
    follows no convolution keeps its statistics.
    """
    fused: nn.Module = optimization.fuse(copy.deepcopy(module).eval())
    fix_norms(fused)
    return fused


@torch.no_grad()
def map_shapes(parts: dict[str, nn.Module], channels: int, side: int) -> dict[str, torch.Size]:
    """Return the (C, H, W) of what each of some stages makes of an image."""
    device = next(next(iter(parts.values())).parameters()).device
    x: Tensor = torch.zeros(1, channels, side, side, device=device)
    shapes = {}
    for name, part in parts.items():
        x = part(x)
        shapes[name] = x.shape[1:]
    return shapes
