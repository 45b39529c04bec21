"""Several problems in one run: each in a run folder of its own inside it, with its cost and notes counted outside."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steelyard.flow.banking import use_bank
from steelyard.problem import Problem
from steelyard.records import Cost
from steelyard.run import Run, in_memory, open_run


@dataclass(frozen=True, eq=False)
class Task:
    """A problem on which methods or systems are compared.

    Attributes:
        name: What it is called.
        problem: Learner, training examples, queries.
        truth: Metric to the column that it needs; under the empty name, that of all others.
        weight: How much it counts towards the rating over all tasks.
        bank: Folder of a bank of fits for verification, from which retraining takes its own.
    """

    name: str
    problem: Problem
    truth: Mapping[str, str] = field(default_factory=dict)
    weight: float | int = 1.0
    bank: str | None = None


@contextmanager
def within(run: Run, task: Task) -> Iterator[Run]:
    """A run folder of the task's own inside the run: what methods keep in a run is about one problem."""
    if run.folder is None:
        inner = in_memory()
        _provide(inner, task, run)
        yield inner
        run.spend(gradients=inner.cost.gradients, fits=inner.cost.fits)
        for note in inner.notes:
            run.note(f"{task.name}: {note}")
        return
    request = {"task": task.name, "seed": task.problem.seed, "checksums": task.problem.checksums()}
    place = run.path("tasks", slug(task.name, json.dumps(request, sort_keys=True)))
    with open_run(place, request, show="quiet") as inner:
        _provide(inner, task, run)
        before = inner.cost
        try:
            yield inner
        finally:
            spent = since(before, inner.cost)
            run.spend(gradients=spent.gradients, fits=spent.fits)
            for note in inner.notes:
                run.note(f"{task.name}: {note}")


def _provide(inner: Run, task: Task, run: Run) -> None:
    inner.workers = run.workers
    if not inner.finished:
        use_bank(task.bank, task.problem, inner, purpose="verification")


def since(before: Cost, after: Cost) -> Cost:
    """What was spent between two readings of a meter."""
    return Cost(
        gradients=after.gradients - before.gradients,
        fits=after.fits - before.fits,
        seconds=after.seconds - before.seconds,
    )


def facts_of(tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """Task to facts about it, for people."""
    return {
        task.name: {
            "learner": type(task.problem.learner).__name__,
            "training examples": len(task.problem.train),
            "queries": len(task.problem.query),
            "measurement": task.problem.learner.measurement.name,
            "unit": task.problem.learner.measurement.unit,
            "source": task.problem.train.source,
            "weight": float(task.weight),
        }
        for task in tasks
    }


def checksums_of(tasks: Sequence[Task]) -> dict[str, str]:
    """Checksums of data and learner of every task."""
    return {
        f"{task.name} {part}": value for task in tasks for part, value in task.problem.checksums().items()
    }


def slug(name: str, facts: str) -> str:
    """A name for a folder or key: what can be read of the name, and a checksum of what it stands for."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:40] or "cell"
    return f"{plain}-{hashlib.sha256(facts.encode()).hexdigest()[:10]}"


def packed(values: Any) -> dict[str, np.ndarray]:
    """Plain values as what a run folder keeps."""
    return {"json": np.frombuffer(json.dumps(values).encode(), dtype=np.uint8)}


def unpacked(arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of :func:`packed`."""
    return json.loads(np.asarray(arrays["json"]).tobytes().decode())
