"""Checks of the values that a learner will read. Errors name the source, the line or row, and the column."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Int64

from steelyard.data.columns import ArrowColumn
from steelyard.data.delimited import is_number
from steelyard.data.kinds import TEXT
from steelyard.data.roles import Roles
from steelyard.errors import DataError
from steelyard.records import Column, Examples

_BLOCK_NUMBERS = 2**20
_BLOCK_OBJECTS = 4096
_MOSTLY = 0.9
_SHOWN = 40
_READABLE = "text, a number or a list of numbers"
_UNREADABLE = "nothing that can be read"

Place = Callable[[int], str]


def check_finite(examples: Examples, place: Place | None = None, *, missing: bool = False) -> None:
    """Refuse NaN and infinity in inputs and label.

    Cost: one look at every number; nothing is copied but one block of rows.

    Args:
        examples: What to check; columns that hold no floating-point numbers pass.
        place: Source and place of a row, for the error; by default its id.
        missing: Whether NaN may stand in an input, for a missing value.

    Raises:
        DataError: Naming the first such row and column.
    """
    for name in _read_columns(examples):
        for start, block in _blocks(examples.column(name)):
            if block.dtype.kind != "f" or bool(np.isfinite(block).all()):
                continue
            bad = np.isinf(block) if missing and name in examples.inputs else ~np.isfinite(block)
            if not bad.any():
                continue
            row, *feature = np.argwhere(bad)[0].tolist()
            where = f", feature {feature[0] if len(feature) == 1 else tuple(feature)}" if feature else ""
            raise DataError(
                f"{_place(examples, place)(start + row)}, column {name!r}{where}: {block[(row, *feature)]}, "
                "expected a "
                "finite number (a missing cell also reads as nan).",
                fix="correct or remove the row, or fill in missing values before.",
            )


def check_present(examples: Examples, place: Place | None = None, *, missing: bool = False) -> None:
    """Refuse missing texts, categories and labels.

    Args:
        examples: What to check.
        place: Source and place of a row, for the error; by default its id.
        missing: Whether inputs may be missing; the label may not.

    Raises:
        DataError: Naming the first row without a value in an input or the label.
    """
    for name in _read_columns(examples):
        if missing and name in examples.inputs:
            continue
        row = _first_missing(examples.column(name))
        if row is not None:
            raise DataError(
                f"{_place(examples, place)(row)}, column {name!r}: no value.",
                fix="fill it in or remove the row; every example needs its inputs and its label.",
            )


def check_types(examples: Examples, *, text: bool, place: Place | None = None) -> None:
    """Refuse values of several types, numbers as texts, and ragged rows of features.

    Args:
        examples: What to check.
        text: Whether the inputs are texts: strings, token sequences or messages.
        place: Source and place of a row, for the error; by default its id.

    Raises:
        DataError: Naming the first row of another type than the first row.
    """
    for name in _read_columns(examples):
        sequences = text and name in examples.inputs
        first: str | None = None
        column = examples.column(name)
        if isinstance(column, ArrowColumn) and column.kind == TEXT:
            continue
        for start, block in _blocks(column):
            if block.dtype.kind != "O":
                if sequences and block.ndim == 1 and block.dtype.kind in "biuf":
                    raise _wrong(_place(examples, place)(start), name, block[0].item(), "text")
                break
            values = block.tolist()
            if first in (None, "text") and set(map(type, values)) == {
                str
            }:  # the usual case, at the speed of C
                first = "text"
                continue
            for row, value in enumerate(values):
                if value is None:
                    continue  # whether a value may be missing is a check of its own
                found = _type_word(value, sequences=sequences)
                first = first or found
                if found != first or found == _UNREADABLE:
                    expected = _READABLE if found == first else f"{first} as in the first row"
                    raise _wrong(_place(examples, place)(start + row), name, value, expected)


def check_numbers(examples: Examples, place: Place | None = None) -> None:
    """Refuse a CSV column of numbers that one stray word has turned into text.

    Args:
        examples: Examples of a CSV file with features.
        place: Source and place of a row, for the error; by default its id.

    Raises:
        DataError: Naming the first cell that is not a number in a column where at least nine in ten are.
    """
    for name in _read_columns(examples):
        numbers, row, cell = 0, -1, ""
        for start, block in _blocks(examples.column(name)):
            if block.dtype.kind != "O":
                break
            good = is_number(block.tolist())
            numbers += int(good.sum())
            if row < 0 and not good.all():
                row = start + int(np.flatnonzero(~good)[0])
                cell = block[row - start]
        if row >= 0 and numbers >= _MOSTLY * len(examples):
            raise DataError(
                f"{_place(examples, place)(row)}, column {name!r}: {_shown(cell)} is not a number, but "
                f"{numbers} of "
                f"{len(examples)} cells are.",
                fix="correct the cell (empty means missing), or name other columns with features=....",
            )


def check_labels(
    examples: Examples, classes: int, place: Place | None = None
) -> Int64[np.ndarray, " example"]:
    """The labels as class numbers.

    Args:
        examples: Examples with a label column of whole numbers (also as floats) or booleans.
        classes: How many classes the model tells apart.
        place: Source and place of a row, for the error; by default its id.

    Raises:
        DataError: Naming the first label that is text, not whole, negative, or not below ``classes``.
    """
    labels = examples.labels()
    name = examples.label
    if labels.dtype.kind not in "biuf" or labels.ndim != 1:
        shape = f" of shape {labels.shape[1:]}" if labels.ndim > 1 else ""
        raise DataError(
            f"{examples.source}, column {name!r}: the labels are {_dtype_word(labels)}{shape}, expected "
            "class numbers "
            f"from 0 to {classes - 1}.",
            fix="number the classes, for instance with sklearn.preprocessing.LabelEncoder.",
        )
    with np.errstate(invalid="ignore"):
        bad = (labels < 0) | (labels >= classes) | ~np.isfinite(labels) | (labels != np.floor(labels))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{_place(examples, place)(row)}, column {name!r}: label {labels[row].item()!r}, expected a "
            "whole number "
            f"from 0 to {classes - 1} ({int(bad.sum())} such labels).",
            fix=f"number the classes from 0, or give a model with more than {classes} outputs.",
        )
    return labels.astype(np.int64)


def check_classes(examples: Examples) -> np.ndarray:
    """``[" class"]`` The distinct labels, sorted.

    Raises:
        DataError: If all examples have the same label.
    """
    classes = np.unique(examples.labels())
    if len(classes) < 2:
        raise DataError(
            f"{examples.source}, column {examples.label!r}: all {len(examples)} labels are "
            f"{_shown(classes[0].item())}; "
            "a classifier needs at least two classes.",
            fix="add examples of another class, or name another column with label=....",
        )
    return classes


def check_read(examples: Examples, roles: Roles, place: Place, *, delimited: bool) -> Examples:
    """The examples, if a learner can read their inputs and labels.

    Raises:
        DataError: See the single checks.
    """
    check_present(examples, place, missing=roles.missing)
    check_types(examples, text=roles.text, place=place)
    if delimited and not roles.text:
        check_numbers(examples, place)
    check_finite(examples, place, missing=roles.missing)
    return examples


def _read_columns(examples: Examples) -> tuple[str, ...]:
    return (*examples.inputs, *([examples.label] if examples.label else []))


def _place(examples: Examples, place: Place | None) -> Place:
    return place or (lambda row: f"{examples.source}, example {str(examples.ids[row])!r}")


def _blocks(column: Column) -> Iterator[tuple[int, np.ndarray]]:
    first = np.asarray(column[:1])
    step = _BLOCK_OBJECTS if first.dtype.kind == "O" else max(1, _BLOCK_NUMBERS // max(1, first.size))
    for start in range(0, len(column), step):
        yield start, np.asarray(column[start : start + step])


def _first_missing(column: Column) -> int | None:
    if isinstance(column, ArrowColumn):
        return column.missing()
    for start, block in _blocks(column):
        if block.dtype.kind != "O":
            return None
        values = block.tolist()
        if type(None) in set(map(type, values)):
            return start + next(row for row, value in enumerate(values) if value is None)
    return None


def _type_word(value: Any, *, sequences: bool) -> str:
    if isinstance(value, bool):
        return "true/false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, bytes):
        return "bytes"
    if isinstance(value, dict):
        return "an object" if sequences else _UNREADABLE
    if sequences:
        return "a list"
    shape = _nested_shape(value)
    return _UNREADABLE if shape is None else f"a list of shape {shape}"


def _nested_shape(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return ()
    if not isinstance(value, list) or not value:
        return (0,) if value == [] else None
    shapes = {_nested_shape(item) for item in value}
    inner = next(iter(shapes))
    return None if len(shapes) > 1 or inner is None else (len(value), *inner)


def _wrong(place: str, name: str, value: Any, expected: str) -> DataError:
    return DataError(
        f"{place}, column {name!r}: found {_shown(value)}, expected {expected}.",
        fix="give the column one type in all rows, or name others (text=..., features=..., label=...).",
    )


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _dtype_word(labels: np.ndarray) -> str:
    return (
        "text"
        if labels.dtype.kind in "OUT"
        else "numbers"
        if labels.dtype.kind in "biuf"
        else str(labels.dtype)
    )
