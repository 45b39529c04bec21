"""CSV and TSV files. Types are decided over whole columns, and text is never changed: ``007`` is kept."""

import csv
from collections.abc import Iterator, Sequence
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
)
from steelyard.data.limits import Limits
from steelyard.data.lines import check_readable, decode, file_key, numbered_lines
from steelyard.errors import DataError

MISSING = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"})
"""Cells that mean "no value" in a column of numbers; in a column of text they are text."""

_TRUTH = {"true": True, "false": False, "True": True, "False": False, "TRUE": True, "FALSE": False}
_BATCH_ROWS = 65_536
_SAMPLE = 100


@dataclass(frozen=True, eq=False)
class Strings:
    """Cells of one CSV column.

    Attributes:
        array: The cells as written: an Arrow array of text.
        kind: What they are.
        numbers: The same cells as numbers, if they are.
    """

    array: Any
    kind: Kind
    numbers: Any = None

    def __len__(self) -> int:
        return len(self.array)

    def convert(self, kind: Kind, /) -> np.ndarray:
        """The cells as an array of that kind; missing cells of a column of numbers are NaN."""
        if kind.name == "number":
            numbers = self.numbers if self.numbers is not None else _filled(self.array)
            return _cast(numbers, kind.dtype).to_numpy(zero_copy_only=False).astype(kind.dtype, copy=False)
        if kind.name == "bool":
            return np.array([_TRUTH[value] for value in self.array.to_pylist()], dtype=bool)
        if kind.name == "null":
            return np.full(len(self.array), None, dtype=object)
        return self.array.to_numpy(zero_copy_only=False)

    def texts(self) -> list[str | None]:
        """The cells as written; an empty cell is None."""
        return [value or None for value in self.array.to_pylist()]


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


def strings_of(values: Sequence[str]) -> Strings:
    """CSV cells with their kind."""
    import pyarrow as pa

    array = pa.array(values, pa.large_string())
    if _compute().max(_compute().utf8_length(array)).as_py() == 0:
        return Strings(array, NULL)
    if set(array[:_SAMPLE].to_pylist()) <= _TRUTH.keys() and set(array.unique().to_pylist()) <= _TRUTH.keys():
        return Strings(array, BOOL)
    filled = _filled(array)
    if filled.null_count == len(filled):
        return Strings(array, TEXT)
    numbers = _numbers(filled, "int64")
    if numbers is None:
        return _fractions(array, filled)
    kind = kind_of_array(numbers.drop_null().to_numpy())
    if kind is not None and kind.big:
        return Strings(array, TEXT if filled.null_count else kind, numbers)
    return Strings(array, DOUBLE if filled.null_count else INTEGER, numbers)


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
    return Batch({name: strings_of(values) for name, values in columns}, len(rows), size)


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


def _fractions(array: Any, filled: Any) -> Strings:
    # Integers that float64 would round are numbers of things (accounts, hashes), not quantities.
    long = _compute().match_substring_regex(filled, r"^[+-]?[0-9]{16,}$")
    numbers = None if _compute().any(long).as_py() else _numbers(filled, "float64")
    return Strings(array, TEXT if numbers is None else DOUBLE, numbers)


def _numbers(filled: Any, dtype: str) -> Any:
    """The cells as numbers; None if one of them is no number."""
    import pyarrow as pa

    try:
        return _cast(filled, dtype)
    except pa.ArrowInvalid:
        return None


def _filled(array: Any) -> Any:
    """The cells, with null for those that mean "no value"."""
    import pyarrow as pa

    compute = _compute()
    missing = compute.is_in(array, value_set=pa.array(sorted(MISSING), pa.large_string()))
    return compute.if_else(missing, None, array) if compute.any(missing).as_py() else array


def _cast(array: Any, dtype: str) -> Any:
    return _compute().cast(array, {"float64": "double"}.get(dtype, dtype))


def _compute() -> Any:
    import pyarrow.compute

    return pyarrow.compute  # its functions are made at import, where no type checker sees them


def _parses(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell
