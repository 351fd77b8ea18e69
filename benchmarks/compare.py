"""The comparison with peers: runs the cases, keeps a CSV, prints the table, draws the plot.

python benchmarks/compare.py run --size 100000x1000 --size 1000000x1000
python benchmarks/compare.py table
python benchmarks/compare.py plot

`run` skips what the CSV already holds, so it can be stopped and started again. Each case is a
process of its own; one that takes over ten minutes is stopped and recorded as such.
"""

from __future__ import annotations

import argparse
import csv
import json
import operator
import os
import sys
from collections import Counter
from pathlib import Path

from machine import machine, told
from measuring import isolated
from problems import DEFINED, FAMILIES, REAL, UNITS, size_of

HERE = Path(__file__).parent
CSV = HERE / "results" / "comparison.csv"
CURVES = HERE / "results" / "curves.json"
PLOT = HERE.parent / "docs" / "comparison.png"
LIMIT = 600
PEERS = ("torch_two_matvec", "sela_original", "pot", "ott")
#: Solvers in the plot, and what they are called there.
DRAWN = {
    "sinkhorn_ot": "sinkhorn_ot",
    "torch_two_matvec": "torch float32 loop",
    "sela_original": "SeLa's loop, float64",
    "pot": "POT",
    "ott": "OTT",
}
#: Peak bytes above the input in units of the input, as the CSV has them at 100,000 x 1,000.
NEEDS = {"pot": 10.0, "ott": 4.0}
PACKAGES = ("numpy", "torch", "POT", "ott-jax", "jax")
FIELDS = [
    *("solver", "family", "n", "k", "tol", "memory_limit", "status"),
    *("seconds", "min", "max", "runs", "read_seconds", "gb_per_s", "in_reads"),
    *("n_iter", "reads", "violation", "added", "machine", "versions"),
]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run")
    run_parser.add_argument("--size", action="append", required=True, type=size_of, help="NxK")
    run_parser.add_argument("--solvers", nargs="*", default=["sinkhorn_ot", *PEERS])
    run_parser.add_argument(
        "--families", nargs="*", default=list(FAMILIES), choices=[*FAMILIES, REAL]
    )
    run_parser.add_argument("--tol", nargs="*", type=float, default=[1e-3])
    run_parser.add_argument("--memory-limit", type=float, help="as a part of the input")
    run_parser.add_argument("--logits", type=Path, help="saved logits, for the family 'real'")
    commands.add_parser("table")
    plot_parser = commands.add_parser("plot")
    plot_parser.add_argument("--size", type=size_of, default=(100_000, 1_000), help="NxK")
    options = parser.parse_args()
    if options.command == "run":
        if REAL in options.families and options.logits is None:
            parser.error("the family 'real' needs --logits FILE; see real_logits.py")
        for n, k in options.size:
            for family in options.families:
                for tol in options.tol:
                    for solver in options.solvers:
                        run(solver, family, n, k, tol, options.memory_limit, options.logits)
    elif options.command == "table":
        table()
    else:
        plot(*options.size)


def run(
    solver: str,
    family: str,
    n: int,
    k: int,
    tol: float,
    memory_limit: float | None,
    logits: Path | None,
) -> None:
    """Run one case unless the CSV has it, and add it there."""
    key = {"solver": solver, "family": family, "n": n, "k": k, "tol": tol}
    key["memory_limit"] = "" if memory_limit is None else memory_limit
    if any(all(str(row[f]) == str(v) for f, v in key.items()) for row in rows()):
        return
    row = dict(key, machine=machine(), versions=told(*PACKAGES))
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    need = (1 + NEEDS.get(solver, 0)) * 4 * n * k
    if need > available:
        row["status"] = f"needs {need / 1e9:.0f} GB"
    else:
        options = ["--family", family, "--n", n, "--k", k, "--tol", tol]
        if memory_limit is not None:
            options += ["--memory-limit", memory_limit]
        if logits is not None:
            options += ["--logits", logits]
        answer = isolated("case.py", solver, *options, limit=LIMIT)
        if isinstance(answer, str):
            row["status"] = answer
        else:
            curve = answer.pop("curve")
            if not isinstance(answer["violation"], float) or answer["violation"] > 1.05 * tol:
                row["status"] = f"only reaches {answer['violation']:.1e}"
            elif answer["stalled"]:
                row["status"] = "its own test never fires"
            else:
                row["status"] = "ok"
            row |= {f: answer[f] for f in FIELDS if f in answer and f not in key}
            row["in_reads"] = round(answer["seconds"] / answer["read_seconds"], 2)
            keep_curve(f"{solver} {family} {n}x{k} {tol:g}", curve)
    CSV.parent.mkdir(exist_ok=True)
    new = not CSV.exists()
    with CSV.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        writer.writerow(row)
    print({f: row.get(f) for f in ("solver", "family", "n", "k", "tol", "status", "seconds")})
    sys.stdout.flush()


