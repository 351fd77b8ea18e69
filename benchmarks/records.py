"""Tables of measurements: kept with what made them, and written into the pages that show them.

    python benchmarks/records.py    # writes all tables into the pages

A script that is started with `--save NAME` keeps its table in results/NAME.json, and with it the
command, the machine, versions, threads and load.  A page shows that between the lines

    <!-- table NAME -->
    <!-- end -->

as it shows the tables that are made of the suite's stored run (`bench codes`, `bench 256 x 64`) and
of the comparison with peers (`comparison 100000x1000`).  A test compares pages with records.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import compare
from machine import machine, told
from problems import DEFINED

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("**/*.md")]
Cell = float | str | None
#: A violation that is larger than the wanted one by more has not reached it.
NEARLY = 1.05
#: A table's place in a page: its name, and what stands there.
PLACE = re.compile(r"(<!-- table ([^>]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


class Table:
    """Prints rows as Markdown while they are measured, and keeps them if it has a name."""

    def __init__(self, columns: list[str], save: str | None, packages: Iterable[str]) -> None:
        self._path = None if save is None else RESULTS / f"{save}.json"
        threads = os.environ.get("OMP_NUM_THREADS")
        command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        self._record = {
            "command": re.sub(r" --save[ =]\S+", "", command),
            "machine": machine(),
            "threads": threads or str(len(os.sched_getaffinity(0))),
            "load": round(os.getloadavg()[0], 1),
            "date": time.strftime("%Y-%m-%d"),
            "versions": told(*packages),
            "columns": columns,
            "rows": [],
        }
        print("\n".join(heading(columns)), flush=True)

    def add(self, *cells: Cell) -> None:
        """Print a row, and keep it, its numbers to five digits."""
        row = [float(f"{x:.5g}") if isinstance(x, float) else x for x in cells]
        print(line(row), flush=True)
        self._record["rows"].append(row)
        if self._path is not None:
            whole = json.dumps({**self._record, "rows": []}, indent=1).removesuffix("[]\n}")
            rows = ",\n  ".join(map(json.dumps, self._record["rows"]))
            self._path.write_text(f"{whole}[\n  {rows}\n ]\n}}\n")


def heading(columns: list[str]) -> list[str]:
    """Return the first two lines of a table."""
    return [line(columns), "|" + "---|" * len(columns)]


def line(cells: Iterable[Cell]) -> str:
    """Return a row in Markdown: numbers to three digits, words as they are."""
    return "| " + " | ".join(map(_shown, cells)) + " |"


def _shown(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or cell == 0 or abs(cell) >= 999.5:
        return f"{cell:,.0f}"
    return f"{cell:.1e}" if abs(cell) < 1e-3 else f"{cell:.3g}"


def span(low: int, high: int) -> str:
    """Return a range in words, or the one number that it holds."""
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def kept(name: str) -> list[str]:
    """Return the table of results/NAME.json but for empty columns, and where it is from."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"no {path}: the script that measures it, with --save {name}")
    found = json.loads(path.read_text())
    used = [at for at, cells in enumerate(zip(*found["rows"], strict=True)) if set(cells) != {None}]
    return [
        *heading([found["columns"][at] for at in used]),
        *(line([row[at] for at in used]) for row in found["rows"]),
        "",
        f"`{found['command']}` on {found['date']}: {found['machine']}, {found['threads']} "
        f"thread{'s' if found['threads'] != '1' else ''}, load {found['load']} at its start; "
        f"{found['versions']} (benchmarks/results/{name}.json).",
    ]


#: The groups of the suite that make a table, by what their names begin and end with.
GROUPS = {
    "codes": ("codes, ", ""),
    "views": ("views, ", ""),
    "decoding": ("decoding, ", ""),
    "256 x 64": ("solve, ", ", 256 x 64, to 0.001"),
}


