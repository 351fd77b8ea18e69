"""The page of a check: what ran where and when, tables, and what failed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_check.stages import STAGES

NOTHING = "No GPU has run any of this yet."
HEADER = """\
# What ran on GPUs

Made by `python benchmarks/gpu_check --page docs/gpu_results.md RESULTS.json ...` of what
`python benchmarks/gpu_check --out DIR` found on each machine.
"""
#: Of a read's time.
BESIDE = (
    "; in parentheses its bytes a second over those of a device-to-device copy, which reads and "
    "writes {:.2f} TB/s in all"
)
#: Of a sanitizer; None where it came to none.
VERDICTS = {True: "yes", False: "**no**", None: "no verdict"}
Record = dict[str, Any]
#: Version of the layout of results.json.
FORMAT = 1
#: Failures and refusals that the page shows of a stage; results.json has more.
SHOWN = 8


def write(target: Path, sources: list[Path]) -> int:
    """Write the page of some results; of none, a line that says so."""
    found = []
    for source in sources:
        try:
            results = json.loads(source.read_text())
            if not isinstance(results, dict) or results.get("format") != FORMAT:
                raise ValueError(f"it has no format {FORMAT}")
            found.append((results["started"], results))
        except (OSError, ValueError) as error:
            print(
                f"{source}: not the results.json of a check ({error}); nothing is written",
                file=sys.stderr,
            )
            return 2
    rehearsals = [s for s, (_, r) in zip(sources, found, strict=True) if r["device"] != "cuda"]
    if rehearsals:
        print(f"{rehearsals[0]}: a rehearsal without a GPU has no place on the page",
              file=sys.stderr)  # fmt: skip
        return 2
    pages = ["\n".join(lines_of(results, level=2)) for _, results in sorted(found, key=started)]
    target.write_text("\n\n".join([HEADER, *(pages or [NOTHING])]) + "\n")
    print(f"{target}: {len(pages)} checks")
    return 0


def started(found: tuple[str, Record]) -> str:
    """Return when a check began."""
    return found[0]


def lines_of(results: Record, level: int = 1) -> list[str]:
    """Return the page of one check, at most 100 lines."""
    stages = results["stages"]
    lines = [f"{'#' * level} {title(results)}", "", *about(results), ""]
    lines += table(
        ["stage", "what it does", "seconds", "outcome"],
        [
            [about.name, about.purpose, stages[about.name]["seconds"],
             stages[about.name]["outcome"]]
            for about in STAGES
            if about.name in stages
        ],
    )  # fmt: skip
    told: set[str] = set()
    for name, section in SECTIONS.items():
        records = stages.get(name, {}).get("records", [])
        if records:
            lines += ["", *section(records, results["device"] == "cpu"), *trouble(records, told)]
    return lines


def title(results: Record) -> str:
    """Return the GPU and the day."""
    records = results["stages"].get("facts", {}).get("records", [])
    names = [
        record["name"] for record in records if record.get("what") == "gpu" and "name" in record
    ]
    return f"{(names or ['an unknown GPU'])[0]}, {results['started']}"


def about(results: Record) -> list[str]:
    """Return versions and sources, in a few sentences."""
    records = results["stages"].get("facts", {}).get("records", [])
    facts: Record = {}
    for record in records:
        facts.update(record)
    packages = ", ".join(f"{name} {version}" for name, version in facts.get("packages", {}).items())
    place = f"Commit {results['commit']}" if results["commit"] else "No commit is known"
    lines = [
        f"{place}, sources {results['digest']}; {results['seconds']:.0f} s were given.",
        f"Python {facts.get('python')} on {facts.get('system')}, {facts.get('processors')} "
        f"processors; {packages}.",
    ]
    if "multiprocessors" in facts:
        lines.append(
            f"Compute capability {facts['capability']}, {facts['multiprocessors']} "
            f"multiprocessors, {facts['memory_gb']} GB, {facts['l2_mb']} MB of second-level cache, "
            f"CUDA {facts['cuda']}."
        )
    lines += [
        f"nvidia-smi (name, driver, clocks now and at most, power, ECC): {line}."
        for line in facts.get("nvidia_smi", "").splitlines()[1:2]
    ]
    if results["device"] == "cpu":
        lines.append("**A rehearsal without a GPU: the times below mean nothing.**")
    return lines


def build(records: list[Record], _: bool) -> Iterator[str]:
    """Say what was built."""
    for record in records:
        if record.get("what") == "modules" and "modules" in record:
            yield (
                f"Built for {record['arch']} in {record['seconds']} s: "
                f"{', '.join(record['modules']) or 'nothing'}."
            )
            if "without_cuda" in record:
                yield f"No CUDA kernels: {record['without_cuda']}"
        if record.get("what") == "host harness" and "seconds" in record:
            yield f"The kernels were compiled for the host in {record['seconds']} s."
        if record.get("what") == "backends":
            names = (f"{k}: {v}" for k, v in record.items() if k != "what")
            yield f"Backends: {'; '.join(names)}."


def parity(records: list[Record], _: bool) -> Iterator[str]:
    """Tabulate the outcomes of the tests."""
    runs = [record for record in records if "run" in record]
    yield (
        "Tests of the kernels. *Choice* is a test of each thing that a solve is made of, against "
        "the float64 reference; *all* are the other tests of that kind; *device* are those of what "
        "only a GPU shows: streams, graphs, memory."
    )
    yield ""
    yield from table(
        ["tests", "passed", "failed", "skipped", "ended early"],
        [
            [r["run"], r["passed"], r["failed"], r["skipped"], r["ended"] or "no"]
            for r in runs
        ],
    )  # fmt: skip
    failures = [{**failure, "run": run["run"]} for run in runs for failure in run["failures"]]
    if failures:
        yield ""
        for failure in failures[:SHOWN]:
            yield f"- {failure['run']}: `{failure['test']}`: {failure['why'][:160]}"
        if len(failures) > SHOWN:
            yield f"- and {len(failures) - SHOWN} more"


def reads(records: list[Record], rehearsal: bool) -> Iterator[str]:
    """Tabulate the reads."""
    copies = [r["bytes_per_second"] for r in records if "bytes_per_second" in r]
    copy = copies[0] if copies else float("nan")
    yield (
        f"One read in milliseconds{'' if rehearsal else BESIDE.format(copy / 1e12)}. *Host* is "
        "the time of queueing a read, *model* that of [gpu_kernels.md](gpu_kernels.md)."
    )
    yield ""
    kinds = ("masses", "labels", "kept entries", "log domain")
    cases: dict[tuple[Any, ...], dict[str, Record]] = {}
    for r in records:
        if "device" in r:
            key = (f"{r['n']:,} x {r['k']:,}", r["dtype"], r["machine"])
            cases.setdefault(key, {})[r["kind"]] = r
    rows = []
    for key, found in cases.items():
        cells = []
        for kind in kinds:
            r = found.get(kind, {})
            part = r.get("gigabytes", 0.0) * 1e9 / (1e-3 * r.get("device", math.nan)) / copy
            shown = f"{r['device']:.3g}" if r else ""
            cells.append(shown + (f" ({part:.2f})" if r and not rehearsal else ""))
        some = next(iter(found.values()))
        model = some["model"]
        rows.append([*key, *cells, f"{some['host']:.2f}", f"{model:.2f}" if model else ""])
    yield from table(["logits", "dtype", "kernels", *kinds, "host", "model"], rows)


def solves(records: list[Record], _: bool) -> Iterator[str]:
    """Tabulate our solves, and the peers beside them."""
    ours = [r for r in records if r.get("what") == "ours" and "seconds" in r]
    peers = [r for r in records if r.get("what") == "peer" and "seconds" in r]
    yield (
        "Solves from logits to labels: milliseconds / reads / waits of the host; in parentheses "
        "the violation recomputed in float64. *GB* is the most memory above input and results."
    )
    yield ""
    groups: dict[tuple[Any, ...], Record] = {}
    for r in ours:
        key = (r["family"], f"{r['n']:,} x {r['k']:,}", r["dtype"], r["solver"])
        groups.setdefault(key, {})[r["tol"]] = r
    rows = []
    for key, found in groups.items():
        cells = [solve_cell(found.get(tol)) for tol in (1e-3, 1e-6)]
        peaks = [r["peak_gb"] for r in found.values() if r["peak_gb"] is not None]
        rows.append([*key, *cells, f"{max(peaks):.3f}" if peaks else ""])
    yield from table(["family", "logits", "dtype", "kernels", "to 1e-3", "to 1e-6", "GB"], rows)
    if not peers:
        return
    yield ""
    yield "Peers, float32 logits, to 1e-3: milliseconds, multiples of our fastest (violation)."
    yield ""
    names = list(dict.fromkeys(r["solver"] for r in peers))
    rows = []
    for family, n, k in dict.fromkeys((r["family"], r["n"], r["k"]) for r in peers):
        same = [r for r in peers if (r["family"], r["n"], r["k"]) == (family, n, k)]
        best = [
            r["seconds"]
            for r in ours
            if (r["family"], r["n"], r["k"], r["dtype"], r["tol"])
            == (family, n, k, "float32", 1e-3)
        ]
        cells = []
        for name in names:
            r = next((r for r in same if r["solver"] == name), None)
            times = f", x {r['seconds'] / min(best):.3g}" if r and best else ""
            cells.append(f"{1e3 * r['seconds']:.4g}{times} ({r['violation']:.0e})" if r else "")
        rows.append([family, f"{n:,} x {k:,}", *cells])
    yield from table(["family", "logits", *names], rows)


def solve_cell(r: Record | None) -> str:
    """Return one solve of ours in a cell."""
    if r is None:
        return ""
    waits = "" if r["waits"] is None else f" / {r['waits']}"
    end = "" if r["converged"] else ", not converged"
    return f"{1e3 * r['seconds']:.4g} / {r['reads']}{waits} ({r['violation']:.0e}{end})"


def bits(records: list[Record], _: bool) -> Iterator[str]:
    """Say whether all bits were the same."""
    for r in records:
        if "different" not in r:
            continue
        wrong = {what: n for what, n in r["different"].items() if n}
        told = "; ".join(f"{n} differ when {what}" for what, n in wrong.items())
        yield f"Bits, {r['machine']}, {r['dtype']}: " + (told or "all solves gave the same") + "."


def sanitize(records: list[Record], _: bool) -> Iterator[str]:
    """Tabulate the sanitizers' verdicts."""
    found = [r for r in records if r.get("what") == "sanitizer" and "ended" in r]
    yield "Every kernel on small shapes under compute-sanitizer:"
    yield ""
    yield from table(
        ["tool", "kernels", "clean", "summary", "where in our kernels"],
        [
            [r["tool"], r["machine"], VERDICTS[r["clean"]], r["ended"],
             "; ".join(r.get("ours", []))[:160]]
            for r in found
        ],
    )  # fmt: skip
    for r in records:
        if r.get("what") == "ncu" and "machine" in r:
            values = "; ".join(f"{k}: {v}" for k, v in r.items() if k not in ("what", "machine"))
            yield ""
            yield f"ncu on the float32 read of 1,000,000 x 1,000, {r['machine']}: {values}."


