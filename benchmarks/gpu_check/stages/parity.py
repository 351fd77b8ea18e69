"""The kernels against the float64 reference: a minute's choice of the tests, then the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import machines

from gpu_check.machinery import HOST_LIBRARY, NAMES, machines_of
from gpu_check.stage import Stage

KERNELS = [
    "tests/kernels/test_gpu_parity.py",
    "tests/kernels/test_gpu_minibatch.py",
    "tests/kernels/test_gpu_solves.py",
]
DEVICE = "tests/gpu"
#: One test of everything that a solve is made of: reads in all dtypes, kept entries, labels, bad
#: rows, rows in chunks, the log domain, whole solves; and of codes of minibatches.
CHOICE = (
    "test_whole_solve_equals_the_reference or test_passes_equal_the_reference or "
    "test_the_first_bad_row_is_found or test_masses_far_below_the_smallest_float or "
    "test_kept_entries_equal_plain_arrays and 0.99 or test_the_same_bits_every_time or "
    "test_codes_equal_the_array_operations or test_batches_with_rows_that_do_not_count"
)
#: What the rehearsal takes of it.
SHORT_CHOICE = "test_passes_equal_the_reference and (257 or 9001) and float32"
#: How often a run whose process was lost is started anew.
RESTARTS = 6
#: Seconds that are left to the runs after one, so that none takes all.
RESERVE = 10.0
#: Failures whose message is recorded; the log has all.
TOLD = 12


def main(stage: Stage) -> None:
    """Run the choice on every machine, then what needs a device, then everything."""
    names = list(machines_of(stage))
    choice = SHORT_CHOICE if stage.rehearsal else CHOICE
    for number, name in enumerate(names):
        share = 0.4 * stage.left / (len(names) - number)
        run_tests(stage, f"choice, {name}", [*KERNELS, "-k", choice], name, share)
    if stage.rehearsal:
        # they need a GPU; that they can be found and imported is all that shows without one
        run_tests(stage, "device, only found", [DEVICE, "--collect-only"], "device", 100.0)
        return
    run_tests(stage, "device", [DEVICE], "device", 0.5 * stage.left)
    for number, name in enumerate(names):
        share = (stage.left - RESERVE) / (len(names) - number)
        run_tests(stage, f"all, {name}", KERNELS, name, share)


def run_tests(stage: Stage, what: str, tests: list[str], name: str, limit: float) -> None:
    """Run tests that have not run yet on a machine; record how many ended in which way.

    The notes of one machine are shared by its runs: what the choice ran is not run again.
    """
    if limit < 1:
        stage.record(left_out=what, reason="no time was left")
        return
    notes = Path.cwd() / f"outcomes_{name}.jsonl"
    before = len(notes.read_text().splitlines()) if notes.exists() else 0
    machine = name if name in NAMES[stage.device] else ",".join(NAMES[stage.device])
    command = [
        sys.executable, "-m", "pytest", *tests, "-q", "-p", "gpu_check.outcomes",
        "-p", "no:cacheprovider", "--tb=short", f"--basetemp={Path.cwd() / 'pytest'}",
    ]  # fmt: skip
    variables = {
        **os.environ,
        "GPU_CHECK_OUTCOMES": str(notes),
        "SINKHORN_OT_MACHINES": machine,
        machines.BUILT: str(stage.source / HOST_LIBRARY),
    }
    finished, ended, lost = stage.left - limit, "", 0
    while True:
        try:
            code = subprocess.run(
                command, cwd=stage.source, env=variables, check=False,
                timeout=max(stage.left - finished, 1),
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            ended = "its time was over"
            break
        if code in (0, 1, 5):  # all was run; 5: there was nothing left to run
            break
        if code in (2, 3, 4):
            ended = f"pytest itself failed (exit {code}); the log says why"
            break
        lost += 1
        if lost > RESTARTS:
            ended = f"the process was lost {lost} times (exit {code})"
            break
    stage.record(run=what, machine=name, ended=ended, **summary(notes, before, lost > 0))


def summary(notes: Path, before: int, lost: bool) -> dict[str, object]:
    """Count the outcomes that were noted after the first `before` lines.

    If the process was `lost`, a test that began and did not end is what took it down.
    """
    lines = notes.read_text().splitlines()[before:] if notes.exists() else []
    outcomes: dict[str, dict[str, object]] = {}
    for line in map(json.loads, lines):
        known = outcomes.get(line["test"])
        if known is None or line["outcome"] == "failed" or known["outcome"] == "begun":
            outcomes[line["test"]] = line
    counts = dict.fromkeys(("passed", "failed", "skipped", "begun"), 0)
    for one in outcomes.values():
        counts[str(one["outcome"])] += 1
    failures = [
        {"test": str(one["test"]).split("::")[-1], "why": one.get("why") or "took the process down"}
        for one in outcomes.values()
        if one["outcome"] == "failed" or (one["outcome"] == "begun" and lost)
    ]
    skipped = sorted({str(one["why"]) for one in outcomes.values() if one["outcome"] == "skipped"})
    return {
        "passed": counts["passed"],
        "failed": counts["failed"],
        "skipped": counts["skipped"],
        "unfinished": counts["begun"],
        "failures": failures[:TOLD],
        "skips": skipped,
    }
