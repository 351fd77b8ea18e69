"""Makes ``docs/results`` of the records: a page for each experiment, and one that sums up."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from sela import frozen
from sela.experiments import EXPERIMENTS, SMALL, THREE, Claim, Experiment, Row
from sela.runs import record_of

DOCS = Path(__file__).parents[2] / "docs" / "results"
BENCH = Path(__file__).parents[1] / "results" / "bench.json"
Record = dict[str, Any]


#: Of so many seeds a difference is believed.
SEEDS = 3


class Measure(NamedTuple):
    """What a column shows."""

    title: str
    digits: int
    of: Callable[[Record, str | None], float | None]
    """The number in a record for a method; None is the run itself."""


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


def _top1(protocol: str, **setting: Any) -> Callable[[Record, str | None], float | None]:
    """Return what tells the accuracy of the first line that has a setting."""

    def measure(record: Record, method: str | None) -> float | None:
        tops = [
            line["top1"]
            for line in _found(record, protocol, method)
            if "top1" in line and all(line[name] == value for name, value in setting.items())
        ]
        return 100 * tops[0] if tops else None

    return measure


def _clusters(name: str) -> Callable[[Record, str | None], float | None]:
    def measure(record: Record, method: str | None) -> float | None:
        lines = [line for line in _found(record, "clusters", method) if line["part"] == "train"]
        return lines[0][name] if lines else None

    return measure


def _entropy(record: Record, method: str | None) -> float | None:
    """Entropy of the sizes of the clusters over that of equal ones, after the last update."""
    return None if method or not record["updates"] else evenness(record["updates"][-1])


def _largest(record: Record, method: str | None) -> float | None:
    """Size of the largest cluster after the last update: of the images that are trained on."""
    if method or not record["updates"]:
        return None
    size: float = record["updates"][-1]["size_max"]
    return size


def evenness(update: dict[str, float]) -> float:
    """Return the entropy of the sizes of clusters over that of equal ones."""
    return update["entropy"] / update["ln_k"]


KNN = Measure("kNN", 1, _top1("knn"))
RAW_KNN = Measure("kNN of features as they are", 1, _top1("knn", pca=0))
LINEAR = Measure("linear", 1, _top1("linear"))
MEASURES = (
    KNN,
    LINEAR,
    Measure("NMI", 3, _clusters("nmi")),
    Measure("AMI", 3, _clusters("ami")),
    Measure("entropy", 3, _entropy),
    Measure("largest", 0, _largest),
)


def values(row: Row, measure: Measure) -> list[float]:
    """Return a number of each seed of a line that has it."""
    found = [measure.of(record, row.method) for record in records(row)]
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
    titles = ["", "seeds", *(measure.title for measure in MEASURES)]
    titles += ["paper: kNN", "linear"] if with_paper else []
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in experiment.rows:
        done, planned = len(records(row)), len(row.seeds)
        seeds = f"{done}" if done == planned else f"{done} of {planned}"
        cells = [row.name, seeds]
        cells += [told(values(row, measure), measure.digits) for measure in MEASURES]
        if with_paper:
            cells += [f"{number}" for number in row.paper] if row.paper else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def verdict(experiment: Experiment, claim: Claim) -> str | None:
    """Return a sentence on a claim; None where one of its lines has not been run."""
    rows = {row.name: row for row in experiment.rows}
    parts = []
    for measure in (KNN, LINEAR):
        better, worse = (values(rows[name], measure) for name in (claim.better, claim.worse))
        if better and worse:
            gap = statistics.fmean(better) - statistics.fmean(worse)
            parts.append(f"{measure.title} {gap:+.1f}{judged(gap, better, worse)}")
    if not parts:
        return None
    paper = " (paper: {:+.1f}, {:+.1f})".format(*claim.paper) if claim.paper else ""
    return f"{claim.better} over {claim.worse}: {', '.join(parts)}{paper}"


def judged(gap: float, better: Sequence[float], worse: Sequence[float]) -> str:
    """Return what the seeds say of a difference of means; nothing, where a line has too few."""
    if min(len(better), len(worse)) < SEEDS:
        return ""
    spread = max(max(numbers) - min(numbers) for numbers in (better, worse))
    word = "within the seeds" if abs(gap) <= spread else "holds" if gap > 0 else "the other way"
    return f" (**{word}**)"


def verdicts(experiment: Experiment) -> list[str]:
    """Return a line for each claim that can be judged."""
    found = [verdict(experiment, claim) for claim in experiment.claims]
    return [f"- {sentence}." for sentence in found if sentence]


def speed() -> str:
    """Return how long the preset takes, by what the suite's stored run has of it."""
    run = json.loads(BENCH.read_text())
    seconds = {each["name"]: each["stats"]["median"] for each in run["benchmarks"]}
    step = seconds["test_training_step[2000x32-selfsup]"]
    update = seconds["test_label_update[2000x32-selfsup]"]
    minutes = 48 * (50_000 / 128 * step + 50_000 / 2_000 * update) / 60
    return (
        f"On two idle cores, by two threads, a training step of the preset takes {step:.3f} s for "
        f"its 128 images, and a label update {update:.2f} s for 2,000 (`make bench`, "
        f"benchmarks/results/bench.json). That makes {minutes:.0f} minutes of 48 epochs with an "
        "update each; making views and watching come on top."
    )