def learn(records: list[Record], _: bool) -> Iterator[str]:
    """Say how fast selfsup trained, and what came of the digits."""
    for r in records:
        if "images_per_second" in r:
            shares = ", ".join(f"{part} {share:.0%}" for part, share in r["shares"].items())
            yield (
                f"selfsup, {r['arch']}, batches of {r['batch']} at {r['size']} pixels, "
                f"{r['precision']}: {r['images_per_second']:,.0f} images/s; where a renewal of the "
                f"labels for each epoch takes part and every part is waited for: {shares}."
            )
        if r.get("what") == "digits" and "nmi" in r:
            yield (
                f"selfsup, digits, {r['epochs']} epochs in {r['seconds']} s: NMI {r['nmi']:.3f}, "
                f"accuracy {r['accuracy']:.3f}."
            )


SECTIONS = {
    "build": build,
    "parity": parity,
    "reads": reads,
    "solves": solves,
    "bits": bits,
    "sanitize": sanitize,
    "learn": learn,
}


def trouble(records: list[Record], told: set[str]) -> Iterator[str]:
    """List what could not be run and what failed, but for what was told already."""
    lines = []
    for r in records:
        keys = ("what", "solver", "machine", "family", "kind", "dtype", "tool", "network")
        name = ", ".join(str(r[key]) for key in keys if key in r)
        if "error" in r:
            lines.append(f"- {name or 'a step'} failed: {r['error'][:200]}")
        elif "left_out" in r:
            lines.append(f"- left out: {r['left_out']} ({r['reason']})")
        elif "machine" in r and "unavailable" in r:
            lines.append(f"- {r['machine']} cannot run: {r['unavailable'][:200]}")
    absent = sorted({r["solver"] for r in records if r.get("unavailable") == "not installed"})
    if absent:
        lines.append(f"- not installed: {', '.join(absent)}")
    unique = [line for line in dict.fromkeys(lines) if line not in told]
    told.update(unique)
    if unique:
        yield ""
    yield from unique[:SHOWN]
    if len(unique) > SHOWN:
        yield f"- and {len(unique) - SHOWN} more lines of this kind in results.json"


def table(titles: list[str], rows: list[list[Any]]) -> Iterator[str]:
    """Return a table in Markdown."""
    yield f"| {' | '.join(titles)} |"
    yield "|" + "---|" * len(titles)
    for row in rows:
        yield f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |"
