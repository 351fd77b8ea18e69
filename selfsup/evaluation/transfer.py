"""Labels of one network taught to another: the settings of a fresh network's training."""

from __future__ import annotations

from pathlib import Path

from selfsup.config import Config
from selfsup.evaluation.training import drops
from selfsup.presets import PRESETS
from selfsup.training.checkpoints import load_config, read_labels

#: The authors' retraining on ImageNet: 90 epochs of batches of 64, with their augmentation.
RETRAINING = PRESETS["imagenet-alexnet-retrain"].optimiser
#: Side of AlexNet's images.
ALEXNET_SIZE = 224


def transfer_config(
    run: Path,
    arch: str,
    *,
    rotation: bool = False,
    image_size: int | None = None,
    epochs: int | None = None,
    data: str | None = None,
    device: str = "auto",
) -> Config:
    """Return the settings with which a fresh network learns a run's labels.

    On ImageNet they are the authors'; on other images those of the run, with the labels fixed.

    Parameters
    ----------
    run : Path
        Whose labels are taught, all heads together.
    arch : str
        The fresh network.
    rotation : bool
        Whether it predicts quarter turns as well.
    image_size : int, optional
        Side of its input; the run's without, and 224 for AlexNet.
    epochs : int, optional
        Instead of those that are usual; the drops of the rate move in proportion.
    data : str, optional
        Folder of the images, when it has moved.
    device : str
        Where to compute.

    Raises
    ------
    SelfsupError
        There is no run, or no such network.
    """
    config = load_config(run, data)
    _, clusters, _ = read_labels(run.resolve())
    optimiser = RETRAINING if config.data.dataset == "imagenet" else config.optimiser
    usual = ALEXNET_SIZE if arch.startswith("alexnet") else config.data.image_size
    epochs = epochs or optimiser.epochs
    return config.but(
        **{name: getattr(optimiser, name) for name in vars(optimiser)}
        | {"epochs": epochs}
        | {"lr_drops": drops(epochs, *(x / optimiser.epochs for x in optimiser.lr_drops))},
        preset=f"{config.run.preset}-transfer",
        arch=arch,
        init=None,
        rotation=rotation,
        image_size=image_size or usual,
        labelling="fixed",
        labels_file=str(run.resolve()),
        clusters=clusters,
        head_groups=1,
        heads_per_update="all",
        device=device,
    )
