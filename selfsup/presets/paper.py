"""The paper's experiments; docs/differences.md lists what the authors' code does otherwise."""

from __future__ import annotations

from dataclasses import replace

from selfsup.config import LEVELS, AugmentConfig, Config, DataConfig

#: CIFAR and SVHN in the authors' code: 32 x 32 images shown to AlexNet at 224 x 224.
SMALL_IMAGES = AugmentConfig(
    crop=(0.2, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4, grey=0.2, flip=True
)
_CIFAR = Config(DataConfig("cifar10", 224)).but(
    preset="cifar10-alexnet", arch="alexnet", clusters=(128,) * 10, epsilon=1 / 10, tol=1e-4,
    updates=400, schedule_power=1.0, heads_per_update="one", label_sees="augment", epochs=400,
    batch_size=128, precision="auto", lr=0.03, lr_schedule="step", lr_drops=(240, 320),
    augment=SMALL_IMAGES,
)  # fmt: skip
_IMAGENET = Config(DataConfig("imagenet", 224, in_memory=False, workers=8)).but(
    preset="imagenet-alexnet", arch="alexnet", clusters=(3000,) * 10, epsilon=1 / 25, tol=1e-4,
    updates=100, label_augment=LEVELS["0"], label_sees="augment", epochs=400, batch_size=256,
    precision="auto", lr=0.08, lr_schedule="step", lr_drops=(150, 300, 350), weight_decay=1e-5,
    augment=LEVELS["3"],
)  # fmt: skip
_RESNET = _IMAGENET.but(preset="imagenet-resnet50", arch="resnet50")

PAPER: dict[str, Config] = {
    config.run.preset: config
    for config in (
        _CIFAR,
        _CIFAR.but(preset="cifar100-alexnet", dataset="cifar100"),
        _CIFAR.but(preset="svhn-alexnet", dataset="svhn"),
        _IMAGENET,
        _RESNET,
        # the authors' later models, "Aug++": epochs are theirs, of the three drops no more is known
        _RESNET.but(
            preset="imagenet-resnet50-moco", augment=LEVELS["moco-v2"], epochs=280,
            lr_drops=(160, 190, 220),
        ),
        # training anew on the labels of a run, with quarter turns: --labels-file RUN
        _IMAGENET.but(
            preset="imagenet-alexnet-retrain", labelling="fixed", labels_file="RUN", rotation=True,
            epochs=90, batch_size=64, lr=0.05, lr_drops=(30, 60, 80),
        ),
    )
}  # fmt: skip


def as_authors(config: Config) -> Config:
    """Return the settings with all that the authors' code does otherwise: docs/differences.md."""
    augment = config.optimiser.augment
    if config.data.dataset in ("cifar10", "cifar100", "svhn"):
        augment = replace(augment, crop_grid=256)
    arch = {"resnet50": "preact-resnet50"}.get(config.model.arch, config.model.arch)
    return config.but(
        arch=arch, final_norm=False, augment=augment, label_mode="train", tol=1e-6, max_iter=2000
    )  # fmt: skip