def page(experiment: Experiment) -> str:
    """Return the page of an experiment."""
    lead = "" if experiment.paper.startswith("The paper") else "The paper: "
    lines = [f"# {experiment.question}", ""]
    lines += [f"**{experiment.found}**", ""] if experiment.found else []
    lines += [f"{lead}{experiment.paper}", "", *table(experiment), ""]
    if claims := verdicts(experiment):
        held_out = all(row.training.held_out for row in experiment.rows)
        lines += [HELD_OUT if held_out else READING, "", *claims, ""]
    lines += [speed(), ""] if experiment.name == "small" else []
    lines += [experiment.note, ""] if experiment.note else []
    if experiment.curves:
        lines += [f"![kNN, and entropy of the labels, over epochs]({experiment.name}.png)", ""]
        lines += [FIGURE, ""]
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

## Differences, in numbers

{reading} Where the paper has the comparison, its differences of kNN and linear accuracy stand in
brackets.

{verdicts}

Most of the gain over an untrained network comes without the constraint, as argmax labels show,
though these stay below raw pixels in kNN.

On 5,000 held-out training images, one seed ([recipe](recipe.md)):

{held_out}

## How to read the tables

Unless its line says otherwise, a training has one head of 128 clusters, whose learning rate is the
network's, a network of width 32, 12 epochs with a label update each, labels made of images that
are not transformed, and bfloat16. The network is a ResNet of three stages of one block, whose
first convolution has stride 2, with 128 features; it learns by SGD with batches of 128 and a rate
of 0.06 that falls as a cosine, and lambda is 10. All other settings are the preset
cifar10-small's. Mean and standard deviation are over the seeds that the line counts; of three
seeds a deviation can be small by chance. A line with "0 of 3" seeds is planned and has not been
run. Augmentation, learning rate and lambda are from trials by hand on seed 0, some of which looked
at the test images. The preset's rate of heads and its views in label passes were chosen on
held-out training images, in one seed of 12 epochs; its 48 epochs by the time that they take.

- **kNN**: accuracy in percent on the 10,000 test images, weighted vote of the 50 nearest
  training images, sigma 0.1, 128 dimensions (principal components where there are more), as in
  the paper.
- **linear**: logistic regression on standardised features, C = 1. The paper's is a linear layer
  on conv5, trained by SGD.
- **NMI**, **AMI**: of the labels of the training images with the ten classes, mean over heads.
  With 128 clusters of ten classes neither can be 1. Where the label pass sees training views, a
  label is of one random view, which lowers both.
- **entropy**: of the sizes of the clusters after the last update, over that of equal ones: 1
  says that all are equally large, 0 that one has all images. Mean over heads.
- **largest**: size of the largest cluster after the last update, mean over heads. 128 equal
  clusters of all images have 391 each.

## What to doubt

- Raw pixels reach a kNN of {pixels} once their principal components are taken, which centre them.
  One head of SeLa with 32 clusters or more, and RotNet in 12 epochs, are above that; k-means and
  argmax labels, RotNet in 4 epochs and thirty heads are below. Features of width 32 are 128 and
  are not centred. For width 64, whose 256 features are, it hardly matters: the preset's kNN is
  {centred} with principal components and {raw} without. The pixels' linear accuracy was not
  measured.
- "k-means labels" is DeepCluster's idea on SeLa's path: k-means on the features, begun at the
  centroids of the last update, so that clusters keep their numbers and the head is kept.
  DeepCluster itself makes a new head each time, whitens the features and draws images evenly from
  the clusters; none of these is here. It is this form that SeLa is compared with, it does not
  reach raw pixels in kNN, and SeLa's lead says little of DeepCluster.