def of_suite(kind: str) -> list[str]:
    """Return groups of the suite's stored run: our median, and of each peer the multiple of it."""
    if kind not in GROUPS:
        raise ValueError(f"a page asks for 'bench {kind}'; there are {', '.join(GROUPS)}")
    run = json.loads((RESULTS / "bench.json").read_text())
    prefix, suffix = GROUPS[kind]
    medians: dict[str, dict[str, Cell]] = {}
    versions: dict[str, str | None] = {}
    for each in run["benchmarks"]:
        group = each["group"]
        if group.startswith(prefix) and group.endswith(suffix):
            problem = group.removeprefix(prefix).removesuffix(suffix)
            about, median = each["extra_info"], each["stats"]["median"]
            versions |= about["versions"]
            if group.startswith("solve") and not about["violation"] <= NEARLY * 1e-3:
                median = "not reached"
            medians.setdefault(problem, {})[about["solver"]] = median
    ours, *peers = next(iter(medians.values()))
    lines = heading([kind, f"{ours}, ms", *(f"{peer}, x" for peer in peers)])
    for problem, seconds in medians.items():
        own = seconds[ours]
        others = [each / own if isinstance(each := seconds.get(peer), float) else each
                  for peer in peers]  # fmt: skip
        lines.append(line([problem, 1e3 * own, *others]))
    about = run["machine_info"]
    return [
        *lines,
        "",
        f"By `make bench` on {run['datetime'][:10]}: {about['machine']}, "
        f"{about['threads']} threads; "
        f"{', '.join(f'{name} {number}' for name, number in versions.items() if number)} "
        "(benchmarks/results/bench.json).",
    ]


def of_comparison(size: str) -> list[str]:
    """Return the rows of one size of the comparison with peers, a line for each family.

    "1000000x1000 short" leaves out R, the second violation, and families that no peer was run on.
    """
    size, *short = size.split()
    n, k = size.split("x")
    rows = [
        row
        for row in compare.rows()
        if (row["n"], row["k"]) == (n, k) and row["seconds"] and not row["memory_limit"]
    ]
    ours = {(row["family"], row["tol"]): row for row in rows if row["solver"] == "sinkhorn_ot"}
    if not ours:
        raise ValueError(
            f"{compare.CSV} has no row of sinkhorn_ot at {size}, which a page asks for"
        )
    here = next(iter(ours.values()))["machine"]
    tols = sorted({tol for _, tol in ours}, key=float, reverse=True)[: 1 if short else None]
    others = {
        (row["family"], row["solver"]): row
        for row in rows
        if row["tol"] == "0.001" and row["machine"] == here
    }
    peers = [peer for peer in compare.PEERS if any(solver == peer for _, solver in others)]
    fields = {"seconds": "seconds", "reads": "reads"} | ({} if short else {"in_reads": "times R"})
    columns = ["logits"]
    for tol in tols:
        ours_to = f"to {float(tol):.0e}".replace("e-0", "e-") if len(tols) > 1 else "sinkhorn_ot"
        columns += [f"{ours_to}: {name}" for name in fields.values()]
    lines = heading([*columns, *(f"{compare.DRAWN[peer]}: seconds" for peer in peers)])
    for family in dict.fromkeys(family for family, _ in ours):
        if short and not any((family, peer) in others for peer in peers):
            continue
        cells: list[Cell] = [f"{family} ({DEFINED[family]})"]
        for tol in tols:
            row = ours.get((family, tol), {})
            cells += [float(row[field]) if row else None for field in fields]
        for peer in peers:
            row = others.get((family, peer))
            if row is None:
                cells.append(None)
            elif not float(row["violation"]) <= NEARLY * float(row["tol"]):  # or NaN
                cells.append("not reached")
            else:
                own, seconds = float(ours[family, "0.001"]["seconds"]), float(row["seconds"])
                cells.append(f"{_shown(seconds)}, x {_shown(seconds / own)}")
        lines.append(line(cells))
    where = {(row["machine"], row["versions"]) for row in [*ours.values(), *others.values()]}
    about = "; ".join(f"{machine}, {versions}" for machine, versions in sorted(where))
    made = (
        "By `make bench-million`, which goes on with what the file lacks (benchmarks/results/"
        f"comparison.csv): {about}. A cell without a number was not run."
    )
    return lines if short else [*lines, "", made]


#: What makes a table whose name begins so, of the rest of the name.
MADE: dict[str, Callable[[str], list[str]]] = {"bench ": of_suite, "comparison ": of_comparison}


def table(name: str) -> list[str]:
    """Return the lines of a table."""
    for beginning, make in MADE.items():
        if name.startswith(beginning):
            return make(name.removeprefix(beginning))
    return kept(name)


def filled(page: str) -> str:
    """Return a page with its tables made anew."""
    return PLACE.sub(lambda place: place[1] + "\n".join(table(place[2])) + "\n" + place[4], page)


def main() -> None:
    """Write the tables into their pages."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for path in PAGES:
        text = path.read_text()
        if filled(text) != text:
            path.write_text(filled(text))
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
