"""The configuration of a comparison: YAML to checked values; errors name file, line and key."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from steelyard.act.system import System
from steelyard.cli.task_file import Entries, TaskEntry, one_name_each, read_file
from steelyard.flow.comparing import Terms
from steelyard.flow.systems import system_by_name
from steelyard.flow.tasks import Task


class CompareEntry(BaseModel):
    """The whole configuration."""

    model_config = ConfigDict(extra="forbid")

    title: str = "Systems built on influence, at equal budget"
    seed: int = 0
    budget: float = Field(default=0.3, gt=0, lt=1)
    changes: float = Field(default=0.1, gt=0, lt=1)
    seeds: int = Field(default=3, ge=1)
    controls: int = Field(default=10, ge=3)
    tasks: dict[str, TaskEntry] = Field(min_length=1)
    systems: Entries = Field(min_length=1)

    _one_name_each = field_validator("systems")(one_name_each)


@dataclass(frozen=True, eq=False)
class Asked:
    """A configuration, ready to run.

    Attributes:
        title: Headline.
        terms: Budget, seeds and controls.
        tasks: Problems, loaded.
        systems: Label to system.
        plain: The configuration as plain values, for the request of the run.
    """

    title: str
    terms: Terms
    tasks: tuple[Task, ...]
    systems: Mapping[str, System]
    plain: dict[str, Any]


def read_comparison(path: Path) -> Asked:
    """The configuration in a YAML file, with its problems loaded; paths in it are relative to the file.

    Raises:
        DataError: If the file cannot be read or is not YAML.
        SettingError: If a key or value has no meaning; names file, line and key.
    """
    file = read_file(path, example="examples/compare.yaml")
    entry = file.checked(CompareEntry)
    systems = file.made("systems", entry.systems, system_by_name)
    terms = Terms(entry.budget, entry.changes, entry.seeds, entry.controls)
    tasks = file.tasks(entry.tasks, entry.seed)
    return Asked(entry.title, terms, tasks, systems, entry.model_dump())
