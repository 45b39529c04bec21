"""Examples: rows with stable ids and named columns, in memory, memory-mapped or on Arrow."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from steelyard.errors import DataError, ShapeError


@runtime_checkable
class Column(Protocol):
    """One column: an ndarray (memory-mapped or not), or anything that slices to one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class Examples:
    """Training examples or queries.

    Attributes:
        ids: ``str[" example"]`` One stable, unique id per example.
        columns: Name to column; every column has one entry per example on its first axis.
        inputs: Names of the columns that the model reads, in order.
        label: Name of the column that holds the label or regression target, if there is one.
        checksum: Checksum of the content (columns and ids), the same on every machine.
        source: Where the examples came from, for people: a path, or ``"arrays"``.

    Raises:
        ShapeError: If a column and the ids disagree in length, or ids repeat.
        DataError: If a named column is missing.
    """

    ids: np.ndarray
    columns: Mapping[str, Column]
    inputs: tuple[str, ...]
    label: str | None
    checksum: str
    source: str = "arrays"

    def __post_init__(self) -> None:
        for name, column in self.columns.items():
            if len(column) != len(self.ids):
                raise ShapeError(
                    f"{self.source}: column {name!r} has {len(column)} rows, but there are {len(self.ids)} ids.",
                    fix="give one id and one value of every column per example.",
                )
        for name in (*self.inputs, *([self.label] if self.label else [])):
            self.column(name)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return (
            f"Examples({len(self)} from {self.source}, inputs={list(self.inputs)}, label={self.label!r}, "
            f"columns={list(self.columns)}, checksum={self.checksum[:12]})"
        )

    def column(self, name: str) -> Column:
        """The column of that name.

        Raises:
            DataError: If there is none; the message lists those that exist.
        """
        if name not in self.columns:
            raise DataError(
                f"{self.source}: there is no column {name!r}; the columns are {', '.join(map(repr, self.columns))}.",
                fix="name an existing column with the options for text, label, id or features.",
            )
        return self.columns[name]

    def labels(self) -> np.ndarray:
        """``[" example"]`` The label column as an array.

        Raises:
            DataError: If these examples have no label.
        """
        if self.label is None:
            raise DataError(
                f"{self.source}: these examples have no label column.",
                fix="name it with label=... (on the command line: --label NAME).",
            )
        return np.asarray(self.column(self.label)[:])

    def weights(self) -> np.ndarray:
        """``float64[" example"]`` The column ``weight`` if there is one, else ones.

        The weight multiplies the example's training loss. A column that the model reads as an input is not it.

        Raises:
            DataError: If a weight is negative or not finite; names the example.
        """
        if "weight" not in self.columns or "weight" in self.inputs:
            return np.ones(len(self))
        weights = np.asarray(self.columns["weight"][:], dtype=np.float64)
        bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
        if len(bad):
            raise DataError(
                f"{self.source}: example {str(self.ids[bad[0]])!r} has weight {weights[bad[0]]}.",
                fix="weights are finite and not negative; 0 leaves an example out.",
            )
        return weights

    def input(self) -> Column:
        """The single input column.

        Raises:
            DataError: If the model reads several columns.
        """
        if len(self.inputs) != 1:
            raise DataError(
                f"{self.source}: expected one input column, found {list(self.inputs)}.",
                fix="use a learner that reads several columns, or stack them into one array.",
            )
        return self.column(self.inputs[0])

    def take(self, rows: np.ndarray | slice) -> "Examples":
        """The examples at those positions, in that order, with their ids; the checksum names the subset."""
        index = np.arange(len(self))[rows]
        columns = {name: np.asarray(column[index]) for name, column in self.columns.items()}
        digest = _subset_checksum(self.checksum, index)
        return replace(self, ids=self.ids[index], columns=columns, checksum=digest)

    def with_column(self, name: str, values: np.ndarray, checksum: str) -> "Examples":
        """The same examples with one column added or replaced."""
        return replace(self, columns={**self.columns, name: values}, checksum=checksum)

    def batches(self, size: int) -> Iterator["Examples"]:
        """Consecutive pieces of at most ``size`` examples."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    def row(self, position: int) -> dict[str, Any]:
        """One example as a plain dictionary, for showing it."""
        return {name: column[position] for name, column in self.columns.items()}

    def positions(self, ids: np.ndarray) -> np.ndarray:
        """``int64[" id"]`` Positions of the given ids.

        Raises:
            DataError: If an id is not among these examples.
        """
        order = np.argsort(self.ids, kind="stable")
        ids = np.asarray(ids, dtype=self.ids.dtype.kind)
        found = np.searchsorted(self.ids, ids, sorter=order)
        found = order[np.minimum(found, len(order) - 1)] if len(order) else np.zeros(len(ids), dtype=np.int64)
        missing = ids[self.ids[found] != ids] if len(order) else ids
        if len(missing):
            raise DataError(
                f"{self.source}: no example has the id {str(missing[0])!r} ({len(missing)} ids not found).",
                fix="use ids of these examples; ids come from the id column or from the content.",
            )
        return found


def _subset_checksum(checksum: str, index: np.ndarray) -> str:
    import hashlib

    digest = hashlib.sha256(checksum.encode())
    digest.update(np.ascontiguousarray(index, dtype=np.int64).tobytes())
    return digest.hexdigest()
