"""A trunk with several linear heads, and how it is built from settings."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from selfsup.config import ModelConfig
from selfsup.errors import ConfigError
from selfsup.models.alexnet import AlexNet, initialise
from selfsup.models.resnet import PreActResNet, ResNet, SmallResNet
from selfsup.seeds import seeded

#: With up to four channels, oneDNN's 1 x 1 convolutions of stride 2 write past their memory where
#: they are channels_last and the processor has AVX2 but not AVX-512 (PyTorch 2.14.1).
LEAST_CHANNELS_LAST = 8


class MultiHead(nn.Module):
    """Linear classifiers of `clusters` outputs each on `dim` features, one matrix for speed."""

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

    The trunk sees images with mean 0 and deviation 1. The (C,) `mean` and `std` of the training
    images in [0, 1] are kept with the weights, so that a checkpoint needs nothing else to be used.
    """

    mean: Tensor
    std: Tensor

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
        self.heads = MultiHead(dim, clusters)
        self.rotation_head = nn.Linear(dim, 4) if rotation else None
        widths = [conv.out_channels for conv in trunk.modules() if isinstance(conv, nn.Conv2d)]
        last = channels_last and min(widths, default=0) >= LEAST_CHANNELS_LAST
        self.memory_format = torch.channels_last if last else torch.contiguous_format
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

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Measure the statistics of batch normalisation as plain means over batches of images.

        A new network lacks them, and makes the first labels in evaluation mode. A batch of a single
        image has no variance and is left out.
        """
        with seeded(0):  # dropout draws from the global generator, and no statistics depend on it
            update_bn((x for x in batches if len(x) > 1), self, self.mean.device)


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
    dim = feature_dim(trunk, len(mean), image_size)
    network = Network(trunk, dim, clusters, mean, std, config.rotation, config.channels_last)
    if isinstance(trunk, AlexNet):
        network.heads.apply(initialise)
        if network.rotation_head is not None:
            initialise(network.rotation_head)
    return network


def build_trunk(config: ModelConfig, channels: int) -> nn.Module:
    """Return a new trunk for images of so many channels; weights come from the global generator."""
    match config.arch:
        case "small-resnet":
            return SmallResNet(channels, config.width, config.blocks, config.stem_stride)
        case "alexnet":
            return AlexNet("big", channels)
        case "alexnet-small":
            return AlexNet("small", channels)
        case "resnet18" | "resnet50":
            return ResNet(int(config.arch[-2:]), channels)
        case "preact-resnet18" | "preact-resnet50":
            return PreActResNet(int(config.arch[-2:]), channels, config.final_norm)
        case "own":
            raise ConfigError("this network was passed from Python: pass it again, as trunk=")
    try:
        trunk = pkgutil.resolve_name(config.arch)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"arch {config.arch}: {error}; it is looked for in PYTHONPATH") from error
    if not isinstance(trunk, nn.Module):
        kind = type(trunk).__name__
        raise ConfigError(f"arch {config.arch} returned a {kind}, not a torch.nn.Module")
    return trunk


@torch.no_grad()
def feature_dim(trunk: nn.Module, channels: int, side: int) -> int:
    """Return D of a trunk that makes (B, D) features of (B, channels, side, side) images."""
    training = trunk.training
    device = next((x.device for x in trunk.parameters()), None)
    features = trunk.eval()(torch.zeros(2, channels, side, side, device=device))
    trunk.train(training)
    if not isinstance(features, Tensor) or features.ndim != 2:
        shape = tuple(getattr(features, "shape", ())) or type(features).__name__
        raise ConfigError(
            f"{type(trunk).__name__} makes {shape} of 2 images of {side} x {side}; a trunk makes "
            "(2, D) features: take its classifier away, pool its map"
        )
    return features.shape[1]
