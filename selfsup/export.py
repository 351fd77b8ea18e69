"""A run for other programs: weights, embeddings, folders of clusters."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch

from selfsup.data import ImageSet
from selfsup.errors import RunError
from selfsup.training.trained import Trained


def export_run(trained: Trained, images: ImageSet, out: Path) -> None:
    """Write weights.pt, preprocessing.json, embeddings.npy and paths.txt.

    The weights are the state dict of the trunk alone: for resnet18 and resnet50 in the names of
    torchvision's and timm's models, without ``fc``; for others in the trunk's own. Images in [0, 1]
    are to be standardised as preprocessing.json tells (it is not folded into the weights: at
    borders, where the first convolution sees zeros, that would not be the same).
    """
    out.mkdir(parents=True, exist_ok=True)
    weights, content = trained.network.trunk.state_dict(), io.BytesIO()
    torch.save({name: value.cpu().contiguous() for name, value in weights.items()}, content)
    (out / "weights.pt").write_bytes(content.getbuffer())
    preprocessing = {
        "arch": trained.config.model.arch,
        "mean": trained.network.mean.flatten().tolist(),
        "std": trained.network.std.flatten().tolist(),
        "image_size": trained.config.data.image_size,
        "features": trained.network.dim,
    }
    (out / "preprocessing.json").write_text(json.dumps(preprocessing, indent=2) + "\n")
    np.save(out / "embeddings.npy", trained.features(images).cpu().numpy())
    paths = "".join(f"{path}\n" for path in images.paths)
    (out / "paths.txt").write_bytes(os.fsencode(paths))


def export_clusters(trained: Trained, images: ImageSet, out: Path, head: int, copy: bool) -> int:
    """Make a folder for each cluster of a head, with links to its images; return how many.

    `images` are those that the run was trained on; they stay where they are. Names are numbered, as
    folders may hold equal ones.
    """
    labels = trained.labels.labels
    if not 0 <= head < len(labels):
        raise RunError(f"no head {head}: there are {len(labels)}, from 0 on")
    files = [file for i in range(len(images)) if (file := images.locate(i)) is not None]
    if len(files) < len(images):
        raise RunError(
            f"{len(images) - len(files)} images are no files of their own, as in a zip file: "
            "nothing to link to"
        )
    if out.exists() and any(out.iterdir()):
        raise RunError(f"{out} is not empty; choose another folder")
    place = shutil.copy2 if copy else os.symlink
    for i, (file, label) in enumerate(zip(files, labels[head].tolist(), strict=True)):
        folder = out / f"cluster-{label:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        place(file, folder / f"{i:06d}-{file.name}")
    return len(set(labels[head].tolist()))
