"""What a stage is given, and how it says what it found: a line of JSON for each record."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Stage:
    """The surroundings of a stage: it runs in a process of its own, and may be ended at any time.

    What was recorded before that is kept.
    """

    device: str  # "cuda", or "cpu" for the rehearsal
    source: Path  # a copy of the repository, in which the compiled modules are built
    records: Path
    deadline: float  # seconds since the epoch

    @property
    def rehearsal(self) -> bool:
        """Whether there is no GPU: sizes are then small, and times mean nothing."""
        return self.device == "cpu"

    @property
    def left(self) -> float:
        """Seconds until the stage should be done."""
        return self.deadline - time.time()

    def record(self, **values: Any) -> None:
        """Keep what was found, and say it in the log."""
        line = json.dumps(values)
        with self.records.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def has_time_for(self, seconds: float, what: str) -> bool:
        """Whether that many seconds are left; if not, record that `what` was left out."""
        if self.left >= seconds:
            return True
        self.record(left_out=what, reason=f"{max(self.left, 0):.0f} s were left")
        return False

    def attempt(self, what: str, work: Callable[[], dict[str, Any]], **about: Any) -> None:
        """Record what `work` returns, or the error that it ended with; and what it was `about`.

        An error that leaves the GPU's context unusable ends the stage: all that comes after it
        would fail for no fault of its own.
        """
        try:
            found = work()
        except Exception as error:  # noqa: BLE001  (of any kind: it is what the check is to report)
            found = {"error": f"{type(error).__name__}: {error}".strip()[:600]}
        self.record(what=what, **about, **found)
        if "error" in found and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
            try:
                torch.cuda.synchronize()
            except RuntimeError as error:
                sys.exit(f"the GPU context is lost: {error}")


def main() -> None:
    """Run one stage: the command that check.py starts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--device", required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--deadline", type=float, required=True)
    options = parser.parse_args()
    stage = Stage(options.device, options.source, options.records, options.deadline)
    importlib.import_module(f"gpu_check.stages.{options.name}").main(stage)


if __name__ == "__main__":
    sys.exit(main())
