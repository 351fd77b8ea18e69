"""Makes ``docs/results`` of the records: a page for each experiment, and one that sums up."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from sela import frozen
from sela.experiments import COMMON, EXPERIMENTS, THREE, Claim, Experiment, Row
from sela.runs import record_of

DOCS = Path(__file__).parents[2] / "docs" / "results"
Record = dict[str, Any]
#: What a table shows: its title, and the number in a record for a method (None: the run itself).
Measure = tuple[str, Callable[[Record, str | None], float | None]]


def write() -> None:
    """Write all pages and figures."""
    DOCS.mkdir(parents=True, exist_ok=True)
    for experiment in EXPERIMENTS.values():
        (DOCS / f"{experiment.name}.md").write_text(page(experiment))
        if experiment.curves and any(records(row) for row in experiment.rows):
            draw_curves(experiment, DOCS / f"{experiment.name}.png")
    (DOCS / "frozen.md").write_text(frozen_page())
    (DOCS / "index.md").write_text(index())


def records(row: Row) -> list[Record]:
    """Return the records of a line that are there, of the planned seeds."""
    paths = [record_of(row.training, seed) for seed in row.seeds]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def _found(record: Record, protocol: str, method: str | None) -> list[dict[str, Any]]:
    own = record["results"][0]["method"]
    return [
        line
        for result in record["results"]
        if result["protocol"] == protocol and result["method"] == (method or own)
        for line in result["rows"]
    ]


def _top1(protocol: str) -> Callable[[Record, str | None], float | None]:
    def measure(record: Record, method: str | None) -> float | None:
        tops = [line["top1"] for line in _found(record, protocol, method) if "top1" in line]
        return 100 * tops[0] if tops else None

    return measure


def _clusters(name: str) -> Callable[[Record, str | None], float | None]:
    def measure(record: Record, method: str | None) -> float | None:
        lines = [line for line in _found(record, "clusters", method) if line["part"] == "train"]
        return lines[0][name] if lines else None

    return measure


def _of_run(name: str) -> Callable[[Record, str | None], float | None]:
    def measure(record: Record, method: str | None) -> float | None:
        return None if method else record[name]

    return measure


def _entropy(record: Record, method: str | None) -> float | None:
    """Entropy of the sizes of the clusters over that of equal ones, after the last update."""
    return None if method or not record["updates"] else evenness(record["updates"][-1])


def evenness(update: dict[str, float]) -> float:
    """Return the entropy of the sizes of clusters over that of equal ones."""
    return update["entropy"] / update["ln_k"]


KNN: Measure = ("kNN", _top1("knn"))
LINEAR: Measure = ("linear", _top1("linear"))
#: Shown with three digits.
FINE: tuple[Measure, ...] = (
    ("NMI", _clusters("nmi")), ("AMI", _clusters("ami")), ("entropy", _entropy),
)  # fmt: skip
MEASURES: tuple[Measure, ...] = (KNN, LINEAR, *FINE, ("minutes", _of_run("minutes")))


def values(row: Row, measure: Measure) -> list[float]:
    """Return a number of each seed of a line that has it."""
    found = [measure[1](record, row.method) for record in records(row)]
    return [value for value in found if value is not None]


def told(numbers: Sequence[float], digits: int) -> str:
    """Return mean and standard deviation."""
    if not numbers:
        return ""
    mean = f"{statistics.fmean(numbers):.{digits}f}"
    return f"{mean} ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else mean


def table(experiment: Experiment) -> list[str]:
    """Return the lines of a table."""
    with_paper = any(row.paper for row in experiment.rows)
    titles = ["", "seeds", *(title for title, _ in MEASURES)]
    titles += ["paper: kNN", "linear"] if with_paper else []
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in experiment.rows:
        done, planned = len(records(row)), len(row.seeds)
        seeds = f"{done}" if done == planned else f"{done} of {planned}"
        cells = [row.name, seeds]
        cells += [
            told(values(row, m), 1 if m[0] in ("kNN", "linear", "minutes") else 3) for m in MEASURES
        ]
        if with_paper:
            cells += [f"{number}" for number in row.paper] if row.paper else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def verdict(experiment: Experiment, claim: Claim) -> str | None:
    """Return a sentence on a claim; None where one of its lines has not been run."""
    rows = {row.name: row for row in experiment.rows}
    parts, holds = [], []
    for measure in (KNN, LINEAR):
        better, worse = (values(rows[name], measure) for name in (claim.better, claim.worse))
        if not better or not worse:
            continue
        gap = statistics.fmean(better) - statistics.fmean(worse)
        spread = max((max(v) - min(v) for v in (better, worse)), default=0.0)
        parts.append(f"{measure[0]} {gap:+.1f}")
        single = min(len(better), len(worse)) == 1
        holds.append((gap > spread, gap > 0, single))
    if not parts:
        return None
    if all(clear for clear, _, _ in holds):
        word = "holds, on one seed" if any(single for *_, single in holds) else "holds"
    elif all(positive for _, positive, _ in holds):
        word = "within the spread of the seeds"
    else:
        word = "does not hold here"
    paper = "" if claim.paper is None else f" (paper: kNN {claim.paper:+.1f})"
    return f"{claim.better} over {claim.worse}: {', '.join(parts)}{paper}: **{word}**"


def verdicts(experiment: Experiment) -> list[str]:
    """Return a line for each claim that can be judged."""
    found = [verdict(experiment, claim) for claim in experiment.claims]
    return [f"- {sentence}." for sentence in found if sentence]


def page(experiment: Experiment) -> str:
    """Return the page of an experiment."""
    lines = [f"# {experiment.question}", "", f"The paper: {experiment.paper}", ""]
    lines += [*table(experiment), ""]
    if claims := verdicts(experiment):
        lines += [READING, "", *claims, ""]
    if experiment.curves:
        lines += [f"![kNN, and entropy of the labels, over epochs]({experiment.name}.png)", ""]
    command = f"python benchmarks/sela run {experiment.name} --data DIR"
    lines += [f"Remade by `{command}`; the columns are explained on [the first page](index.md)."]
    return "\n".join(lines) + "\n"


FROZEN = """# Do linear heads on frozen features cluster better than k-means?

