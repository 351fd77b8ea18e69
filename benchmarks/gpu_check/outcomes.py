"""A pytest plugin: notes each test's outcome at once, and goes on where a lost run stopped.

Notes go to the file that GPU_CHECK_OUTCOMES names. A test that is noted there is not run again; one
that had begun and has no outcome took the process down. After an error that leaves the GPU's
context unusable every later test would fail, so the process ends and is started anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

NOTES = Path(os.environ["GPU_CHECK_OUTCOMES"])
#: What a run exits with when its GPU context is lost.
LOST = 41


def noted(path: Path = NOTES) -> Iterator[dict[str, Any]]:
    """Return what has been noted, line by line."""
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def note(**values: Any) -> None:
    """Add a line."""
    with NOTES.open("a") as file:
        file.write(json.dumps(values) + "\n")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what has begun in an earlier run."""
    done = {line["test"] for line in noted()}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
    items[:] = [item for item in items if item.nodeid not in done]


def pytest_runtest_logstart(nodeid: str) -> None:
    """Note that a test begins."""
    note(test=nodeid, outcome="begun")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how it ended; a failure with the line that says why."""
    if report.when != "call" and report.outcome == "passed":
        return
    why = ""
    if report.outcome == "failed":
        lines = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
        why = " ".join(line[1:].strip() for line in lines[:2])[:400]
    elif report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        why = str(report.longrepr[2])[:200]
    note(test=report.nodeid, outcome=report.outcome, seconds=round(report.duration, 2), why=why)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """End the run if the GPU cannot be used any more."""
    if torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            pytest.exit(f"the GPU context is lost: {error}", returncode=LOST)
