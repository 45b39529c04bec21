"""Columns over memory-mapped Arrow data: they slice to arrays and read only the rows that are asked for."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.data.kinds import Kind, objects


@dataclass(frozen=True, eq=False)
class ArrowColumn:
    """One column of an Arrow file, as numbers, texts or nested values.

    Attributes:
        chunks: ``pyarrow.Array`` per record batch: memory-mapped, or read when it is asked for.
        kind: What the values are; nested ones are kept as JSON and come back as lists and dictionaries.
        lengths: Rows of every chunk; taken from the chunks by default.

    Example:
        >>> import pyarrow as pa
        >>> from steelyard.data.kinds import TEXT
        >>> column = ArrowColumn((pa.array(["a", "b"]), pa.array(["c"])), TEXT)
        >>> column[1:], column[2], len(column)
        (array(['b', 'c'], dtype=object), 'c', 3)
    """

    chunks: Sequence[Any]
    kind: Kind
    lengths: tuple[int, ...] = ()
    _starts: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        lengths = self.lengths or tuple(len(chunk) for chunk in self.chunks)
        starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
        object.__setattr__(self, "_starts", starts)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: Any, /) -> Any:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            return self._range(start, stop) if step == 1 else self._rows(np.arange(start, stop, step))
        if isinstance(rows, int | np.integer):
            return self._rows(np.array([int(rows)]))[0]
        index = np.asarray(rows)
        return self._rows(np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64))

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """All rows, for ``np.asarray``."""
        values = self[:]
        return values if dtype is None else values.astype(dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, and the shape of one value."""
        return (len(self), *self.kind.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the arrays that come back."""
        return np.dtype({"number": self.kind.dtype, "bool": "bool"}.get(self.kind.name, "object"))

    def missing(self) -> int | None:
        """Position of the first value that is None, without reading the values."""
        for position, start in enumerate(self._starts[:-1].tolist()):
            chunk = self.chunks[position]
            if chunk.null_count:
                return start + int(np.flatnonzero(chunk.is_null().to_numpy(zero_copy_only=False))[0])
        return None

    def _range(self, start: int, stop: int) -> np.ndarray:
        pieces = []
        for position, first in enumerate(self._starts[:-1].tolist()):
            low, high = max(start, first), min(stop, int(self._starts[position + 1]))
            if low < high:
                pieces.append(from_arrow(self.chunks[position].slice(low - first, high - low), self.kind))
        return np.concatenate(pieces) if len(pieces) > 1 else pieces[0] if pieces else self._empty()

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        rows = np.where(rows < 0, rows + len(self), rows)
        if len(rows) == 0:
            return self._empty()
        if rows.min() < 0 or rows.max() >= len(self):
            raise IndexError(f"row {int(rows.max())} of {len(self)}")
        if len(rows) == rows[-1] - rows[0] + 1 and bool((np.diff(rows) == 1).all()):
            return self._range(int(rows[0]), int(rows[-1]) + 1)
        out = np.empty((len(rows), *self.kind.shape), dtype=self.dtype)
        chunk_of_row = np.searchsorted(self._starts, rows, side="right") - 1
        for position in np.unique(chunk_of_row):
            wanted = np.flatnonzero(chunk_of_row == position)
            taken = self.chunks[position].take(_arrow_index(rows[wanted] - self._starts[position]))
            out[wanted] = from_arrow(taken, self.kind)
        return out

    def _empty(self) -> np.ndarray:
        return np.empty((0, *self.kind.shape), dtype=self.dtype)


@dataclass(frozen=True, eq=False)
class FileColumn:
    """Consecutive rows of a ``.npy`` file, read without mapping it: what is read once does not stay resident.

    Attributes:
        path: The file.
        mapped: The same array, memory-mapped, for its shape and type.
    """

    path: Path
    mapped: np.memmap

    def __len__(self) -> int:
        return len(self.mapped)

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        width = int(np.prod(self.mapped.shape[1:], dtype=np.int64))
        skipped = self.mapped.offset + start * width * self.mapped.dtype.itemsize
        flat = np.fromfile(self.path, self.mapped.dtype, max(0, stop - start) * width, offset=skipped)
        return flat.reshape(-1, *self.mapped.shape[1:])


def from_arrow(array: Any, kind: Kind) -> np.ndarray:
    """An array of :func:`to_arrow` back as NumPy; numbers without a copy."""
    if kind.name in ("number", "bool") and kind.shape:
        flat = array
        for _ in kind.shape:
            flat = flat.flatten()
        return flat.to_numpy(zero_copy_only=False).reshape(len(array), *kind.shape)
    if kind.name == "mixed":
        return objects((None if cell is None else json.loads(cell) for cell in array.to_pylist()), len(array))
    if kind.name == "null":
        return np.full(len(array), None, dtype=object)
    return array.to_numpy(zero_copy_only=False)


def to_arrow(values: np.ndarray, kind: Kind) -> Any:
    """An array of a kind as Arrow: tensors as fixed-size lists, nested values as JSON."""
    import pyarrow as pa

    if kind.name == "mixed":
        cells = [
            None if value is None else json.dumps(value, ensure_ascii=False) for value in values.tolist()
        ]
        return pa.array(cells, pa.large_string())
    if kind.name in ("text", "bytes"):
        return pa.array(values.tolist(), pa.large_string() if kind.name == "text" else pa.large_binary())
    if kind.name == "null":
        return pa.nulls(len(values))
    if not kind.shape:
        return pa.array(values)
    nested = pa.array(np.ascontiguousarray(values).reshape(-1))
    for width in reversed(kind.shape):
        nested = pa.FixedSizeListArray.from_arrays(nested, width)
    return nested


def _arrow_index(rows: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.array(rows)