The paper has no table of it. The features are those of "SeLa, ten heads" ([methods](methods.md)),
standardised; SeLa's heads ({heads} of them, {epochs} epochs) see them with half of their numbers
hidden. Scores are of the {images} training images against the ten classes, means over heads and
over {seeds} of 3 seeds.

{table}

Balanced k-means and SeLa make clusters of the same size: where the classes are equally large, as
here with K = 10, that is information; k-means does not have it.

Remade by `python benchmarks/sela run frozen --data DIR`.
"""
#: Scores of frozen features that are shown, and their digits.
SCORES = {"nmi": 3, "ami": 3, "hungarian": 3, "purity": 3, "size_min": 0, "size_max": 0}


def frozen_page() -> str:
    """Return the page about clusters of frozen features."""
    paths = [path for seed in THREE if (path := frozen.record_of(seed)).exists()]
    seeds = [json.loads(path.read_text()) for path in paths]
    lines = ["| K | method | " + " | ".join(SCORES) + " |", "|---" * (2 + len(SCORES)) + "|"]
    for same in zip(*seeds, strict=True):
        cells = [
            told([one[name] for one in same if name in one], digits)
            for name, digits in SCORES.items()
        ]
        lines.append(f"| {same[0]['K']} | {same[0]['method']} | " + " | ".join(cells) + " |")
    return FROZEN.format(
        heads=frozen.HEADS, epochs=frozen.EPOCHS, images="50,000", seeds=len(seeds),
        table="\n".join(lines),
    )  # fmt: skip


INDEX = """# SeLa on CIFAR-10, measured with this code

Real CIFAR-10, trained on CPU cores. Networks and trainings are far smaller than the paper's
(AlexNet at 224 pixels, 400 epochs on a GPU), so the numbers are lower; the question is whether
its findings hold in them.

{links}
- [Do linear heads on frozen features cluster better than k-means?](frozen.md)

```{{toctree}}
:hidden:
{names}
```

## Findings of the paper, and ours

{reading}

{verdicts}

## How to read the tables