- SeLa's lead over k-means labels is not owed to equal sizes alone ([methods](methods.md),
  [lambda](lambda.md)). Nearly half of it in kNN is there with labels of the untrained network, one
  seed; k-means labels gain no kNN by being renewed ([updates](updates.md)).
- RotNet is ahead of SeLa with the settings that all methods share. It sees four turned copies of
  each image in a step, and takes more than twice as long. With the recipe's settings SeLa is
  ahead in kNN, and RotNet stays ahead in linear accuracy; at about equal time SeLa is ahead in
  both ([rivals](rivals.md)). The paper's table of CIFAR-10 has no RotNet.
- Twelve epochs of a network with 0.3 million parameters are no proof of what 400 epochs of an
  AlexNet do. The learning rate falls to nothing within the twelve.
- Settings were tuned by hand for SeLa, and for none of its rivals.
- SeLa's labels agree with the classes (NMI) no better than those of k-means, beyond the seeds;
  with the recipe's settings they do, by a hundredth. That need not explain the difference in kNN.
- Trainings ran on two kinds of processor, and some lines on one of them alone. Lines that have
  seeds of both show no shift.
- C = 1 and k = 50 were fixed before the first run, and no head is chosen by the classes.

## To remake them

    OMP_NUM_THREADS=1 python benchmarks/sela run methods --data DIR    # or another experiment
    python benchmarks/sela pages

The first writes a record (settings, log, results) into `benchmarks/sela/results` for each
training that has none, and goes on with what was stopped; two processes share the work of two
cores. The second makes these pages of the records alone. Measured on {machines}.
"""
FIGURE = """The kNN of the figure is watched in training: that of 2,000 training images among
themselves (k = 10). It has an error of a point and levels of its own, higher for networks that
are trained with rotation: compare the course of a curve, and methods by the table."""
READING = """Differences of means (before they are rounded), in points. "Holds": the means differ by
more than the seeds of either line do (largest minus smallest). "The other way": so they do, but
the line named first is the worse one. Were two methods equal and their spreads normal, one
comparison in twenty would still hold. Nothing is said where a line has fewer than three seeds.
All seeds share the test images, whose sampling error is half a point."""
HELD_OUT = """Differences in points, of one seed, judged by 5,000 held-out training images, whose
sampling error is 0.7 points."""


def index() -> str:
    """Return the page that sums up."""
    experiments = EXPERIMENTS.values()
    rows = [row for experiment in experiments for row in experiment.rows]
    machines = sorted({machine(record) for row in rows for record in records(row)})
    return INDEX.format(
        links="\n".join(
            f"- [{e.question}]({e.name}.md){planned(e)} {e.found}".rstrip() for e in experiments
        ),
        names="\n".join([*EXPERIMENTS, "frozen"]),
        reading=READING,
        verdicts=findings(held_out=False),
        held_out=findings(held_out=True),
        machines="; ".join(machines) or "nothing yet",
        pixels=told(
            [value for row in rows if row.name == "pixels" for value in values(row, KNN)], 1
        ),
        centred=told(values(SMALL.rows[-1], KNN), 1),
        raw=told(values(SMALL.rows[-1], RAW_KNN), 1),
    )


def findings(*, held_out: bool) -> str:
    """Return the verdicts of the experiments that held-out images judge, or of the others."""
    experiments = [
        e for e in EXPERIMENTS.values() if all(r.training.held_out for r in e.rows) == held_out
    ]
    return "\n".join(dict.fromkeys(line for e in experiments for line in verdicts(e)))


def planned(experiment: Experiment) -> str:
    """Return what to say of a table that is not whole."""
    done = sum(bool(records(row)) for row in experiment.rows)
    all_rows = len(experiment.rows)
    return f" ({done} of {all_rows} lines)" if done < all_rows else ""


def machine(record: Record) -> str:
    """Return what a training ran on."""
    on = dict(record["machine"])
    processor, threads = on.pop("processor"), on.pop("threads")
    told = ", ".join(f"{name} {number}" for name, number in on.items())
    return f"{processor}, {threads} thread ({told})"


def draw_curves(experiment: Experiment, path: Path) -> None:
    """Draw kNN over epochs, and the entropy of the labels' sizes over updates."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
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
    left.set(xlabel="epochs", ylabel="kNN (k = 10) among 2,000 training images, %")
    right.set(xlabel="epochs", ylabel="entropy of the clusters' sizes, one seed", ylim=(0, 1.05))
    figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
