"""SeLa's experiments on CIFAR-10: ``python benchmarks/sela run methods --data cifar10.zip``.

``run`` trains and evaluates what has no record under ``benchmarks/sela/results`` yet, and goes on
with trainings that were stopped. Several processes can do so at once, each with one thread
(``OMP_NUM_THREADS=1``): bits, and so results, depend on the threads. ``pages`` makes
``docs/results`` of the records.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a folder, it is not yet a package

from sela import frozen, pages, runs
from sela.experiments import EXPERIMENTS, THREE


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/sela", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and evaluate what has no record yet")
    run.add_argument("experiments", nargs="+", choices=[*EXPERIMENTS, "frozen"],
                     metavar="EXPERIMENT", help=", ".join([*EXPERIMENTS, "frozen"]))  # fmt: skip
    run.add_argument("--data", type=Path, required=True, help="CIFAR-10: a folder, or a zip file")
    run.add_argument("--runs", type=Path, default=Path("runs/sela"), help="where the runs go")
    run.add_argument("--seeds", type=int, nargs="+", default=None, help="of those planned")
    commands.add_parser("pages", help="make docs/results of the records")
    args = parser.parse_args()
    if args.command == "pages":
        pages.write()
        return
    rows = [row for name in args.experiments if name != "frozen"
            for row in EXPERIMENTS[name].rows]  # fmt: skip
    work = runs.Work(args.data.resolve(), args.runs.resolve())
    # the first seed of all first: a table with one seed comes before one with three
    for seed in sorted({seed for row in rows for seed in row.seeds}):
        for row in rows:
            if seed in row.seeds and (args.seeds is None or seed in args.seeds):
                runs.work_on(row.training, seed, work)
    for seed in THREE if "frozen" in args.experiments else ():
        if args.seeds is None or seed in args.seeds:
            frozen.work_on(seed, work)


if __name__ == "__main__":
    main()
