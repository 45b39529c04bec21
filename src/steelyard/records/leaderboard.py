"""Leaderboard: every method on every task by every metric, with ratings; failures are cells without a number."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from steelyard.records.evidence import Evidence
from steelyard.records.files import read_record, write_record
from steelyard.records.provenance import Cost, Provenance


@dataclass(frozen=True)
class Cell:
    """One method on one task by one metric.

    Attributes:
        task: Name of the task.
        method: Label of the method.
        metric: Name of the metric.
        evidence: What was found; None if there is nothing.
        problem: Why there is nothing; empty if there is evidence.
        fix: What could be done about it.
        applies: False where the metric asks what such scores do not say; that is no failure.
    """

    task: str
    method: str
    metric: str
    evidence: Evidence | None
    problem: str = ""
    fix: str = ""
    applies: bool = True


@dataclass(frozen=True)
class Scored:
    """What scoring one task by one method took.

    Attributes:
        task: Name of the task.
        method: Label of the method.
        cost: What it took; nothing where it failed.
        settings: The method with all settings, as its ``repr``; empty where it failed.
    """

    task: str
    method: str
    cost: Cost
    settings: str = ""


@dataclass(frozen=True)
class Standing:
    """The rating of one method.

    Attributes:
        method: Label of the method.
        role: ``"method"`` was asked for, ``"baseline"`` stands beside in any case.
        rating: Elo rating; 1500 is the mean.
        low: Lower end of its 95 % interval.
        high: Upper end.
        games: Pairs of task and metric that were played.
        failures: Cells without a number that should have one.
    """

    method: str
    role: Literal["method", "baseline"]
    rating: float
    low: float
    high: float
    games: int
    failures: int = 0


@dataclass(frozen=True)
class Leaderboard:
    """Methods rated over tasks and metrics.

    Attributes:
        title: Headline.
        tasks: Task to facts about it, for people.
        metrics: Names, in order.
        standings: Over all tasks (Meta-Elo), best first.
        leagues: Task to the standings on it, best first.
        cells: Every method on every task by every metric.
        scored: What scoring took.
        provenance: Of the whole.
    """

    title: str
    tasks: Mapping[str, Mapping[str, Any]]
    metrics: tuple[str, ...]
    standings: tuple[Standing, ...]
    leagues: Mapping[str, tuple[Standing, ...]]
    cells: tuple[Cell, ...]
    scored: tuple[Scored, ...]
    provenance: Provenance = field(default_factory=Provenance)

    def cell(self, task: str, method: str, metric: str) -> Cell | None:
        """The cell of that name, if there is one."""
        return next((c for c in self.cells if (c.task, c.method, c.metric) == (task, method, metric)), None)

    def save(self, path: str | Path) -> Path:
        """Write the leaderboard as one JSON file."""
        return write_record(path, "leaderboard", {"format": 1, **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> "Leaderboard":
        """The inverse of :meth:`save`.

        Raises:
            DataError: If the file is no leaderboard.
        """
        fix = "give a file written by Leaderboard.save: leaderboard.json in the run folder."
        values = read_record(path, "leaderboard", fix=fix)
        return cls(
            **{name: values[name] for name in ("title", "tasks")},
            metrics=tuple(values["metrics"]),
            standings=tuple(Standing(**one) for one in values["standings"]),
            leagues={
                name: tuple(Standing(**one) for one in group) for name, group in values["leagues"].items()
            },
            cells=tuple(_cell(one) for one in values["cells"]),
            scored=tuple(Scored(**(one | {"cost": Cost(**one["cost"])})) for one in values["scored"]),
            provenance=Provenance.from_json(values["provenance"]),
        )


def _cell(values: Mapping[str, Any]) -> Cell:
    found = values["evidence"]
    if found is None:
        return Cell(**values)
    rest = {name: value for name, value in values.items() if name != "evidence"}
    return Cell(**rest, evidence=Evidence.from_json(found))
