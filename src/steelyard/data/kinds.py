"""Kinds: what a column holds. Decided over all rows of a source before any value is converted.

A reader hands over batches of cells as its library gave them. The kinds of all batches are widened to one
kind per column, and only then are the cells converted, so that the size of a batch never changes a value:
``1`` followed a million rows later by ``0.5`` is the same column as ``1, 0.5``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

KindName = Literal["null", "bool", "number", "text", "bytes", "mixed"]

EXACT = 2**53
"""Integers beyond this are not exact in float64."""


@dataclass(frozen=True)
class Kind:
    """What every value of a column is.

    Attributes:
        name: ``"null"`` holds nothing but None; ``"mixed"`` holds anything JSON can say (nested, or of
            several types).
        dtype: NumPy dtype of numbers.
        shape: Shape of one value; ``()`` for scalars, ``(8, 8)`` for small images.
        big: Whether there are integers that float64 cannot hold.
    """

    name: KindName
    dtype: str = ""
    shape: tuple[int, ...] = ()
    big: bool = False

    def __str__(self) -> str:
        word = {"null": "nothing", "bool": "true/false", "mixed": "mixed values"}.get(self.name, self.name)
        return f"{word} of shape {self.shape}" if self.shape else word


NULL = Kind("null")
BOOL = Kind("bool")
TEXT = Kind("text")
BYTES = Kind("bytes")
MIXED = Kind("mixed")
INTEGER = Kind("number", "int64")
DOUBLE = Kind("number", "float64")


@runtime_checkable
class Cells(Protocol):
    """One column of one batch, as its source gave it."""

    @property
    def kind(self) -> Kind:
        """The narrowest kind that holds these cells."""
        ...

    def __len__(self) -> int: ...

    def convert(self, kind: Kind, /) -> np.ndarray:
        """The cells as an array of that kind, which is :attr:`kind` or wider."""
        ...

    def texts(self) -> list[str | None]:
        """The cells as they were written, for ids."""
        ...


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a source.

    Attributes:
        cells: Column name to its cells; a column that no row of this batch has may be absent.
        rows: Number of rows.
        size: Bytes that these rows take, about.
    """

    cells: Mapping[str, Cells]
    rows: int
    size: int


@dataclass(frozen=True)
class Source:
    """Where rows come from.

    Attributes:
        name: For people: the path, or what kind of object was given.
        batches: Starts reading from the first row; every call gives the same rows.
        where: Row position to what a person looks for: ``"line 7"``, ``"row 6"``.
        size: Bytes that the rows take at least; 0 if unknown.
        key: Names this very content, for the cache; None if nothing cheaper than reading it does.
        fallback: Kind of a column whose values have several types.
    """

    name: str
    batches: Callable[[], Iterator[Batch]]
    where: Callable[[int], str]
    size: int = 0
    key: str | None = None
    fallback: Kind = MIXED


def row_number(row: int) -> str:
    """How a row is named where there are no lines."""
    return f"row {row} (counted from 0)"


def widen(a: Kind, b: Kind) -> Kind:
    """The narrowest kind that holds the values of both; associative and commutative."""
    if a == b:
        return a
    if a.name == "null":
        return _with_missing(b)
    if b.name == "null":
        return _with_missing(a)
    if a.name == b.name == "number" and a.shape == b.shape:
        dtype, big = _common_dtype(np.dtype(a.dtype), np.dtype(b.dtype)), a.big or b.big
        return MIXED if big and dtype.kind == "f" else Kind("number", dtype.name, a.shape, big)
    return MIXED


def column_kinds(batches: Sequence[Batch] | Iterator[Batch], fallback: Kind) -> tuple[dict[str, Kind], int]:
    """Kind of every column over all batches, in order of first appearance, and the number of rows.

    Cost: one look at every cell; holds one batch.
    """
    kinds: dict[str, Kind] = {}
    rows = 0
    for batch in batches:
        for name, cells in batch.cells.items():
            before = kinds.get(name, NULL if rows else None)
            kinds[name] = cells.kind if before is None else widen(before, cells.kind)
        for name in kinds.keys() - batch.cells.keys():
            kinds[name] = widen(kinds[name], NULL)
        rows += batch.rows
    return {name: fallback if kind == MIXED else kind for name, kind in kinds.items()}, rows


def common_kind(kinds: Sequence[Kind]) -> Kind:
    """The narrowest kind that holds the values of all."""
    return reduce(widen, kinds)


def objects(values: Sequence[Any] | Iterator[Any], count: int) -> np.ndarray:
    """``object[" value"]`` of any values; lists stay lists."""
    return np.fromiter(values, dtype=object, count=count)


def kind_of_array(array: np.ndarray) -> Kind | None:
    """The kind of an array's rows; None if no kind holds them (complex numbers, records, dates, objects)."""
    shape, code = array.shape[1:], array.dtype.kind
    if code == "b":
        return Kind("bool", shape=shape)
    if code in "iuf":
        return Kind("number", array.dtype.name, shape, code in "iu" and _is_big(array))
    if code in "UT" and not shape:
        return TEXT
    return BYTES if code == "S" and not shape else None


def _common_dtype(a: np.dtype, b: np.dtype) -> np.dtype:
    # NumPy's promotion of several types depends on their order: int16 and uint16 are int32, which with float32 is
    # float64, but each alone with float32 is float32. Here a whole number beside a fraction is always float64.
    return np.promote_types(a, b) if (a.kind == "f") == (b.kind == "f") else np.dtype(np.float64)


def _with_missing(kind: Kind) -> Kind:
    # A missing number becomes NaN, which only a float can hold; nothing else changes a value.
    if kind.name in ("text", "bytes", "mixed", "null"):
        return kind
    if kind.name == "number" and not kind.shape and not kind.big:
        return kind if np.dtype(kind.dtype).kind == "f" else DOUBLE
    return MIXED


def _is_big(array: np.ndarray) -> bool:
    if array.dtype.itemsize < 8 or array.size == 0:
        return False
    return bool(array.max() > EXACT) or bool(array.min() < -EXACT)
