"""Compares a run of ``make bench`` with a stored one, which another machine may have made.

    python benchmarks/guard.py build/bench.json [--stored FILE] [--tolerance 0.5]

Seconds of two machines say nothing. So each of our benchmarks is compared with what was measured
beside it in the same run: with R, one read of its array by all threads, and with the yardstick of
its group, where it has one that runs nothing of ours. It has worsened if it takes more multiples of
both than in the stored run, by more than the tolerance: a regression of ours raises both, a faster
memory, another processor or another torch mostly one. Where there is no yardstick, R alone decides.
Exits with 1, and names what has worsened.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

STORED = Path(__file__).parent / "results" / "bench.json"
#: Two runs of the same code on two busy cores differ by less.
TOLERANCE = 0.5
#: So many that were not measured are named.
FEW = 5


def multiples(run: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return, for each benchmark of ours, its time over R and over that of its yardstick."""
    yardsticks = {
        each["group"]: each
        for each in run["benchmarks"]
        if each["extra_info"]["role"] == "yardstick"
    }
    found = {}
    for each in run["benchmarks"]:
        if each["extra_info"]["role"] == "ours":
            seconds = each["stats"]["median"]
            found[each["name"]] = {"R": seconds / each["extra_info"]["R"]}
            if each["group"] in yardsticks:
                other = yardsticks[each["group"]]
                found[each["name"]][other["extra_info"]["solver"]] = (
                    seconds / other["stats"]["median"]
                )
    return found


def changes(new: dict[str, Any], stored: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return, for each benchmark of both runs, how many times its multiples are the stored ones."""
    now, then = multiples(new), multiples(stored)
    return {
        name: {unit: now[name][unit] / then[name][unit] for unit in now[name] if unit in then[name]}
        for name in now
        if name in then
    }


def worsened(changed: dict[str, dict[str, float]], tolerance: float) -> list[str]:
    """Return the names of benchmarks whose multiples have all risen by more than `tolerance`."""
    return [name for name, by in changed.items() if min(by.values()) > 1 + tolerance]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="what pytest --benchmark-json has written")
    parser.add_argument("--stored", type=Path, default=STORED)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    options = parser.parse_args()
    new, stored = (json.loads(path.read_text()) for path in (options.run, options.stored))
    threads, before = (run["machine_info"]["threads"] for run in (new, stored))
    if threads != before:
        print(
            f"this run is of {threads} threads, the stored one of {before}: they are not "
            "comparable in R, which is read by all threads"
        )
    now, changed = multiples(new), changes(new, stored)
    if not changed:
        sys.exit(f"{options.run} and {options.stored} have no benchmark in common: other sizes?")
    for name, by in changed.items():
        told = [f"{now[name][unit]:.3g} {unit} (x {by[unit]:.2f})" for unit in by]
        print(f"{name:60s} {', '.join(told)}")
    missing = sorted(multiples(stored).keys() - now.keys())
    if missing:
        told = ", ".join(missing) if len(missing) <= FEW else f"{len(missing)} benchmarks"
        print(f"stored, but not measured now: {told}")
    found = worsened(changed, options.tolerance)
    if found:
        sys.exit(f"worse than stored by more than {options.tolerance:.0%}: {', '.join(found)}")
    print(f"none of {len(changed)} is worse than stored by more than {options.tolerance:.0%}")


if __name__ == "__main__":
    main()
