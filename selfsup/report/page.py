"""A run as one HTML page that needs no network: curves, every cluster of every head, a map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from selfsup.data import ImageSet
from selfsup.evaluation.features import state_digest
from selfsup.evaluation.run import Result, read_results
from selfsup.evaluation.scores import nmi
from selfsup.report.evaluation_part import evaluation_part
from selfsup.report.tiles import TILE, data_url, tiles_of
from selfsup.training.checkpoints import read_log, write_whole
from selfsup.training.label_pass import in_blocks
from selfsup.training.monitor import whole_seconds
from selfsup.training.trained import Trained

#: Images that the page holds, about, and on the map. Of more than `LOOKED_AT` images a sample is
#: looked at, so that a page of a million costs no label pass.
SHOWN, MAPPED, LOOKED_AT = 2500, 1500, 20_000
MOST_CLASSES = 30


def write_report(run: Path, trained: Trained, images: ImageSet, final: bool = True) -> Path:
    """Write RUN/report.html from the log, the labels and the checkpointed network.

    With `final`, small pictures are made of the files where there are any, and the map is t-SNE's;
    without, while a run trains, of what is in memory, and the map is of two principal components.
    """
    config, whole, total = trained.config, trained.labels.labels.numpy(), len(images)
    some = torch.from_numpy(_spread(total, LOOKED_AT))
    truth = images.targets.numpy() if images.labelled else None
    whole_images = images
    images, labels = images.select(some), whole[:, some.numpy()]
    features = trained.features(images)
    confidence = np.stack([
        _confidence(trained, h, features, torch.from_numpy(y)) for h, y in enumerate(labels)
    ])  # fmt: skip
    shown, mapped = _chosen(labels, confidence, trained.network.heads.clusters)
    log, updates = read_log(run, "epoch"), read_log(run, "update")
    data = {
        "images": _images(images, shown, labels, confidence),
        "columns": int(np.ceil(np.sqrt(len(shown)))),
        "tile": TILE,
        "map": _map(features[torch.from_numpy(mapped)].cpu().numpy(), final),
        "mapped": np.searchsorted(shown, mapped).tolist(),
        "heads": [
            _head(k, y, truth, len(images.classes)) | {"confidence": _means(k, part, c)}
            for k, y, part, c in zip(
                trained.network.heads.clusters, whole, labels, confidence, strict=True
            )
        ],
        "classes": list(images.classes),
        "curves": _curves(log, updates),
    }  # fmt: skip
    seconds = sum(whole_seconds(line["seconds"]) for line in log)
    page = jinja2.Environment(autoescape=True).from_string(
        files("selfsup.report").joinpath("page.html").read_text()
    )
    text = page.render(
        title=config.run.preset,
        facts=f"{total:,} images, {len(log)} of {config.optimiser.epochs} epochs in "
        f"{seconds / 60:.1f} minutes; {len(labels)} heads; epsilon {config.labels.epsilon:g}; "
        f"{len(updates)} label updates; seed {config.run.seed}",
        evaluation=evaluation_part(_results(run, trained), whole_images),
        shown=len(shown),
        total=total,
        sprite=data_url(tiles_of(images, shown, final), data["columns"]),
        data=json.dumps(data).replace("</", "<\\/"),
    )
    path = run / "report.html"
    write_whole(path, text.encode(errors="replace"))
    return path


def _results(run: Path, trained: Trained) -> list[Result]:
    """Return the results of what the run has learned now; none where they are in another form."""
    try:
        return read_results(run, state_digest(trained.network, trained.labels))
    except ValueError:
        return []


def _spread(n: int, most: int) -> NDArray[np.int64]:
    """Return at most so many of n positions, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def _confidence(
    trained: Trained, head: int, features: torch.Tensor, labels: torch.Tensor
) -> NDArray[np.float64]:
    """Return the probability that a head gives to the label of each image."""
    logits = in_blocks(trained.network, head, features)
    own = labels.to(logits.device)[:, None]
    return (logits.gather(1, own)[:, 0] - logits.logsumexp(1)).exp().double().cpu().numpy()


def _means(k: int, labels: NDArray[np.int64], confidence: NDArray[np.float64]) -> list[float]:
    sizes = np.bincount(labels, minlength=k)
    means: list[float] = (
        (np.bincount(labels, confidence, minlength=k) / np.maximum(sizes, 1)).round(3).tolist()
    )
    return means


def _chosen(
    labels: NDArray[np.int64], confidence: NDArray[np.float64], clusters: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the images that the page shows, and those of them on its map, sorted."""
    n = labels.shape[1]
    mapped = _spread(n, MAPPED)
    if n <= SHOWN:
        return np.arange(n), mapped
    share = max(2, (SHOWN - len(mapped)) // sum(clusters))
    chosen = [mapped]
    for y, c in zip(labels, confidence, strict=True):
        order = np.lexsort((-c, y))  # by cluster, the most confident first
        rank = np.arange(n) - np.searchsorted(y[order], y[order])
        chosen.append(order[rank < share])
    return np.unique(np.concatenate(chosen)), mapped


def _images(
    images: ImageSet,
    shown: NDArray[np.int64],
    labels: NDArray[np.int64],
    confidence: NDArray[np.float64],
) -> list[dict[str, Any]]:
    rows = []
    for i in shown.tolist():
        file = images.locate(i)
        rows.append({
            "name": images.paths[i],
            "link": file.as_uri() if file and file.is_file() else None,
            "labels": labels[:, i].tolist(),
            "confidence": [round(float(c), 3) for c in confidence[:, i]],
            "class": int(images.targets[i]),
        })  # fmt: skip
    return rows


def _head(
    k: int, labels: NDArray[np.int64], truth: NDArray[np.int64] | None, classes: int
) -> dict[str, Any]:
    """Return sizes and, where classes are known, what is in each cluster."""
    sizes = np.bincount(labels, minlength=k)
    head: dict[str, Any] = {"sizes": sizes.tolist()}
    if truth is not None:
        table = np.bincount(labels * classes + truth, minlength=k * classes).reshape(k, classes)
        head["purity"] = (table.max(1) / np.maximum(sizes, 1)).round(3).tolist()
        head["class"] = table.argmax(1).tolist()
        head["nmi"] = round(nmi(truth, labels), 3)
        head["table"] = table.tolist() if classes <= MOST_CLASSES else None
    return head


def _map(features: NDArray[np.float32], final: bool) -> list[list[float]]:
    """Return places in the unit square."""
    n, dim = features.shape
    if n < 5 or dim < 2:
        places = np.column_stack([np.arange(n), np.zeros(n)])
    elif final:
        places = TSNE(perplexity=min(30.0, (n - 1) / 3), random_state=0).fit_transform(features)
    else:
        places = PCA(2, random_state=0).fit_transform(features)
    low, high = places.min(0), places.max(0)
    shares: list[list[float]] = ((places - low) / np.maximum(high - low, 1e-9)).round(4).tolist()
    return shares


def _curves(log: list[dict[str, Any]], updates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return titles and points."""
    epochs, moments = [line["epoch"] for line in log], [line["epoch"] for line in updates]
    ln_k = f" (ln K = {log[0]['ln_k']:.2f})" if log else ""
    curves = {"Cross-entropy, mean over heads" + ln_k: (epochs, [line["loss"] for line in log])}
    if updates:
        changes = [100 * np.mean(line["changed"]) for line in updates]
        bits = [np.mean(line["bits"]) for line in updates]
        curves["Labels changed by an update, %"] = (moments[1:], changes[1:])
        curves["Bits that labels tell of an image, at least"] = (moments, bits)
    if log and "nmi" in log[-1]:
        scores = [np.mean(line["nmi"]) for line in log]
        curves["NMI with the classes, which training never sees"] = (epochs, scores)
    watched = [line for line in log if "knn" in line]
    curves["kNN accuracy among a few training images"] = (
        [line["epoch"] for line in watched], [line["knn"] for line in watched]
    )  # fmt: skip
    return [
        {"title": title, "x": x, "y": [round(float(v), 4) for v in y]}
        for title, (x, y) in curves.items()
        if len(x) > 1
    ]
