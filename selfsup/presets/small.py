"""Small settings, for two cores.

Labels are renewed every few steps: with longer phases the network memorises its first, poor labels,
and they stop changing. Strong transformations work against the same. The settings of digits and
fashion-mnist were chosen by NMI with the true classes in short trials on seeds 0 and 1; training
itself never reads the classes.
"""

from __future__ import annotations

from dataclasses import replace

from selfsup.config import AugmentConfig, Config, DataConfig
from selfsup.presets.paper import SMALL_IMAGES

_DIGITS = Config(DataConfig("digits", 16)).but(
    preset="digits", clusters=(10,) * 5, epsilon=0.1, updates=320, schedule_power=1.0, epochs=80,
    lr=0.05, nesterov=True, device="cpu", supervised_epochs=40,
    augment=AugmentConfig(rotate=20.0, scale=(0.8, 1.25), stretch=0.3, shift=0.12),
)  # fmt: skip
_FASHION = Config(DataConfig("fashion-mnist", 28)).but(
    preset="fashion-mnist", stem_stride=2, clusters=(10,) * 6, epsilon=0.1, max_iter=100,
    updates=50, schedule_power=1.0, epochs=5, batch_size=256, lr=0.1, nesterov=True,
    weight_decay=1e-4, device="cpu", supervised_epochs=5,
    augment=AugmentConfig(
        rotate=15.0, scale=(0.6, 1.2), stretch=0.3, shift=0.12, flip=True, brightness=0.3,
        contrast=0.3, erase=0.3,
    ),
)  # fmt: skip
_CIFAR = Config(DataConfig("cifar10", 32)).but(
    preset="cifar10-small", width=64, stem_stride=2, clusters=(128,) * 10, epsilon=0.1, updates=48,
    schedule_power=1.0, label_sees="augment", epochs=48, precision="auto", lr=0.06, lr_heads=0.6,
    nesterov=True, augment=replace(SMALL_IMAGES, hue=0.1),
)  # fmt: skip
_FOLDER = Config(DataConfig("folder", 32)).but(
    preset="folder", width=32, stem_stride=2, clusters=(0,) * 10, epsilon=0.1, updates=60,
    schedule_power=1.0, epochs=60, lr=0.03, nesterov=True, augment=replace(SMALL_IMAGES, hue=0.0),
)  # fmt: skip

SMALL: dict[str, Config] = {c.run.preset: c for c in (_DIGITS, _FASHION, _CIFAR, _FOLDER)}
