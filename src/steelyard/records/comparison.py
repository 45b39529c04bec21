"""Comparison: what systems that choose, weigh or clean data did to a model, against random, at equal budget."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from steelyard.records.evidence import Verdict
from steelyard.records.files import read_record, write_record
from steelyard.records.provenance import Cost, Provenance


@dataclass(frozen=True)
class Effect:
    """What a system's plan did after retraining.

    Attributes:
        estimate: How much better the judging queries are than with random plans of the same budget.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p_value: Against random, adjusted for the number of systems on the task.
        verdict: ``"confirmed"`` beats random, ``"refuted"`` is worse, ``"inconclusive"`` cannot be told apart.
        measured: The measurement itself, mean over queries and seeds.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    verdict: Verdict
    measured: float


@dataclass(frozen=True)
class Row:
    """One system on one task.

    Attributes:
        task: Name of the task.
        system: Label of the system.
        role: ``"system"`` was asked for; ``"control"`` stands beside in any case.
        effect: None where there is none.
        does: What the plan does, in words.
        effective: Effective number of examples that the plan trains on.
        cost: What making the plan took, without retraining.
        notes: What is to be known about it.
        course: Columns of what moved while the plan was made, such as weights of sources; empty if nothing did.
        problem: Why there is no effect.
        fix: What could be done about it.
        applies: False where the system is not possible on this task; that is no failure.
    """

    task: str
    system: str
    role: str
    effect: Effect | None
    does: str = ""
    effective: float = 0.0
    cost: Cost = field(default_factory=Cost)
    notes: tuple[str, ...] = ()
    course: Mapping[str, list[float]] = field(default_factory=dict)
    problem: str = ""
    fix: str = ""
    applies: bool = True


@dataclass(frozen=True)
class Comparison:
    """Systems on tasks, at equal budget.

    Attributes:
        title: Headline.
        tasks: Task to facts about it, for people.
        rows: Every system on every task; controls first.
        provenance: Of the whole.
    """

    title: str
    tasks: Mapping[str, Mapping[str, Any]]
    rows: tuple[Row, ...]
    provenance: Provenance = field(default_factory=Provenance)

    def row(self, task: str, system: str) -> Row | None:
        """The row of that name, if there is one."""
        return next((row for row in self.rows if (row.task, row.system) == (task, system)), None)

    def save(self, path: str | Path) -> Path:
        """Write the comparison as one JSON file."""
        return write_record(path, "comparison", {"format": 1, **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> "Comparison":
        """The inverse of :meth:`save`.

        Raises:
            DataError: If the file is no comparison.
        """
        fix = "give a file written by Comparison.save: comparison.json in the run folder."
        values = read_record(path, "comparison", fix=fix)
        return cls(
            title=values["title"],
            tasks=values["tasks"],
            rows=tuple(_row(one) for one in values["rows"]),
            provenance=Provenance.from_json(values["provenance"]),
        )


def _row(values: Mapping[str, Any]) -> Row:
    made = {
        "effect": None if values["effect"] is None else Effect(**values["effect"]),
        "cost": Cost(**values["cost"]),
        "notes": tuple(values["notes"]),
    }
    return Row(**(dict(values) | made))