A training is the preset cifar10-small with one head of 128 clusters, {common}, and what its
line says. Mean and standard deviation are over the seeds that the line counts; seed 0 and 5,000
held-out training images chose the settings, and have no part in the other tables. A line with
"0 of 3" seeds is planned and has not been run.

- **kNN**: accuracy in percent on the 10,000 test images, weighted vote of the 50 nearest
  training images, sigma 0.1, 128 dimensions (principal components where there are more), as in
  the paper.
- **linear**: logistic regression on standardised features, C = 1. The paper's is a linear layer
  on conv5, trained by SGD.
- **NMI**, **AMI**: of the labels of the training images with the ten classes, mean over heads.
  With 128 clusters of ten classes neither can be 1.
- **entropy**: of the sizes of the clusters after the last update, over that of equal ones: 1
  says that all are equally large, 0 that one has all images.
- **minutes**: of training, label passes included, on one thread while another training ran
  beside it.

## What to doubt

- Twelve epochs of a network with half a million parameters are no proof of what 400 epochs of an
  AlexNet do. Differences can grow or vanish with time: the figure with [the methods](methods.md)
  shows whether they still move.
- "k-means labels" is DeepCluster's idea on SeLa's path: k-means on the features, begun at the
  centroids of the last update, so that clusters keep their numbers and the head is kept.
  DeepCluster itself makes a new head each time, whitens the features and draws images evenly from
  the clusters; none of these is here.
- The principal components centre the features, which helps pixels much and a network's features
  little. A network of width 32 has 128 features, which are compared as they are.
- C = 1 and k = 50 were fixed before, and no number was chosen by the images that are reported. No
  head is chosen by the classes.

## To remake them

    OMP_NUM_THREADS=1 python benchmarks/sela run methods --data DIR    # or another experiment
    python benchmarks/sela pages

The first writes a record (settings, log, results) into `benchmarks/sela/results` for each
training that has none, and goes on with what was stopped; two processes share the work of two
cores. The second makes these pages of the records alone. Measured on {machines}.
"""
READING = """Differences of means, in points. "Holds" says that the difference is larger than
that from the best to the worst seed of either line."""


def index() -> str:
    """Return the page that sums up."""
    experiments = EXPERIMENTS.values()
    rows = [row for experiment in experiments for row in experiment.rows]
    machines = sorted({machine(record) for row in rows for record in records(row)})
    return INDEX.format(
        links="\n".join(f"- [{e.question}]({e.name}.md)" for e in experiments),
        names="\n".join([*EXPERIMENTS, "frozen"]),
        reading=READING,
        verdicts="\n".join(dict.fromkeys(line for e in experiments for line in verdicts(e))),
        common=", ".join(f"{name} {value}" for name, value in COMMON.items() if name != "clusters"),
        machines="; ".join(machines) or "nothing yet",
    )


def machine(record: Record) -> str:
    """Return what a training ran on."""
    on = dict(record["machine"])
    processor, threads = on.pop("processor"), on.pop("threads")
    told = ", ".join(f"{name} {number}" for name, number in on.items())
    return f"{processor}, {threads} thread ({told})"


def draw_curves(experiment: Experiment, path: Path) -> None:
    """Draw kNN over epochs, and the entropy of the labels' sizes over updates."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for row in experiment.rows:
        found = [] if row.method else records(row)
        if not found:
            continue
        watched = [[e for e in r["epochs"] if "knn" in e] for r in found]
        epochs = [e["epoch"] for e in watched[0]]
        curves = [[100 * e["knn"] for e in w] for w in watched]
        mean = [statistics.fmean(at) for at in zip(*curves, strict=True)]
        (line,) = left.plot(epochs, mean, label=row.name)
        low, high = ([pick(at) for at in zip(*curves, strict=True)] for pick in (min, max))
        left.fill_between(epochs, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        updates = found[0]["updates"]
        if updates:
            entropies = [evenness(u) for u in updates]
            right.plot([u["epoch"] for u in updates], entropies, color=line.get_color())
    left.set(xlabel="epochs", ylabel="kNN among 2,000 training images, %")
    right.set(xlabel="epochs", ylabel="entropy of the clusters' sizes", ylim=(0, 1.05))
    left.legend(fontsize=7, frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
