"""A run as one HTML page that needs no network: curves and a gallery of clusters."""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from selfsup.config import Config
from selfsup.data import TensorImages
from selfsup.evaluation.compare import COLUMNS, FORMATS
from selfsup.models import Network
from selfsup.training.checkpoints import read_log, write_whole
from selfsup.training.label_pass import FeaturePass
from selfsup.training.monitor import whole_seconds
from selfsup.training.trained import Trained

MOST, LEAST, MAX_CLUSTERS = 14, 5, 24
INK, ACCENT, MUTED = "#1f2933", "#2563a8", "#8a94a0"
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; background: #fff;
       max-width: 1080px; margin: 40px auto; padding: 0 24px; }
h1 { font-size: 30px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 40px 0 8px; }
p { margin: 4px 0 12px; max-width: 74ch; } .muted { color: #66717d; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
table.scores { width: 100%; font-size: 15px; }
table.scores th { font-weight: 600; color: #66717d; border-bottom: 1px solid #c9d0d8; }
table.scores td, table.scores th { padding: 5px 10px; text-align: right; white-space: nowrap; }
table.scores td:first-child, table.scores th:first-child { text-align: left; padding-left: 0; }
table.scores tr:nth-child(even) td { background: #f5f7f9; }
table.scores tr.own td { font-weight: 600; }
.curves svg { width: 100%; height: auto; }
table.gallery td { padding: 3px 18px 3px 0; } table.gallery th { text-align: left;
  font-weight: 600; color: #66717d; font-size: 14px; padding-right: 18px; }
table.gallery td.name { color: #66717d; font-size: 14px; white-space: nowrap; }
table.gallery img { display: block; image-rendering: pixelated; height: 44px; }
"""


def write_report(run: Path, trained: Trained, train: TensorImages, final: bool = True) -> Path:
    """Write RUN/report.html from the log, the labels and the checkpointed network."""
    config, network = trained.config, trained.network
    log = read_log(run, "epoch")
    labels: NDArray[np.int64] = np.load(run / "labels.npy")
    evaluation = run / "evaluation.json"
    table = _table(json.loads(evaluation.read_text())) if evaluation.exists() else ""
    seconds = sum(whole_seconds(line["seconds"]) for line in log)
    heads = ", ".join(
        f"{config.labels.clusters.count(k)} with K = {k}"
        for k in sorted(set(config.labels.clusters))
    )
    facts = (
        f"{len(train):,} images, {config.optimiser.epochs} epochs in {seconds / 60:.1f} minutes; "
        f"heads: {heads}; epsilon {config.labels.epsilon:g}; {config.labels.updates} label updates; "
        f"seed {config.run.seed}."
    )
    page = f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SeLa: {html.escape(config.run.preset)}</title><style>{STYLE}</style></head><body>
<h1>SeLa on {html.escape(config.run.preset)}</h1><p class="muted">{html.escape(facts)}</p>
{table}
<h2>Training</h2>
<p>True classes, where there are any, are for watching only; training never sees them.</p>
<div class="curves">{_curves(log, read_log(run, "update"))}</div>
{_gallery(config, train, network, labels)}
</body></html>
"""
    path = run / "report.html"
    write_whole(path, page.encode())
    return path


def _table(rows: list[dict[str, Any]]) -> str:
    titles = {"nmi": "NMI", "ari": "ARI", "size_min": "smallest", "size_max": "largest"}
    titles |= {"knn": "kNN", "probe": "linear probe", "method": ""}
    head = "".join(f"<th>{titles.get(c, c)}</th>" for c in COLUMNS)
    body = ""
    for row in rows:
        cells = (format(row[c], FORMATS.get(c, "")) if c in row else "" for c in COLUMNS)
        own = ' class="own"' if row["method"] == "SeLa" else ""
        body += f"<tr{own}>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>"
    return (
        "<h2>Labels and features</h2><p>NMI, ARI and accuracy (best one-to-one matching with the "
        "classes) compare the labels of the training images with the truth, as means over heads. "
        "kNN and linear probe are test accuracies of the features.</p>"
        f'<table class="scores"><tr>{head}</tr>{body}</table>'
    )


def _curves(log: list[dict[str, Any]], updates: list[dict[str, Any]]) -> str:
    epochs = [line["epoch"] for line in log]
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    axes = figure.subplots(2, 2).flatten()
    axes[0].plot(epochs, [line["loss"] for line in log], color=ACCENT, lw=2)
    axes[0].axhline(log[0]["ln_k"], color=MUTED, ls="--", lw=1.2)
    axes[0].annotate("ln K", (epochs[-1], log[0]["ln_k"]), (0, -14), color=MUTED,
                     textcoords="offset points", ha="right")  # fmt: skip
    axes[0].set_title("Cross-entropy, mean over heads")
    axes[0].set_ylim(bottom=0)
    moments = [line["epoch"] for line in updates]
    changes = [100 * np.mean(line["changed"]) for line in updates]
    axes[1].plot(moments[1:], changes[1:], color=ACCENT, lw=2)  # the first replaces random labels
    axes[1].set_title("Labels changed by an update, %")
    axes[1].set_ylim(bottom=0)
    violations = [max(max(line["violation"]), 1e-12) for line in updates]
    axes[2].semilogy(moments, violations, color=ACCENT, lw=2)
    axes[2].set_title("Marginal violation of the plan, worst head")
    if "nmi" in log[-1]:
        scores = np.array([line["nmi"] for line in log])
        axes[3].fill_between(epochs, scores.min(1), scores.max(1), color=ACCENT, alpha=0.18, lw=0)
        axes[3].plot(epochs, scores.mean(1), color=ACCENT, lw=2)
        axes[3].set_title("NMI with the classes: mean and range of heads")
        axes[3].set_ylim(0, 1)
    else:
        axes[3].plot(moments, [np.mean(line["bits"]) for line in updates], color=ACCENT, lw=2)
        axes[3].set_title("Information between labels and images, bits at least")
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel("epoch", color=INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e4e8ec", lw=0.8)
        axis.title.set_fontweight("bold")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _gallery(
    config: Config, train: TensorImages, network: Network, labels: NDArray[np.int64]
) -> str:
    classes = len(train.classes)
    clusters = config.labels.clusters
    head = clusters.index(classes) if classes in clusters else 0
    k = clusters[head]
    with torch.no_grad():
        features = FeaturePass.of(config)(network, train)
        probabilities = network.heads[head](features).softmax(1).cpu()
    own = torch.from_numpy(labels[head])
    confidence = probabilities.gather(1, own[:, None])[:, 0].numpy()
    rows = ""
    for cluster in range(min(k, MAX_CLUSTERS)):
        members = np.flatnonzero(labels[head] == cluster)
        members = members[np.argsort(-confidence[members], kind="stable")]
        if not len(members):
            continue
        rows += (
            f'<tr><td class="name">{cluster}<br>{len(members):,} images</td>'
            f"<td>{_strip(train, members[:MOST])}</td>"
            f"<td>{_strip(train, members[-LEAST:])}</td></tr>"
        )
    shown = "" if k <= MAX_CLUSTERS else f"The first {MAX_CLUSTERS} of {k} clusters. "
    return (
        f"<h2>Clusters of head {head}</h2><p>{shown}Images with the label of each cluster, by the "
        "probability that the head gives to that label. The first head with as many clusters as "
        "there are classes is shown; it was not chosen for its scores.</p>"
        '<table class="gallery"><tr><th>cluster</th><th>most confident</th><th>least confident</th>'
        f"</tr>{rows}</table>"
    )


def _strip(train: TensorImages, index: NDArray[np.intp]) -> str:
    gap = 2
    images = train.images[torch.from_numpy(index)].permute(0, 2, 3, 1).numpy()
    n, height, width, channels = images.shape
    strip = np.full((height, n * (width + gap) - gap, channels), 255, np.uint8)
    for i, image in enumerate(images):
        strip[:, i * (width + gap) : i * (width + gap) + width] = image
    buffer = io.BytesIO()
    Image.fromarray(strip if channels == 3 else strip[:, :, 0]).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{n} images" src="data:image/png;base64,{data}">'
