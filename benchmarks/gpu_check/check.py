"""Run the stages, one after the other, and write down what they found after each of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gpu_check import page
from gpu_check.stages import STAGES, About

REPOSITORY = Path(__file__).parents[2]
#: What the check needs of the repository.
SOURCES = (
    "sinkhorn_ot", "selfsup", "csrc", "tests", "benchmarks", "docs", "setup.py", "pyproject.toml",
    "README.md", "LICENSE", "MANIFEST.in",
)  # fmt: skip
#: Names of the stages that the others need; `--stages` always runs them as well.
NEEDED = ("facts", "build")
#: Seconds that a stage may go on after its limit: it is expected to keep to that by itself.
GRACE = 5.0
#: Bytes that are kept of a log: its beginning and its end.
LOG_BYTES = 200_000


def why_no_gpu() -> str | None:
    """Return None, or why torch cannot use a GPU here."""
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) is built without CUDA"
    return None if torch.cuda.is_available() else "torch sees no GPU (is the driver there?)"


def run(out: Path, seconds: float, device: str, only: list[str] | None) -> int:
    """Run the check; return 0 if every stage was completed, else 1."""
    started = time.time()
    (out / "logs").mkdir(parents=True, exist_ok=True)
    stages = [s for s in STAGES if not only or s.name in only or s.name in NEEDED]
    results: dict[str, Any] = {
        "format": page.FORMAT,
        "device": device,
        "seconds": seconds,
        "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(started)),
        "commit": commit(),
        "stages": {},
    }
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as name:
        folder = Path(name)
        source = copy_sources(folder / "source")
        results["digest"] = digest(source)
        for stage in stages:
            left = max(started + seconds - time.time(), 1.0)
            limit = left * (1.0 if stage is stages[-1] else stage.most)
            print(f"{stage.name}: at most {limit:.0f} s", file=sys.stderr, flush=True)
            results["stages"][stage.name] = run_stage(stage, device, source, folder, out, limit)
            write(out, results)
    for line in page.lines_of(results):
        print(line)
    return int(any(s["outcome"] != "completed" for s in results["stages"].values()))


def run_stage(
    stage: About, device: str, source: Path, folder: Path, out: Path, limit: float
) -> dict[str, Any]:
    """Run one stage in a process of its own; return how it ended and what it recorded."""
    began = time.time()
    records, log = folder / f"{stage.name}.jsonl", out / "logs" / f"{stage.name}.txt"
    command = [
        sys.executable, "-m", "gpu_check.stage", stage.name, f"--device={device}",
        f"--source={source}", f"--records={records}", f"--deadline={began + limit}",
    ]  # fmt: skip
    work = folder / "work"
    work.mkdir(exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=work, env=environment(source, folder, device), stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(limit + GRACE)
            outcome = "completed" if code == 0 else f"failed: {last_line(log) or f'exit {code}'}"
        except subprocess.TimeoutExpired:
            outcome = f"stopped at its limit of {limit:.0f} s"
        finally:  # also what it started and left running
            stop(process)
    shorten(log)
    lines = records.read_text().splitlines() if records.exists() else []
    return {
        "outcome": outcome,
        "seconds": round(time.time() - began, 1),
        "records": [json.loads(line) for line in lines if line.endswith("}")],
    }


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a stage with all its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended, and left nothing
    finally:
        process.wait()


def environment(source: Path, folder: Path, device: str) -> dict[str, str]:
    """Return the environment of a stage: our sources first; caches in the temporary folder."""
    places = [source, source / "benchmarks", source / "tests", source / "tests" / "kernels"]
    before = os.environ.get("PYTHONPATH")
    caches = {
        name: str(folder / "caches" / name.lower())
        for name in (
            "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH", "XDG_CACHE_HOME",
            "MPLCONFIGDIR", "CUPY_CACHE_DIR", "TMPDIR",
        )
    }  # fmt: skip
    for place in caches.values():
        Path(place).mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        **caches,
        "PYTHONPATH": os.pathsep.join([*map(str, places), *([before] if before else [])]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # JAX would take most of the GPU's memory
        **({"TRITON_INTERPRET": "1"} if device == "cpu" else {}),
    }


def copy_sources(target: Path) -> Path:
    """Copy what the check needs, without compiled modules: those are built anew."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__", ".hypothesis", "results")
    for name in SOURCES:
        place = REPOSITORY / name
        if place.is_dir():
            shutil.copytree(place, target / name, ignore=ignored)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(place, target / name)
    return target


def digest(source: Path) -> str:
    """Return what tells these sources from others, where no commit does."""
    hashed = hashlib.sha256()
    for folder in ("sinkhorn_ot", "csrc", "selfsup"):
        for path in sorted((source / folder).rglob("*.*")):
            if path.is_file():
                hashed.update(path.read_bytes())
    return hashed.hexdigest()[:12]


def commit() -> str | None:
    """Return the commit that is checked out, marked if the files differ; None without git."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        done = subprocess.run(
            [*git, "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def last_line(log: Path) -> str:
    """Return the last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line[:300] for line in reversed(lines) if line), "")


def shorten(log: Path) -> None:
    """Take the middle out of a long log."""
    text = log.read_text(errors="replace")
    if len(text) > LOG_BYTES:
        half = LOG_BYTES // 2
        gone = f"\n\n... {len(text) - LOG_BYTES:,} characters are left out here ...\n\n"
        log.write_text(text[:half] + gone + text[-half:])


def write(out: Path, results: dict[str, Any]) -> None:
    """Write what is known so far."""
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "results.md").write_text("\n".join(page.lines_of(results)) + "\n")
