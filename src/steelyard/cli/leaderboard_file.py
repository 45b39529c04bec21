"""The configuration of a leaderboard: YAML to checked values; errors name file, line and key."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from steelyard.cli.model import DataOptions, load_problem
from steelyard.errors import DataError, SettingError, SteelyardError
from steelyard.flow.ground_truth import TASKS
from steelyard.flow.leaderboard import Asked, Task
from steelyard.flow.metrics import settings_from
from steelyard.score import by_name
from steelyard.score.method import Method
from steelyard.score.settings import did_you_mean

Plain = str | int | float | bool | None | list[str | int | float | bool]
Entries = list[str | dict[str, dict[str, Plain]]]


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


class BoardEntry(BaseModel):
    """The whole configuration."""

    model_config = ConfigDict(extra="forbid")

    title: str = "Leaderboard of attribution methods"
    seed: int = 0
    tasks: dict[str, TaskEntry] = Field(min_length=1)
    methods: Entries = Field(min_length=1)
    metrics: Entries = Field(min_length=1)

    @field_validator("methods", "metrics")
    @classmethod
    def _one_name_each(cls, entries: Entries) -> Entries:
        for entry in entries:
            if isinstance(entry, dict) and len(entry) != 1:
                raise ValueError(
                    "an entry is a name, or one name with its settings: {trak: {projection: 512}}"
                )
        return entries


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
    lines, values = _parsed(path)
    try:
        entry = BoardEntry.model_validate(values)
    except ValidationError as error:
        raise _refusal(path, lines, error) from error
    methods: dict[str, Method] = {}
    for number, one in enumerate(entry.methods):
        name, settings = _named(one)
        with_place = _Place(path, lines, ("methods", number))
        method = with_place.call(lambda n=name, s=settings: by_name(n, {k: _text(v) for k, v in s.items()}))
        label = (
            name if not settings else f"{name}({', '.join(f'{k}={_text(v)}' for k, v in settings.items())})"
        )
        if label in methods:
            raise with_place.error(
                f"{label!r} is listed twice", "list each method once, or with other settings."
            )
        methods[label] = method
    metrics: list[Asked] = []
    for number, one in enumerate(entry.metrics):
        name, settings = _named(one)
        place = _Place(path, lines, ("metrics", number))
        place.call(lambda n=name, s=settings: settings_from(n, s))
        if any(other.metric == name for other in metrics):
            raise place.error(f"{name!r} is listed twice", "list each metric once.")
        metrics.append(Asked(name, settings))
    tasks = tuple(
        _Place(path, lines, ("tasks", name)).call(lambda n=name, t=task: _task(path.parent, n, t, entry.seed))
        for name, task in entry.tasks.items()
    )
    return Board(entry.title, entry.seed, tasks, methods, tuple(metrics), entry.model_dump())


@dataclass(frozen=True, eq=False)
class _Place:
    """A key of the file, for errors about what stands there."""

    path: Path
    lines: Mapping[tuple[str | int, ...], int]
    key: tuple[str | int, ...]

    def call(self, load: Any) -> Any:
        """What ``load`` gives; an error of ours names this place first."""
        try:
            return load()
        except SteelyardError as error:
            raise self.error(error.problem, error.fix) from error

    def error(self, problem: str, fix: str) -> SettingError:
        return SettingError(
            f"{self.path}, line {_line(self.lines, self.key)}, {_dotted(self.key)}: {problem}", fix=fix
        )


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


def _parsed(path: Path) -> tuple[dict[tuple[str | int, ...], int], Any]:
    """Line of every key, and the values."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.", fix="give a YAML file in UTF-8.") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[tuple[str | int, ...], int] = {}
        _walk(path, node, (), lines)
        return lines, yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        why = getattr(error, "problem", None) or "not YAML"
        raise DataError(
            f"{path}{where}: {why}.", fix="see examples/leaderboard.yaml for the form."
        ) from error


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


def _refusal(path: Path, lines: Mapping[tuple[str | int, ...], int], error: ValidationError) -> SettingError:
    # A key that does not exist is often the misspelt one that is missing.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = tuple(part for part in first["loc"] if not str(part).startswith(("dict[", "str", "list[")))
    parent = "tasks.NAME" if len(key) > 2 and key[0] == "tasks" else "the file"
    known = list(TaskEntry.model_fields if parent != "the file" else BoardEntry.model_fields)
    why = str(first["msg"]).removeprefix("Value error, ")
    fix = f"the keys of {parent} are {', '.join(known)}; see examples/leaderboard.yaml."
    if first["type"] == "extra_forbidden":
        why = f"there is no such key{did_you_mean(str(first['loc'][-1]), known)}".rstrip(".")
    elif first["type"] == "missing":
        why = "it is missing"
    return SettingError(f"{path}, line {_line(lines, key)}, {_dotted(key)}: {why}.", fix=fix)


def _line(lines: Mapping[tuple[str | int, ...], int], key: tuple[str | int, ...]) -> int:
    """Of the key, or of the closest one above it."""
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, 1)


def _dotted(key: tuple[str | int, ...]) -> str:
    return ".".join(str(part + 1 if isinstance(part, int) else part) for part in key) or "the file"


def _named(entry: str | dict[str, dict[str, Plain]]) -> tuple[str, dict[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    ((name, settings),) = entry.items()
    return name, dict(settings)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_text(item) for item in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
