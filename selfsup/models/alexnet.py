"""AlexNet with batch normalisation, as SeLa trains it: RGB input, no Sobel filter."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from selfsup.errors import ConfigError

WIDTHS = {"big": (96, 256, 384, 384, 256), "small": (64, 192, 384, 256, 256)}


class AlexNet(nn.Module):
    """AlexNet up to fc7; module names are those of the authors' code, so that its weights load."""

    def __init__(self, size: Literal["big", "small"] = "big", channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        kernels = [(11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)]
        for i, (outputs, (kernel, stride, padding)) in enumerate(
            zip(WIDTHS[size], kernels, strict=True), start=1
        ):
            layers += [
                nn.Conv2d(channels, outputs, kernel, stride, padding),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
            if i in (1, 2, 5):
                layers.append(nn.MaxPool2d(3, 2))
            channels = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(channels * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
        )
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Return the (B, 4096) output of fc7, after its ReLU."""
        height, width = images.shape[2:]
        if not (223 <= height <= 254 and 223 <= width <= 254):  # all that end in a map of 6 x 6
            raise ConfigError(f"AlexNet takes images of 224 x 224 pixels, not {height} x {width}")
        features: Tensor = self.classifier(self.features(images).flatten(1))
        return features


def initialise(module: nn.Module) -> None:
    """Draw the weights of a convolution or a linear layer as the authors do."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
