"""YAML files that name tasks, and methods or systems with settings; errors name file, line and key."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steelyard.cli.model import DataOptions, load_problem
from steelyard.errors import DataError, SettingError, SteelyardError
from steelyard.flow.ground_truth import TASKS
from steelyard.flow.tasks import Task
from steelyard.score.settings import did_you_mean

Plain = str | int | float | bool | None | list[str | int | float | bool]
Entries = list[str | dict[str, dict[str, Plain]]]
_Entry = TypeVar("_Entry", bound=BaseModel)
_Made = TypeVar("_Made")


class TaskEntry(BaseModel):
    """One task: a model, its data and what is known about it."""

    model_config = ConfigDict(extra="forbid")

    model: str
    train: str | None = None
    query: str | None = None
    text: str | None = None
    label: str | None = None
    id: str | None = None
    truth: str | dict[str, str] = Field(default_factory=dict)
    weight: float = Field(default=1.0, gt=0)
    seed: int | None = None
    trust: bool = False
    bank: str | None = None


@dataclass(frozen=True, eq=False)
class TaskFile:
    """A YAML file that was read.

    Attributes:
        path: Where it is; paths in it are relative to it.
        lines: Key to the line where it stands.
        values: What stands in it.
        example: A file that shows the form, for errors.
    """

    path: Path
    lines: Mapping[tuple[str | int, ...], int]
    values: Any
    example: str

    def checked(self, kind: type[_Entry]) -> _Entry:
        """The values as an entry of that kind.

        Raises:
            SettingError: If a key or value has no meaning.
        """
        try:
            return kind.model_validate(self.values)
        except ValidationError as error:
            raise self._refusal(error, kind) from error

    def place(self, *key: str | int) -> "Place":
        """A key of the file."""
        return Place(self, key)

    def tasks(self, entries: Mapping[str, TaskEntry], seed: int) -> tuple[Task, ...]:
        """The tasks, loaded; ``seed`` is for those that name none."""
        return tuple(
            self.place("tasks", name).call(lambda n=name, t=entry: _task(self.path.parent, n, t, seed))
            for name, entry in entries.items()
        )

    def made(
        self, key: str, entries: Entries, make: Callable[[str, dict[str, str]], _Made]
    ) -> dict[str, _Made]:
        """What every entry of a list names, by its label in tables.

        Args:
            key: Of the list, such as ``"methods"``.
            entries: Names, or names with settings.
            make: From a name and its settings as they are written on the command line.

        Raises:
            SettingError: If a name or setting has no meaning, or an entry stands there twice.
        """
        found: dict[str, _Made] = {}
        for number, one in enumerate(entries):
            name, settings = named(one)
            place, text = self.place(key, number), {k: as_text(v) for k, v in settings.items()}
            label = labelled(name, settings)
            if label in found:
                fix = f"list each of the {key} once, or with other settings."
                raise place.error(f"{label!r} is listed twice", fix)
            found[label] = place.call(lambda n=name, s=text: make(n, s))
        return found

    def line(self, key: tuple[str | int, ...]) -> int:
        """Of the key, or of the closest one above it."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key, 1)

    def _refusal(self, error: ValidationError, kind: type[BaseModel]) -> SettingError:
        # A key that does not exist is often the misspelt one that is missing.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        key = tuple(part for part in first["loc"] if not str(part).startswith(("dict[", "str", "list[")))
        parent = "tasks.NAME" if len(key) > 2 and key[0] == "tasks" else "the file"
        known = list(TaskEntry.model_fields if parent != "the file" else kind.model_fields)
        why = str(first["msg"]).removeprefix("Value error, ")
        fix = f"the keys of {parent} are {', '.join(known)}; see {self.example}."
        if first["type"] == "extra_forbidden":
            why = f"there is no such key{did_you_mean(str(first['loc'][-1]), known)}".rstrip(".")
        elif first["type"] == "missing":
            why = "it is missing"
        return SettingError(f"{self.path}, line {self.line(key)}, {_dotted(key)}: {why}.", fix=fix)


@dataclass(frozen=True, eq=False)
class Place:
    """A key of the file, for errors about what stands there."""

    file: TaskFile
    key: tuple[str | int, ...]

    def call(self, load: Any) -> Any:
        """What ``load`` gives; an error of ours names this place first."""
        try:
            return load()
        except SteelyardError as error:
            raise self.error(error.problem, error.fix) from error

    def error(self, problem: str, fix: str) -> SettingError:
        """An error about this place."""
        where = f"{self.file.path}, line {self.file.line(self.key)}, {_dotted(self.key)}"
        return SettingError(f"{where}: {problem}", fix=fix)


def read_file(path: Path, *, example: str) -> TaskFile:
    """A YAML file with the line of every key.

    Raises:
        DataError: If the file cannot be read or is not YAML.
        SettingError: If a key stands there twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.", fix="give a YAML file in UTF-8.") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[tuple[str | int, ...], int] = {}
        _walk(path, node, (), lines)
        return TaskFile(path, lines, yaml.safe_load(text), example)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        why = getattr(error, "problem", None) or "not YAML"
        raise DataError(f"{path}{where}: {why}.", fix=f"see {example} for the form.") from error


def one_name_each(entries: Entries) -> Entries:
    """The entries, each of which is a name or one name with its settings.

    Raises:
        ValueError: If one has several names, as pydantic wants it.
    """
    for entry in entries:
        if isinstance(entry, dict) and len(entry) != 1:
            raise ValueError("an entry is a name, or one name with its settings: {trak: {projection: 512}}")
    return entries


def named(entry: str | dict[str, dict[str, Plain]]) -> tuple[str, dict[str, Any]]:
    """Name and settings of an entry."""
    if isinstance(entry, str):
        return entry, {}
    ((name, settings),) = entry.items()
    return name, dict(settings)


def labelled(name: str, settings: Mapping[str, Any]) -> str:
    """What an entry is called in tables."""
    given = ", ".join(f"{key}={as_text(value)}" for key, value in settings.items())
    return f"{name}({given})" if given else name


def as_text(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, list):
        return ",".join(as_text(item) for item in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _task(folder: Path, name: str, entry: TaskEntry, seed: int) -> Task:
    model = entry.model
    place, colon, function = model.rpartition(":")
    if colon and place.endswith(".py"):
        model = f"{folder / place}:{function}"
    elif not colon and model not in TASKS:
        model = str(folder / model)
    data = DataOptions(
        train=None if entry.train is None else str(folder / entry.train),
        query=None if entry.query is None else str(folder / entry.query),
        text=entry.text,
        label=entry.label,
        id=entry.id,
    )
    problem = load_problem(model, data, seed=seed if entry.seed is None else entry.seed, trust=entry.trust)
    truth = {"": entry.truth} if isinstance(entry.truth, str) else entry.truth
    bank = None if entry.bank is None else str(folder / entry.bank)
    return Task(name, problem, truth, entry.weight, bank)


def _walk(
    path: Path, node: yaml.Node | None, key: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]
) -> None:
    if node is None:
        return
    lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for name, value in node.value:
            if name.value in seen:
                raise SettingError(
                    f"{path}, line {name.start_mark.line + 1}: {_dotted((*key, name.value))} stands there twice.",
                    fix="write each key once.",
                )
            seen.add(name.value)
            lines[(*key, name.value)] = name.start_mark.line + 1
            _walk(path, value, (*key, name.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _walk(path, value, (*key, number), lines)


def _dotted(key: tuple[str | int, ...]) -> str:
    return ".".join(str(part + 1 if isinstance(part, int) else part) for part in key) or "the file"
