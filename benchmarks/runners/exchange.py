"""What a benchmark and a runner hand to each other: one npz file each way.

Every side of a comparison, ours included, runs in a process of its own, reads the same job, keeps to the same
number of threads, and is timed by the same loop. Runners answer in our convention: ``scores[train, query]``,
positive means that training on the example helps the query. This file imports nothing of ours, because peers
live in other environments.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Job:
    """One piece of work for one runner.

    Attributes:
        method: What to compute; each runner lists the names it knows.
        settings: The method's settings.
        train: Inputs and labels of the training examples.
        query: Inputs and labels of the queries.
        states: Parameters of the models, by their torch names; empty where no network is involved.
        activation: Between the linear layers: ``"tanh"`` or ``"relu"``.
        penalty: Coefficient of half the squared parameters in the mean training loss; peers do not ask for it.
        threads: Number of threads for everything.
        repeats: How often the work is done and timed.
    """

    method: str
    settings: dict[str, Any]
    train: tuple[np.ndarray, np.ndarray]
    query: tuple[np.ndarray, np.ndarray]
    states: tuple[dict[str, np.ndarray], ...] = ()
    activation: str = "relu"
    penalty: float = 0.0
    threads: int = 1
    repeats: int = 3

    def write(self, path: Path) -> None:
        """Save the job as npz."""
        arrays = {"x": self.train[0], "y": self.train[1], "xq": self.query[0], "yq": self.query[1]}
        for number, state in enumerate(self.states):
            arrays |= {f"state/{number}/{name}": values for name, values in state.items()}
        head = {
            "method": self.method,
            "settings": self.settings,
            "activation": self.activation,
            "penalty": self.penalty,
            "threads": self.threads,
            "repeats": self.repeats,
        }
        np.savez(path, head=np.array(json.dumps(head)), **arrays)

    @staticmethod
    def read(path: Path) -> "Job":
        """The job that :meth:`write` saved."""
        with np.load(path, allow_pickle=False) as arrays:
            head = json.loads(str(arrays["head"]))
            states: list[dict[str, np.ndarray]] = []
            for key in arrays.files:
                if key.startswith("state/"):
                    _, number, name = key.split("/", 2)
                    while len(states) <= int(number):
                        states.append({})
                    states[int(number)][name] = arrays[key]
            return Job(
                train=(arrays["x"], arrays["y"]),
                query=(arrays["xq"], arrays["yq"]),
                states=tuple(states),
                **head,
            )


@dataclass(frozen=True)
class Answer:
    """What one runner found.

    Attributes:
        scores: ``float["train query"]``, or one column where the peer only gives the mean over the queries.
        seconds: Wall time of every repetition.
        peak_bytes: Growth of the process's peak memory over the work.
        software: Name and version of what did it.
        extra: Further facts, by name.
    """

    scores: np.ndarray
    seconds: tuple[float, ...]
    peak_bytes: int
    software: str
    extra: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Save the answer as npz."""
        head = {
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "software": self.software,
            "extra": self.extra,
        }
        np.savez(path, scores=self.scores, head=np.array(json.dumps(head)))

    @staticmethod
    def read(path: Path) -> "Answer":
        """The answer that :meth:`write` saved."""
        with np.load(path, allow_pickle=False) as arrays:
            head = json.loads(str(arrays["head"]))
            return Answer(
                arrays["scores"], tuple(head["seconds"]), head["peak_bytes"], head["software"], head["extra"]
            )

    @property
    def median(self) -> float:
        """Median wall time in seconds."""
        return float(np.median(self.seconds))


def peak_bytes() -> int:
    """Highest resident memory of this process so far.

    Linux hands ``ru_maxrss`` of the parent to the child, so the process's own high-water mark is read there.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


def forget_peak() -> None:
    """Let :func:`peak_bytes` start again from what is resident now, where Linux allows it; else it stays as it is."""
    counter = Path("/proc/self/clear_refs")
    if counter.exists() and os.access(counter, os.W_OK):
        counter.write_text("5", encoding="ascii")


_LONG = 60.0
"""Seconds; work that takes longer is done once, because its noise is small beside it."""


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "from the source tree"


def serve(distribution: str, compute: Callable[[Job], Callable[[], np.ndarray]]) -> None:
    """Run one job: ``python RUNNER.py JOB.npz ANSWER.npz``.

    Args:
        distribution: Name of the package under test, for its version.
        compute: Takes the job and gives the function to time; what it does before that is not timed.
    """
    job = Job.read(Path(sys.argv[1]))
    work = compute(job)
    forget_peak()
    before, seconds = peak_bytes(), []
    scores = np.zeros((0, 0))
    for _ in range(job.repeats):
        start = time.perf_counter()
        scores = work()
        seconds.append(time.perf_counter() - start)
        if seconds[-1] > _LONG:
            break
    software = f"{distribution} {_version(distribution)} (Python {platform.python_version()})"
    peak = peak_bytes()
    answer = Answer(np.asarray(scores), tuple(seconds), peak - before, software, {"process_peak_bytes": peak})
    answer.write(Path(sys.argv[2]))
