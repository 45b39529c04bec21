"""CSV and TSV files. Types are decided over whole columns, and text is never changed: ``007`` is kept."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.data.kinds import (
    BOOL,
    DOUBLE,
    INTEGER,
    NULL,
    TEXT,
    Batch,
    Kind,
    Source,
    kind_of_array,
    objects,
)
from steelyard.data.limits import Limits
from steelyard.data.lines import check_readable, decode, file_key, numbered_lines
from steelyard.errors import DataError

MISSING = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"})
"""Cells that mean "no value" in a column of numbers; in a column of text they are text."""

_TRUTH = {"true": True, "false": False, "True": True, "False": False, "TRUE": True, "FALSE": False}
_BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Strings:
    """Cells of one CSV column, as written."""

    values: list[str]
    kind: Kind

    def __len__(self) -> int:
        return len(self.values)

    def convert(self, kind: Kind, /) -> np.ndarray:
        """The cells as an array of that kind; missing cells of a column of numbers are NaN."""
        if kind.name == "number":
            return _numbers(self.values, kind.dtype)
        if kind.name == "bool":
            return np.array([_TRUTH[value] for value in self.values], dtype=bool)
        if kind.name == "null":
            return np.full(len(self.values), None, dtype=object)
        return objects(self.values, len(self.values))

    def texts(self) -> list[str | None]:
        """The cells as written; an empty cell is None."""
        return [value or None for value in self.values]


def csv_source(path: Path, limits: Limits) -> Source:
    """A CSV or TSV file with a header line."""

    def where(row: int) -> str:
        starts = (line for line, _ in _records(path, limits))
        return f"line {next(line for position, line in enumerate(starts) if position == row + 1)}"

    check_readable(path)
    return Source(
        str(path),
        lambda: _csv_batches(path, limits),
        where,
        path.stat().st_size,
        file_key(path),
        fallback=TEXT,
    )


def strings_of(values: list[str]) -> Strings:
    """CSV cells with their kind."""
    return Strings(values, _kind_of_strings(values))


def is_number(cells: list[str]) -> np.ndarray:
    """``bool[" cell"]`` Whether each cell is a number or missing."""
    return np.array([cell in MISSING or _parses(cell) for cell in cells], dtype=bool)


def _csv_batches(path: Path, limits: Limits) -> Iterator[Batch]:
    records = _records(path, limits)
    header = _header(path, next(records, None))
    rows: list[list[str]] = []
    size, most = 0, limits.batch_bytes()
    for line, record in records:
        if len(record) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(record)} fields, but the header names {len(header)}.",
                fix='quote cells that hold a comma or a line break ("like, this"), or correct the line.',
            )
        rows.append(record)
        size += sum(map(len, record)) + len(record)
        if size >= most or len(rows) >= _BATCH_ROWS:
            yield _batch(header, rows, size)
            rows, size = [], 0
    if rows:
        yield _batch(header, rows, size)


def _batch(header: list[str], rows: list[list[str]], size: int) -> Batch:
    columns = zip(header, zip(*rows, strict=True), strict=True)
    return Batch({name: strings_of(list(values)) for name, values in columns}, len(rows), size)


def _records(path: Path, limits: Limits) -> Iterator[tuple[int, list[str]]]:
    """Records with the number of their first line, header first; blank lines are skipped."""
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    lines = (decode(path, number, line) for number, line in numbered_lines(path, limits.line))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise _csv_error(path, first, str(error)) from error
        if record is None:
            return
        if record:
            yield first, record


def _csv_error(path: Path, line: int, message: str) -> DataError:
    if "field larger" in message:
        return DataError(
            f"{path}, line {line}: a cell longer than {csv.field_size_limit():,} characters, the limit of "
            "Python's csv.",
            fix="keep long texts in JSON Lines or Parquet, or raise csv.field_size_limit in your program.",
        )
    if "unexpected end of data" in message:
        message = "a quote that is opened here is never closed"
    return DataError(
        f"{path}, line {line}: not CSV: {message}.",
        fix='write a quote inside a quoted cell twice (""), and end lines with a line feed.',
    )


def _header(path: Path, record: tuple[int, list[str]] | None) -> list[str]:
    if record is None:
        raise DataError(
            f"{path}: the file is empty.", fix="give a file with a header line and one line per example."
        )
    line, header = record
    for position, name in enumerate(header):
        if not name.strip():
            raise DataError(
                f"{path}, line {line}: header column {position + 1} has no name.",
                fix="name it; pandas writes an unnamed index unless told to_csv(index=False).",
            )
        if name in header[:position]:
            raise DataError(
                f"{path}, line {line}: the header names {name!r} twice (columns {header.index(name) + 1} and "
                f"{position + 1}).",
                fix="rename one of them.",
            )
    if all(_parses(name) for name in header):
        raise DataError(
            f"{path}, line {line}: expected a header, found only numbers.",
            fix="put a line with the names of the columns first.",
        )
    return header


def _kind_of_strings(values: list[str]) -> Kind:
    distinct = set(values)
    if distinct <= MISSING:
        return NULL if distinct <= {""} else TEXT
    if distinct <= _TRUTH.keys():
        return BOOL
    filled = [value for value in values if value not in MISSING] if distinct & MISSING else values
    integers = _cast(filled, "int64")
    if integers is None:
        return DOUBLE if _cast(filled, "double") is not None and not _has_long_integer(filled) else TEXT
    kind = kind_of_array(integers)
    if len(filled) == len(values):
        return INTEGER if kind is None or not kind.big else kind
    return TEXT if kind is not None and kind.big else DOUBLE


def _cast(values: list[str], kind: str) -> np.ndarray | None:
    import pyarrow as pa
    import pyarrow.compute as compute

    try:
        array: Any = compute.cast(pa.array(values, pa.string()), kind)
    except pa.ArrowInvalid:
        return None
    return array.to_numpy(zero_copy_only=False)


def _numbers(values: list[str], dtype: str) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as compute

    cells: Any = pa.array([None if value in MISSING else value for value in values], pa.string())
    return compute.cast(cells, dtype).to_numpy(zero_copy_only=False).astype(dtype)


def _has_long_integer(values: list[str]) -> bool:
    # Integers that float64 would round are numbers of things (accounts, hashes), not quantities.
    return any(len(value) > 15 and value.lstrip("+-").isdigit() for value in values)


def _parses(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell
