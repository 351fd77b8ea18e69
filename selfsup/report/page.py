"""A run as one HTML page that needs no network: evaluation, clusters of every head, map, curves."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn.manifold import TSNE
from sklearn.preprocessing import minmax_scale

from selfsup.data import ImageSet, TensorImages
from selfsup.evaluation.features import shown_digest, state_digest
from selfsup.evaluation.protocols import PROTOCOLS
from selfsup.evaluation.run import Result, read_results
from selfsup.evaluation.scores import nmi
from selfsup.evaluation.table import cells, left_out
from selfsup.evaluation.unlabelled import spread
from selfsup.training.checkpoints import read_log, write_whole
from selfsup.training.label_pass import in_blocks
from selfsup.training.trained import Trained

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
#: Images that the page holds, about, and on the map. Of more than `LOOKED_AT` images a sample is
#: looked at, so that a page of a million costs no label pass.
SHOWN, MAPPED, LOOKED_AT = 2500, 1500, 20_000
MOST_CLASSES = 30
#: Side of a small picture.
TILE = 64


def write_report(run: Path, trained: Trained, images: ImageSet, files: bool = True) -> Path:
    """Write RUN/report.html from the log, the labels and the checkpointed network.

    Pictures are read from the images' files, or with `files` off from memory, which is quick.
    """
    config, labels, total = trained.config, trained.labels.labels.numpy(), len(images)
    looked_at = spread(total, LOOKED_AT)
    some, own = images.select(looked_at), labels[:, looked_at.numpy()]
    features = trained.features(some)
    confidence = np.stack([_confidence(trained, h, features, y) for h, y in enumerate(own)])
    shown, mapped = _chosen(own, confidence, trained.labels.clusters)
    log, updates = read_log(run, "epoch"), read_log(run, "update")
    data = {
        "images": _images(some, shown, own, confidence),
        "columns": int(np.ceil(np.sqrt(len(shown)))),
        "tile": TILE,
        "map": _map(features[torch.from_numpy(mapped)].cpu().numpy()),
        "mapped": np.searchsorted(shown, mapped).tolist(),
        "heads": [
            _head(k, labels[h], images, own[h], confidence[h])
            for h, k in enumerate(trained.labels.clusters)
        ],
        "classes": list(images.classes),
        "curves": _curves(log, updates),
    }
    seconds = sum(sum(line["seconds"].values()) for line in log)
    template = resources.files("selfsup.report").joinpath("page.html").read_text()
    page = jinja2.Environment(autoescape=True).from_string(template).render(
        title=config.run.preset,
        facts=f"{total:,} images, {len(log)} of {config.optimiser.epochs} epochs in "
        f"{seconds / 60:.1f} minutes; {len(labels)} heads; epsilon {config.labels.epsilon:g}; "
        f"{len(updates)} label updates; seed {config.run.seed}",
        evaluation=evaluation_part(_results(run, trained), images),
        shown=len(shown),
        total=total,
        sprite=data_url(tiles_of(some, shown, files), data["columns"]),
        data=json.dumps(data).replace("</", "<\\/"),
    )  # fmt: skip
    path = run / "report.html"
    write_whole(path, page.encode(errors="replace"))
    return path


def _results(run: Path, trained: Trained) -> list[Result]:
    """Return the results of what the run has learned now; none where they are in another form."""
    try:
        return read_results(run, state_digest(trained.network, trained.labels))
    except ValueError:
        return []


def evaluation_part(results: Sequence[Result], images: ImageSet) -> dict[str, Any]:
    """Return the tables of an evaluation's results, and what was left out.

    Nearest neighbours are drawn of `images`, all that the run was trained on.
    """
    tables, several = [], len({result.images for result in results}) > 1
    for protocol in PROTOCOLS:
        own = [r for r in results if r.protocol == protocol.name and r.rows]
        for place in sorted({result.images for result in own}):
            rows = [row for result in own if result.images == place for row in result.rows]
            heads = [
                {"method": row["method"], "part": row["part"], **head}
                for row in rows
                for head in row.get("each_head", [])
            ]
            tables.append({
                "title": protocol.name + (f" on {place}" if several else ""),
                "help": protocol.help,
                "cells": cells(rows),
                "heads": cells(heads) if heads else None,
                "picture": _neighbours(rows, images),
            })  # fmt: skip
    told = [
        left_out(result) + (f" ({result.images})" if several else "")
        for result in results
        if result.reason
    ]
    return {"tables": tables, "left_out": told}


def _neighbours(rows: Sequence[dict[str, Any]], images: ImageSet) -> str | None:
    """Return the first row's neighbours: an image on the left, its neighbours beside it.

    They are drawn only where `images` has images of the same names that show the same.
    """
    found = next((row["neighbours"] for row in rows if "neighbours" in row), None)
    number = {path: i for i, path in enumerate(images.paths)}
    index = [number.get(path, -1) for line in (found["paths"] if found else ()) for path in line]
    if found is None or -1 in index or shown_digest(images, torch.tensor(index)) != found["shown"]:
        return None
    return data_url(tiles_of(images, np.array(index)), len(found["paths"][0]))


def tiles_of(images: ImageSet, shown: Integers, files: bool = True) -> list[NDArray[np.uint8]]:
    """Return small (h, w, C) pictures; with `files` of the files, where there are any."""
    if files and isinstance(images, TensorImages) and images.origin is not None:
        located = [images.locate(i) for i in shown.tolist()]
        images = images.origin if all(x is not None and x.is_file() for x in located) else images
    return images.thumbnails(torch.from_numpy(shown), TILE)


def data_url(tiles: Sequence[NDArray[np.uint8]], columns: int) -> str:
    """Return the pictures in rows of `columns`, the middle of each, as the data URL of a JPEG."""
    sheet = Image.new("RGB", (columns * TILE, -(-len(tiles) // columns) * TILE), "white")
    for position, tile in enumerate(tiles):
        picture = Image.fromarray(tile if tile.shape[2] == 3 else tile[:, :, 0])
        square = ImageOps.fit(picture, (TILE, TILE))
        sheet.paste(square, (position % columns * TILE, position // columns * TILE))
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _confidence(trained: Trained, head: int, features: torch.Tensor, labels: Integers) -> Floats:
    """Return the probability that a head gives to the label of each image."""
    logits = in_blocks(trained.network, head, features)
    own = torch.from_numpy(labels).to(logits.device)[:, None]
    return logits.softmax(1).gather(1, own)[:, 0].double().cpu().numpy()


def _chosen(
    labels: Integers, confidence: Floats, clusters: Sequence[int]
) -> tuple[Integers, Integers]:
    """Return the images that the page shows, and those of them on its map, sorted."""
    n = labels.shape[1]
    mapped = spread(n, MAPPED).numpy()
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
    images: ImageSet, shown: Integers, labels: Integers, confidence: Floats
) -> list[dict[str, Any]]:
    """Return what the page knows of each image that it shows."""
    return [
        {
            "name": images.paths[i],
            "link": file.as_uri() if (file := images.locate(i)) and file.is_file() else None,
            "labels": labels[:, i].tolist(),
            "confidence": confidence[:, i].round(3).tolist(),
            "class": int(images.targets[i]),
        }
        for i in shown.tolist()
    ]


def _head(
    k: int, labels: Integers, images: ImageSet, own: Integers, confidence: Floats
) -> dict[str, Any]:
    """Return each cluster's size, mean confidence and, where they are known, classes."""
    sizes, looked_at = np.bincount(labels, minlength=k), np.bincount(own, minlength=k)
    means = np.bincount(own, confidence, k) / np.maximum(looked_at, 1)
    head: dict[str, Any] = {"sizes": sizes.tolist(), "confidence": means.round(3).tolist()}
    if images.labelled:
        classes, truth = len(images.classes), images.targets.numpy()
        table = np.bincount(labels * classes + truth, minlength=k * classes).reshape(k, classes)
        head["purity"] = (table.max(1) / np.maximum(sizes, 1)).round(3).tolist()
        head["class"] = table.argmax(1).tolist()
        head["nmi"] = round(nmi(truth, labels), 3)
        head["table"] = table.tolist() if classes <= MOST_CLASSES else None
    return head


def _map(features: NDArray[np.float32]) -> list[list[float]]:
    """Return places in the unit square."""
    n, dim = features.shape
    if n < 5 or dim < 2 or not np.ptp(features, 0).any():
        places = np.column_stack([np.arange(n), np.zeros(n)])
    else:
        places = TSNE(perplexity=min(30.0, (n - 1) / 3), random_state=0).fit_transform(features)
    shares: list[list[float]] = minmax_scale(places).round(4).tolist()
    return shares


def _curves(log: list[dict[str, Any]], updates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return titles and points."""
    ln_k = f" (ln K = {log[0]['ln_k']:.2f})" if log else ""
    curves = [
        ("Cross-entropy, mean over heads" + ln_k, "loss", log, 1),
        ("Labels changed by an update, %", "changed", updates[1:], 100),
        ("Bits that labels tell of an image, at least", "bits", updates, 1),
        ("NMI with the classes, which training never sees", "nmi", log, 1),
        ("kNN accuracy among a few training images", "knn", log, 1),
    ]
    found = []
    for title, name, lines, factor in curves:
        points = [(line["epoch"], factor * np.mean(line[name])) for line in lines if name in line]
        if len(points) > 1:
            x, y = zip(*points, strict=True)
            found.append({"title": title, "x": x, "y": [round(float(value), 4) for value in y]})
    return found
