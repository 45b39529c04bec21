"""Examples as people see them: a picture, a text, a table row, or only an id where the data is not at hand."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from steelyard.records import Examples
from steelyard.report.picture import Picture, looks_like_pictures, picture, pixel_range
from steelyard.report.wording import clean, clean_line, number

Kind = Literal["image", "text", "row", "id"]

MEASURED, PREDICTED = "measured", "predicted"  # columns that annotate() adds
_HEAD = 240  # characters of a text shown before it has to be unfolded
_CELLS = 24  # table cells per example, beside all that differ; a wider row says how many are left out
_MOST_CELLS = 200  # that differ: a page of thousands of columns could not be opened
_APART = 0.1  # share of a column's range beyond which a number counts as different from the query's


@dataclass(frozen=True)
class Part:
    """One piece of text: its name, what is shown at once, and what is unfolded."""

    name: str
    head: str
    rest: str


@dataclass(frozen=True)
class Cell:
    """One value of a table row, and whether it differs from the query's."""

    name: str
    value: str
    differs: bool


@dataclass(frozen=True)
class Columns:
    """Columns of table rows that are shown.

    Attributes:
        names: In the order of showing.
        unlike: How many others differ from the query in some row, too.
    """

    names: tuple[str, ...]
    unlike: int


@dataclass(frozen=True)
class Shown:
    """One example, every text in it cleaned.

    Attributes:
        id: Its id.
        kind: How it is shown.
        label: Its label, if it has one.
        predicted: What the model predicts for it, if known.
        measured: The measurement of it, if known.
        picture: For ``"image"``.
        parts: For ``"text"``.
        cells: For ``"row"``.
        hidden: How many cells were left out.
        unlike: How many of these differ from the query in some row beside it.
    """

    id: str
    kind: Kind
    label: str | None = None
    predicted: str | None = None
    measured: str | None = None
    picture: Picture | None = None
    parts: tuple[Part, ...] = ()
    cells: tuple[Cell, ...] = ()
    hidden: int = 0
    unlike: int = 0

    def name(self, role: str) -> str:
        """What a screen reader says for it.

        Args:
            role: ``"training example"`` or ``"query"``.
        """
        return f"{role} {self.id}" + (f", label {self.label}" if self.label is not None else "")


class Gallery:
    """The examples of one report that are shown, ready to be drawn one by one.

    A class because all examples share one kind and one range of pixels: thumbnails are only comparable if black
    means the same in each of them.

    Args:
        examples: Where to find them; rows that are not there are shown as their id.
        ids: The ids that will be asked for, of ``examples`` or not.
        show: How to show them; ``"auto"`` decides by the columns.
    """

    def __init__(
        self, examples: Examples, ids: Sequence[str], show: Literal["auto", "image", "text", "row"]
    ) -> None:
        self.rows = _without_arrays(at_hand(examples, ids))
        self.kind: Kind = kind_of(self.rows) if show == "auto" or not len(self.rows) else show
        self._at = {str(example): i for i, example in enumerate(self.rows.ids)}
        self._range = (0.0, 1.0)
        if self.kind == "image":
            self._range = pixel_range(np.asarray(self.rows.input()[:]))
        self._spans = _spans(self.rows) if self.kind == "row" else {}

    def show(
        self, example: str, *, beside: "Mapping[str, Any] | None" = None, columns: Columns | None = None
    ) -> Shown:
        """The example of that id.

        Args:
            example: Its id.
            beside: For table rows: the raw values of the query, whose differences are marked.
            columns: For table rows: which columns; the first if None.
        """
        name = clean_line(example)
        if example not in self._at:
            return Shown(name, "id")
        row = self.rows.row(self._at[example])
        label, predicted, measured = (
            None if column not in row else _value(row[column])
            for column in (self.rows.label or "", PREDICTED, MEASURED)
        )
        shown = Shown(name, self.kind, label, predicted, measured)
        if self.kind == "image":
            drawn = picture(np.asarray(row[self.rows.inputs[0]]), self._range)
            return Shown(name, self.kind, label, predicted, measured, picture=drawn)
        if self.kind == "text":
            parts = tuple(part for column in self.rows.inputs for part in _parts(column, row[column]))
            return Shown(name, self.kind, label, predicted, measured, parts=parts)
        if self.kind == "row":
            flat = dict(_flat({name: row[name] for name in self.rows.inputs}))
            names = list(flat)[:_CELLS] if columns is None else [c for c in columns.names if c in flat]
            return Shown(
                name,
                self.kind,
                label,
                predicted,
                measured,
                cells=tuple(self._cell(name, flat[name], beside) for name in names),
                hidden=len(flat) - len(names),
                unlike=0 if columns is None else columns.unlike,
            )
        return shown

    def columns(self, beside: "Mapping[str, Any] | None", examples: Sequence[str]) -> Columns | None:
        """Which columns of table rows to show beside a query: all, or of many those first that differ most often.

        Args:
            beside: The query's raw values.
            examples: Ids of the rows.
        """
        if beside is None or len(beside) <= _CELLS:
            return None
        found = [self.values(example) or {} for example in examples]
        apart = {
            name: sum(name in row and self._apart(name, row[name], value) for row in found)
            for name, value in beside.items()
        }
        unlike = sum(count > 0 for count in apart.values())
        ordered = sorted(apart, key=lambda name: -apart[name])  # stable: equals as the table has them
        return Columns(tuple(ordered[: max(_CELLS, min(unlike, _MOST_CELLS))]), max(0, unlike - _MOST_CELLS))

    def values(self, example: str) -> dict[str, Any] | None:
        """The raw values of a table row, to compare others with; None for other kinds."""
        if self.kind != "row" or example not in self._at:
            return None
        row = self.rows.row(self._at[example])
        return dict(_flat({name: row[name] for name in self.rows.inputs}))

    def _cell(self, name: str, value: Any, beside: Mapping[str, Any] | None) -> Cell:
        differs = beside is not None and name in beside and self._apart(name, value, beside[name])
        return Cell(clean_line(name, limit=60), _value(value), differs)

    def _apart(self, name: str, value: Any, other: Any) -> bool:
        if name in self._spans and isinstance(other, int | float | np.number):
            gaps = np.isnan([float(value), float(other)])  # a missing value differs from every number
            if gaps.any():
                return not gaps.all()
            return abs(float(value) - float(other)) > _APART * self._spans[name]
        return str(value) != str(other)


