"""The command line of the GPU check; see ``python benchmarks/gpu_check --help``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a folder, it is not yet a package

from gpu_check import check, page
from gpu_check.stages import STAGES

DESCRIPTION = """\
Build, prove and measure sinkhorn_ot and selfsup on this machine's GPU, with the python that runs
this script and without a network. DIR receives results.json, results.md and a log for each stage
(at most 4 MB in all); nothing else is written outside a temporary folder. A stage that fails or
runs out of time does not stop the next one. The exit code is 0 if all stages were completed; what
they found, failed tests too, is in results.md.
"""


def main() -> int:
    """Run the command line; return 0 if every stage was completed, whatever it found."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/gpu_check",
        description=DESCRIPTION,
        epilog="stages: " + "; ".join(f"{s.name}: {s.purpose}" for s in STAGES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the results go")
    parser.add_argument(
        "--seconds", type=float, default=600, metavar="N", help="for all stages together (600)"
    )
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda",
        help="cpu rehearses every stage at small sizes, without a GPU; its times mean nothing",
    )  # fmt: skip
    parser.add_argument(
        "--stages", nargs="+", choices=[s.name for s in STAGES], metavar="NAME",
        help="run these stages alone, and build what they need",
    )  # fmt: skip
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the page of the RESULTS instead of a check"
    )
    parser.add_argument("results", nargs="*", type=Path, metavar="RESULTS", help="results.json")
    options = parser.parse_args()
    if options.page is not None:
        if options.out is not None:
            parser.error("--page makes a page of finished results; it takes no --out")
        return page.write(options.page, options.results)
    if options.out is None:
        parser.error("--out DIR is missing: where shall the results go?")
    if options.results:
        parser.error(f"{options.results[0]}: results are read for --page only")
    if not options.seconds >= 30:
        parser.error(f"--seconds must be at least 30, got {options.seconds:g}")
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out {options.out} is a file; name a folder")
    if options.device == "cuda":
        reason = check.why_no_gpu()
        if reason:
            parser.error(f"{reason}; --device cpu rehearses the check without a GPU")
    return check.run(options.out, options.seconds, options.device, options.stages)


if __name__ == "__main__":
    sys.exit(main())
