"""Cells that are Python values: rows of JSON, lists of dictionaries, items of data sets."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import chain
from typing import Any

import numpy as np

from steelyard.data.kinds import (
    BOOL,
    BYTES,
    DOUBLE,
    EXACT,
    INTEGER,
    MIXED,
    NULL,
    TEXT,
    Kind,
    common_kind,
    kind_of_array,
    objects,
)

_PLAIN = frozenset({str, int, float, bool, type(None)})
_DATES = (datetime.datetime, datetime.date, datetime.time, datetime.timedelta)


@dataclass(frozen=True)
class Values:
    """Python values of one column: None, bool, int, float, str, bytes, lists, dictionaries, arrays."""

    values: list[Any]
    kind: Kind

    def __len__(self) -> int:
        return len(self.values)

    def convert(self, kind: Kind, /) -> np.ndarray:
        """The values as an array of that kind."""
        if kind.name == "number" and kind.shape:
            return np.array(self.values, dtype=kind.dtype)
        if kind.name == "number":
            return np.array(self.values, dtype=kind.dtype)
        if kind.name == "bool":
            return np.array(self.values, dtype=bool)
        if kind.name == "mixed":
            return objects((_listed(value) for value in self.values), len(self.values))
        return objects(self.values, len(self.values))

    def texts(self) -> list[str | None]:
        """The values as text."""
        return [None if value is None else str(value) for value in self.values]


@dataclass(frozen=True)
class Missing:
    """A column that a batch does not have."""

    rows: int
    kind: Kind = NULL

    def __len__(self) -> int:
        return self.rows

    def convert(self, kind: Kind, /) -> np.ndarray:
        """NaN for numbers, None for everything else."""
        if kind.name == "number":
            return np.full(self.rows, np.nan, dtype=kind.dtype)
        return np.full(self.rows, None, dtype=object)

    def texts(self) -> list[str | None]:
        """As many Nones as rows."""
        return [None] * self.rows


def values_of(values: list[Any]) -> Values:
    """Python values with their kind; only types that :func:`plain` gives back."""
    return Values(values, _kind_of_values(values))


def columns_of(rows: list[dict[str, Any]]) -> dict[str, Values]:
    """Rows as columns, in order of first appearance; a key that a row lacks is None there."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: values_of([row.get(name) for row in rows]) for name in names}


def plain(value: Any) -> Any:
    """A value in the few types that columns hold: dates as text, NumPy scalars and Decimals as numbers.

    Raises:
        TypeError: If there is no plain form; the message is the type's name.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, np.ndarray) and value.ndim:
        return value
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.item())
    if isinstance(value, list | tuple):
        return [_listed(plain(item)) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _listed(plain(item)) for name, item in value.items()}
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, bytes):
        return value
    if isinstance(value, _DATES):
        return str(value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):  # a subclass, such as an IntEnum
            return kind(value)
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(type(value).__name__)


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _kind_of_values(values: list[Any]) -> Kind:
    types = set(map(type, values))
    missing = type(None) in types
    types.discard(type(None))
    if not types:
        return NULL
    if types == {bool}:
        return MIXED if missing else BOOL
    if types <= {int, float}:
        return _kind_of_numbers(values, types, missing=missing)
    if types == {str}:
        return TEXT
    if types == {bytes}:
        return BYTES
    if types <= {list, np.ndarray} and not missing:
        return _kind_of_lists(values)
    return MIXED


def _kind_of_numbers(values: list[Any], types: set[type], *, missing: bool) -> Kind:
    if int not in types:
        return DOUBLE
    integers = [value for value in values if type(value) is int]
    low, high = min(integers), max(integers)
    big = low < -EXACT or high > EXACT
    if big and (missing or float in types or low < -(2**63) or high >= 2**63):
        return MIXED
    return DOUBLE if missing or float in types else Kind("number", "int64", (), big) if big else INTEGER


def _kind_of_lists(values: list[Any]) -> Kind:
    """Numbers with a shape if all lists are full, of one shape, and hold numbers only; else mixed."""
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    lists = [value for value in values if not isinstance(value, np.ndarray)]
    kinds = [_kind_of_arrays(arrays)] if arrays else []
    return common_kind([*kinds, *([_kind_of_nested(lists)] if lists else [])])


def _kind_of_arrays(arrays: list[np.ndarray]) -> Kind:
    forms = {(array.shape, array.dtype) for array in arrays}
    if len({shape for shape, _ in forms}) > 1:
        return MIXED
    kind = kind_of_array(np.stack(arrays))
    return kind if kind is not None and kind.name == "number" and arrays[0].size else MIXED


def _kind_of_nested(lists: list[Any]) -> Kind:
    # Looks at every type before NumPy does, because np.array makes True a 1 and rounds integers beside fractions.
    leaves: list[Any] = lists
    types = {list}
    while types == {list}:
        leaves = list(chain.from_iterable(leaves))
        types = set(map(type, leaves))
    if not types or not types <= {int, float}:
        return MIXED
    scalar = _kind_of_numbers(leaves, types, missing=False)
    if scalar == MIXED:
        return MIXED
    try:
        shape = np.array(lists, dtype=scalar.dtype).shape[1:]
    except ValueError:  # ragged
        return MIXED
    return replace(scalar, shape=shape)
