"""A method and images to evaluate, without a run that was trained."""

from __future__ import annotations

import torch
from PIL import Image

from selfsup.config import Config, DataConfig, ModelConfig
from selfsup.data import TensorImages
from selfsup.evaluation.features import View
from selfsup.evaluation.frame import Evaluation
from selfsup.models import SmallResNet, build_network


def coloured(n, side, classes=3, seed=0):
    """Return images whose class is the colour, red, green or blue, of a noisy ground."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(n) % classes
    pixels = torch.randint(60, 120, (n, 3, side, side), generator=generator)
    pixels[torch.arange(n), targets] += 100
    names = tuple(f"{seed}/{i:04d}" for i in range(n))
    return TensorImages(pixels.to(torch.uint8), targets, tuple("rgb")[:classes], names)


def write_folders(root, images):
    """Write the images as files in a folder for each class; return what `train folder` needs."""
    for name in images.classes:
        (root / name).mkdir(parents=True)
    for pixels, label, path in zip(images.images, images.targets, images.paths, strict=True):
        file = root / images.classes[label] / f"{path.replace('/', '-')}.png"
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file)
    side = str(images.images.shape[-1])
    return ["--data", str(root), "--classes", "folders", "--image-size", side]


def narrow():
    """Return a trunk of one's own, for --arch subjects:narrow."""
    return SmallResNet(3, 4, 1, 2)


def evaluation(folder, images=None, test=None, *, side=16, size=None, seed=0, **model):
    """Return a network with random weights and statistics of `images`, ready to be evaluated."""
    images = coloured(60, side) if images is None else images
    model = {"width": 8, "stem_stride": 2, **model}
    config = Config(DataConfig("own", size or side), ModelConfig(**model))
    torch.manual_seed(seed)
    network = build_network(
        config.model, (10,), torch.full((3,), 0.5), torch.full((3,), 0.2), size or side
    )
    network.calibrate([images.images.float() / 255])
    return Evaluation(
        "SeLa", folder, config, network.eval(), images, test, "here", View(size or side)
    )