def annotate(
    examples: Examples,
    *,
    measured: np.ndarray | None = None,
    predicted: Sequence[Any] | np.ndarray | None = None,
) -> Examples:
    """The same examples with what the model does with them, for showing.

    Args:
        examples: Training examples or queries.
        measured: ``float[" example"]`` The measurement of each. Queries that have it are shown worst first.
        predicted: ``[" example"]`` The predicted label of each.

    Raises:
        ShapeError: If there is not one value per example.
    """
    for name, values in ((MEASURED, measured), (PREDICTED, predicted)):
        if values is not None:
            examples = examples.with_column(name, np.asarray(values), examples.checksum)
    return examples


def at_hand(examples: Examples, ids: Sequence[str]) -> Examples:
    """Those of the ids that are among the examples, in order of first mention."""
    known = {str(example): i for i, example in enumerate(examples.ids)}
    rows = [known[i] for i in dict.fromkeys(ids) if i in known]
    return examples.take(np.array(rows, dtype=np.int64))


def plain(value: Any) -> Any:
    """A value in plain types as JSON knows them: arrays as lists, what is unknown as its ``str``."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def objects(values: Sequence[Any]) -> np.ndarray:
    """``object[" value"]`` Where ``np.array`` would turn lists of one length into a matrix."""
    column = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        column[i] = value
    return column


def kind_of(examples: Examples) -> Kind:
    """How the examples are best shown, judged by all their rows: give only those that are shown."""
    if not examples.inputs or not len(examples):
        return "id"
    if len(examples.inputs) == 1:
        values = np.asarray(examples.input()[:])
        if values.dtype.kind in "biuf" and values.ndim > 1 and looks_like_pictures(values):
            return "image"
    firsts = [examples.column(name)[0] for name in examples.inputs]
    texts = [isinstance(value, str | list | dict) for value in firsts]
    long = any(isinstance(v, list | dict) or len(str(v)) > 40 or "\n" in str(v) for v in firsts)
    return "text" if all(texts) and (long or len(firsts) <= 2) else "row"


def _without_arrays(examples: Examples) -> Examples:
    # Columns of Python objects in the types that a stored report has, so that both are shown alike.
    columns = {name: np.asarray(examples.column(name)[:]) for name in examples.columns}
    columns = {
        name: values if values.dtype.kind in "biufc" else objects([plain(value) for value in values])
        for name, values in columns.items()
    }
    return replace(examples, columns=columns)


def _parts(column: str, value: Any) -> list[Part]:
    if isinstance(value, list) and all(isinstance(turn, Mapping) for turn in value):
        return [_part(str(turn.get("role", column)), turn.get("content", "")) for turn in value]
    return [_part(column, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]


def _part(name: str, value: Any) -> Part:
    text = clean(value)
    if len(text) <= _HEAD + 40:
        return Part(clean_line(name, limit=40), text, "")
    cut = text.rfind(" ", _HEAD - 40, _HEAD)
    cut = cut if cut > 0 else _HEAD
    return Part(clean_line(name, limit=40), text[:cut], text[cut:])


def _flat(row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    cells: list[tuple[str, Any]] = []
    for name, value in row.items():
        if isinstance(value, np.ndarray) and value.ndim:
            cells += [(f"{name}[{i}]", item) for i, item in enumerate(value.ravel())]
        else:
            cells.append((name, value))
    return cells


def _spans(rows: Examples) -> dict[str, float]:
    spans: dict[str, float] = {}
    for name in rows.inputs:
        values = np.asarray(rows.column(name)[:])
        if values.dtype.kind in "iuf" and len(values):
            flat = values.reshape(len(values), -1).astype(np.float64)
            known = ~np.isnan(flat)  # a column may have no value at all: no range then
            highest = np.max(flat, axis=0, where=known, initial=-np.inf)
            lowest = np.min(flat, axis=0, where=known, initial=np.inf)
            ranges = np.maximum(highest - lowest, 0.0)
            names = [name] if values.ndim == 1 else [f"{name}[{i}]" for i in range(flat.shape[1])]
            spans |= dict(zip(names, ranges.astype(float).tolist(), strict=True))
    return spans


def _value(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return number(float(value))
    return clean_line(value, limit=120)