def rows() -> list[dict[str, str]]:
    """Return the rows of the CSV so far."""
    if not CSV.exists():
        return []
    with CSV.open(newline="") as file:
        return list(csv.DictReader(file))


def keep_curve(name: str, curve: list[list[float]]) -> None:
    """Add one curve of (seconds, violation) to the file that the plot reads."""
    curves = json.loads(CURVES.read_text()) if CURVES.exists() else {}
    step = max(1, len(curve) // 60)
    thinned = curve[::step] + ([curve[-1]] if (len(curve) - 1) % step else [])
    curves[name] = [[float(f"{t:.4g}"), float(f"{v:.4g}")] for t, v in thinned]
    CURVES.parent.mkdir(exist_ok=True)
    CURVES.write_text(json.dumps(curves, indent=0))


def table() -> None:
    """Print the rows as Markdown, and what they were measured on; only within that, ratios."""
    found = rows()
    print("; ".join(f"{family}: {what}" for family, what in DEFINED.items()) + f". {UNITS}\n")
    problem = operator.itemgetter("n", "k", "family", "tol", "machine")
    print(
        "| size | family | tol | solver | seconds (min-max) | reads R | R, GB/s | x ours | ", end=""
    )
    print("iterations | violation | added memory |")
    print("|---" * 11 + "|")
    ours = {
        problem(r): float(r["seconds"])
        for r in found
        if r["solver"] == "sinkhorn_ot" and r["seconds"] and not r["memory_limit"]
    }
    for r in found:
        size = f"{int(r['n']):,} x {int(r['k']):,}"
        name = r["solver"] + (f" (limit {r['memory_limit']})" if r["memory_limit"] else "")
        print(f"| {size} | {r['family']} | {r['tol']} | {name} |", end=" ")
        if not r["seconds"]:
            print(f"{r['status']} | | | | | | |")
            continue
        seconds = float(r["seconds"])
        base = ours.get(problem(r))
        note = "" if r["status"] == "ok" else f" **{r['status']}**"
        print(
            f"{seconds:.3g} ({float(r['min']):.3g}-{float(r['max']):.3g}){note} | "
            f"{float(r['in_reads']):.1f} | {float(r['read_seconds']):.3g}, {r['gb_per_s']} | "
            f"{'-' if base is None else f'{seconds / base:.1f}'} | {r['n_iter']} | "
            f"{float(r['violation']):.1e} | {float(r['added']):.3f} |"
        )
    measured = Counter((r["machine"], r["versions"], r["solver"]) for r in found)
    print()
    for (where, what, solver), count in measured.items():
        print(f"- {solver}, {count} rows: {where}; {what}")


def plot(n: int, k: int) -> None:
    """Draw violation against time: a panel for each family, a line for each solver.

    Only what this machine measured is drawn. POT and OTT tell no curve, and are drawn as points.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = json.loads(CURVES.read_text())
    here, tol = machine(), "0.001"
    measured = [
        row
        for row in rows()
        if row["machine"] == here and (row["n"], row["k"], row["tol"]) == (str(n), str(k), tol)
        and row["solver"] in DRAWN and row["family"] in FAMILIES
        and row["seconds"] and not row["memory_limit"]
    ]  # fmt: skip
    if not measured:
        sys.exit(f"nothing of {n} x {k} to {tol} was measured on {here}: see compare.py run")
    pyplot.rcParams.update({"font.size": 11, "axes.titlesize": 12})
    figure, axes = pyplot.subplots(2, 3, figsize=(8, 5.2), sharex=True, sharey=True)
    panels = dict(zip(FAMILIES, axes.flat, strict=False))
    for row in measured:
        solver, color = row["solver"], f"C{list(DRAWN).index(row['solver'])}"
        curve = curves.get(f"{solver} {row['family']} {n}x{k} {tol}")
        curve = curve or [[float(row["seconds"]), float(row["violation"])]]
        panels[row["family"]].plot(*zip(*curve, strict=True), ".-", color=color, lw=1.5, ms=5)
    for family, axis in panels.items():
        axis.axhline(float(tol), color="0.5", lw=1, ls="--")
        axis.set(xscale="log", yscale="log")
        axis.set_title(family + "\n" + DEFINED[family], linespacing=1.3)
        axis.grid(alpha=0.3)
    for axis in axes.flat[2:5]:  # those below which there is none
        axis.set_xlabel("seconds")
        axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("violation")
    last = axes.flat[-1]
    last.axis("off")
    found = {row["solver"] for row in measured}
    for i, (solver, name) in enumerate(DRAWN.items()):
        if solver in found:
            last.plot([], [], ".-", color=f"C{i}", lw=2, ms=8, label=name)
    last.plot([], [], color="0.5", lw=1, ls="--", label=f"wanted: {tol}")
    last.legend(loc="center", frameon=False, title=f"{n:,} x {k:,}, float32\n{here}")
    figure.tight_layout()
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, dpi=180)
    print(PLOT)


if __name__ == "__main__":
    main()
