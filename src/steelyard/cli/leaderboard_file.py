"""The configuration of a leaderboard: YAML to checked values; errors name file, line and key."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from steelyard.cli.task_file import Entries, TaskEntry, named, one_name_each, read_file
from steelyard.flow.leaderboard import Asked
from steelyard.flow.metrics import settings_from
from steelyard.flow.tasks import Task
from steelyard.score import by_name
from steelyard.score.method import Method


class BoardEntry(BaseModel):
    """The whole configuration."""

    model_config = ConfigDict(extra="forbid")

    title: str = "Leaderboard of attribution methods"
    seed: int = 0
    tasks: dict[str, TaskEntry] = Field(min_length=1)
    methods: Entries = Field(min_length=1)
    metrics: Entries = Field(min_length=1)

    _one_name_each = field_validator("methods", "metrics")(one_name_each)


@dataclass(frozen=True, eq=False)
class Board:
    """A configuration, ready to run.

    Attributes:
        title: Headline.
        seed: Of the ratings, and of tasks that name none.
        tasks: Problems, loaded.
        methods: Label to method.
        metrics: Names with settings.
        plain: The configuration as plain values, for the request of the run.
    """

    title: str
    seed: int
    tasks: tuple[Task, ...]
    methods: Mapping[str, Method]
    metrics: tuple[Asked, ...]
    plain: dict[str, Any]


def read_board(path: Path) -> Board:
    """The configuration in a YAML file, with its problems loaded; paths in it are relative to the file.

    Raises:
        DataError: If the file cannot be read or is not YAML.
        SettingError: If a key or value has no meaning; names file, line and key.
    """
    file = read_file(path, example="examples/leaderboard.yaml")
    entry = file.checked(BoardEntry)
    methods = file.made("methods", entry.methods, by_name)
    metrics: list[Asked] = []
    for number, one in enumerate(entry.metrics):
        name, settings = named(one)
        place = file.place("metrics", number)
        place.call(lambda n=name, s=settings: settings_from(n, s))
        if any(other.metric == name for other in metrics):
            raise place.error(f"{name!r} is listed twice", "list each metric once.")
        metrics.append(Asked(name, settings))
    tasks = file.tasks(entry.tasks, entry.seed)
    return Board(entry.title, entry.seed, tasks, methods, tuple(metrics), entry.model_dump())
