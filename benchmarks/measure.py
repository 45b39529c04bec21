"""How benchmarks measure, compare and record: one job, every side in its own process, medians."""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.runners.exchange import Answer, Job

HERE = Path(__file__).parent
CACHE = HERE / ".cache"
RESULTS = HERE / "results"
_RUNNERS = HERE / "runners"
_ENVIRONMENTS = {
    "bergson": "bergson",
    "captum": "torch",
    "dattri": "torch",
    "kronfluence": "torch",
    "logix": "logix",
    "traker": "torch",
    "pydvl": "pydvl",
    "tree_influence": "trees",
}


@dataclass(frozen=True)
class Options:
    """What the command line of every benchmark takes.

    Attributes:
        peers: Folder of the peers' environments, or None to leave them out.
        threads: Threads for every side.
        repeats: Repetitions of every timed piece of work.
        reduced: A small version of the same work, for tests.
    """

    peers: Path | None
    threads: int
    repeats: int
    reduced: bool


def options(description: str | None) -> Options:
    """Read ``[--peers [DIR]] [--threads N] [--repeats N] [--reduced]``, and hold this process to the threads."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument(
        "--peers",
        nargs="?",
        const=".venv-peers",
        help="put the peers beside us; DIR as made by benchmarks/peers.sh, .venv-peers if not given",
        metavar="DIR",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads for every side")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions; the median is reported")
    parser.add_argument("--reduced", action="store_true", help="a small version, to see that it runs")
    given = parser.parse_args()
    if given.peers and not any(Path(given.peers).glob("*/.ready")):
        parser.error(f"{given.peers} holds no peers: bash benchmarks/peers.sh {given.peers}")
    torch.set_num_threads(given.threads)
    threadpool_limits(given.threads)  # of the libraries loaded by now: NumPy's, SciPy's, OpenMP
    return Options(Path(given.peers) if given.peers else None, given.threads, given.repeats, given.reduced)


def run(runner: str, job: Job, peers: Path | None) -> Answer:
    """One job by one runner, in a process of its own; ours are ``steelyard`` and ``trees``.

    Raises:
        RuntimeError: If the runner failed, with the end of what it said, or its environment is not installed.
    """
    if runner in ("steelyard", "trees"):
        python = Path(sys.executable)
    else:
        assert peers is not None, f"{runner} was asked for without --peers"
        name = _ENVIRONMENTS[runner]
        if not (peers / name / ".ready").exists():
            raise RuntimeError(f"{peers}/{name} is not installed: bash benchmarks/peers.sh {peers} {name}")
        python = peers.absolute() / name / "bin" / "python"
    threads = {f"{library}_NUM_THREADS": str(job.threads) for library in ("OMP", "MKL", "OPENBLAS")}
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "job.npz", Path(folder) / "answer.npz"
        job.write(given)
        done = subprocess.run(
            [str(python), str(_RUNNERS / f"run_{runner}.py"), str(given), str(found)],
            env={**os.environ, **threads},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{runner} {job.method} failed:\n{done.stderr[-2000:]}")
        return Answer.read(found)


def median_seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median wall time of some work, after one call that is not counted."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table."""
    cells = [[str(name) for name in head], *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(head))]
    print(f"\n{title}")
    for number, row in enumerate(cells):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def record(name: str, given: Options, results: dict[str, Any]) -> None:
    """Write the results beside machine, versions and command as JSON; reduced runs are not recorded."""
    if given.reduced:
        return
    RESULTS.mkdir(exist_ok=True)
    facts = {
        "benchmark": name,
        "command": f"python -m benchmarks.{name}" + (" --peers" if given.peers else ""),
        "date": datetime.now(UTC).date().isoformat(),
        "threads": given.threads,
        "repeats": given.repeats,
        "machine": machine(),
        "versions": versions(),
        "results": results,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {path.relative_to(HERE.parent)}")


def machine() -> dict[str, Any]:
    """Processor, cores, system and Python."""
    name = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "accelerator": "none",
    }


def versions() -> dict[str, str]:
    """Versions of what our side ran on."""
    found = {}
    for name in ("steelyard", "torch", "numpy", "scipy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source tree"
    return found


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
