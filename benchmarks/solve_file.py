"""A file is labelled by the command line: seconds, and the peak of anonymous memory.

    python benchmarks/solve_file.py                       # 2,000,000 x 1,000 float16: 4 GB
    python benchmarks/solve_file.py --rows 20000

The file is written to a temporary folder (TMPDIR says where).  Anonymous memory (RssAnon of
/proc/PID/status, looked at each 5 ms) is all that the process holds but for the pages of mapped
files, which the system takes back when it needs them; Python and NumPy are in it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from records import Table, span

BLOCK = 20_000
COLUMNS = ["float16 logits", "GB", "command", "seconds", "anonymous memory, GB", "sizes"]


def write(path: Path, n: int, k: int) -> None:
    """Write normal float16 logits, block by block."""
    rng = np.random.default_rng(0)
    logits = np.lib.format.open_memmap(path, "w+", np.float16, (n, k))
    for start in range(0, n, BLOCK):
        rows = logits[start : start + BLOCK]
        rows[:] = rng.standard_normal(rows.shape, np.float32)
    logits.flush()


def anonymous(pid: int) -> int:
    """Bytes of anonymous memory that a process holds; 0 once it has ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Print a line for `solve`, and one for `solve --exact`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--k", type=int, default=1_000)
    parser.add_argument("--memory-limit", type=int)
    parser.add_argument("--save", metavar="NAME", help="keep the table in results/NAME.json")
    options = parser.parse_args()
    table = Table(COLUMNS, options.save, ["numpy"])
    with tempfile.TemporaryDirectory() as folder:
        logits, labels = Path(folder, "logits.npy"), Path(folder, "labels.npy")
        write(logits, options.rows, options.k)
        command = [sys.executable, "-m", "sinkhorn_ot", "solve", str(logits), "-o", str(labels)]
        if options.memory_limit is not None:
            command += ["--memory-limit", str(options.memory_limit)]
        for exact in ([], ["--exact"]):
            start, peak = time.perf_counter(), 0
            process = subprocess.Popen([*command, *exact], stdout=subprocess.DEVNULL)
            while process.poll() is None:
                peak = max(peak, anonymous(process.pid))
                time.sleep(0.005)
            seconds = time.perf_counter() - start
            if process.returncode:
                sys.exit(f"solve ended with status {process.returncode}")
            counts = np.bincount(np.load(labels), minlength=options.k)
            table.add(
                f"{options.rows:,} x {options.k:,}", logits.stat().st_size / 1e9,
                " ".join(["solve", *exact]), seconds, peak / 1e9,
                span(int(counts.min()), int(counts.max())),
            )  # fmt: skip


if __name__ == "__main__":
    main()
