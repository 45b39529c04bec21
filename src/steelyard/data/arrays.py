"""Sources in memory: arrays, tensors, frames, lists, torch data sets; and NumPy's files.

Libraries are never imported here: an object of a library can only arrive where that library is imported
already, so ``sys.modules`` is asked for its types.
"""

import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.data.kinds import Batch, Source, row_number
from steelyard.data.lines import check_readable
from steelyard.data.values import columns_of, plain
from steelyard.errors import DataError, ShapeError

_BATCH_ROWS = 1024


def loaded(module: str) -> Any:
    """A module if it has been imported already, else None."""
    return sys.modules.get(module)


def is_instance(value: Any, module: str, *names: str) -> bool:
    """Whether a value is of one of a module's types, without importing the module."""
    found = loaded(module)
    return found is not None and isinstance(value, tuple(getattr(found, name) for name in names))


def is_frame(value: Any) -> bool:
    """Whether a value is a table of pandas, polars or Arrow."""
    return (
        is_instance(value, "pandas", "DataFrame")
        or is_instance(value, "polars", "DataFrame")
        or is_instance(value, "pyarrow", "Table", "RecordBatch")
    )


def as_table(frame: Any) -> Any:
    """A table of pandas, polars or Arrow as a ``pyarrow.Table``; the index of pandas is left out."""
    import pyarrow as pa

    if is_instance(frame, "pandas", "DataFrame"):
        named = frame.rename(columns=str)
        try:
            return pa.Table.from_pandas(named, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                f"pandas table: a column mixes types: {error.args[0]}.",
                fix="give every column one type: astype.",
            ) from error
    if is_instance(frame, "polars", "DataFrame"):
        return frame.to_arrow()
    return pa.Table.from_batches([frame]) if isinstance(frame, pa.RecordBatch) else frame


def as_array(value: Any, name: str) -> np.ndarray:
    """Anything array-like as an array, without a copy where possible.

    Raises:
        DataError: If it is sparse, a scalar, or its rows differ in length.
    """
    if is_instance(value, "torch", "Tensor"):
        tensor = value.detach().cpu()
        return (tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy()
    if loaded("scipy.sparse") is not None and loaded("scipy.sparse").issparse(value):
        raise DataError(f"{name}: a sparse matrix, expected a dense array.", fix="pass X.toarray().")
    if isinstance(value, list | tuple):
        _check_rectangular(value, name)
    if isinstance(value, np.ma.MaskedArray):
        raise DataError(
            f"{name}: a masked array, whose gaps would be read as values.", fix="pass X.filled(...)."
        )
    array = value if isinstance(value, np.memmap) else np.asarray(value)
    if array.ndim == 0:
        raise DataError(
            f"{name}: a single {type(value).__name__}, expected an array with one entry per example.",
            fix="give an array, a tensor, a table, a list or a path.",
        )
    return array


def named_arrays(columns: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """Arrays of equal length by name.

    Raises:
        ShapeError: If they differ in length.
    """
    arrays = {str(key): as_array(value, f"{name}, column {str(key)!r}") for key, value in columns.items()}
    lengths = {key: len(array) for key, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{key!r} has {length}" for key, length in lengths.items())
        raise ShapeError(
            f"{name}: the columns differ in length: {shown} rows.", fix="give one entry per example."
        )
    return arrays


def load_npy(path: Path) -> np.ndarray:
    """A ``.npy`` file, memory-mapped.

    Raises:
        DataError: If it is not one, or holds Python objects.
    """
    check_readable(path)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _numpy_error(path, error) from error


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` file, in memory.

    Raises:
        DataError: If it is not one, or holds Python objects.
    """
    check_readable(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise _numpy_error(path, error) from error


def unpack_npz(path: Path, folder: Path) -> None:
    """Write the arrays of a ``.npz`` file as ``.npy`` files, without holding any.

    Raises:
        DataError: If it is not such a file.
    """
    check_readable(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy") and "/" not in name]
            for name in members:
                archive.extract(name, folder)
    except zipfile.BadZipFile as error:
        raise _numpy_error(path, error) from error


def rows_source(rows: list[Any], name: str) -> Source:
    """A list of dictionaries."""
    for position, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(
                f"{name}, {row_number(position)}: a {type(row).__name__}, but row 0 is a dictionary.",
                fix="give a list in which every row is a dictionary.",
            )
    return _item_source(rows, name)


def dataset_source(dataset: Any) -> Source:
    """A torch ``Dataset``: map-style, or iterable with a length. Items are ``(x, y)``, ``x`` or dictionaries.

    Raises:
        DataError: If it has no length, or gives another first item each time it is asked.
    """
    name = type(dataset).__name__
    if not callable(getattr(dataset, "__len__", None)):
        raise DataError(f"{name}: a data set without a length.", fix="collect it first: list(dataset).")
    if not is_instance(dataset, "torch.utils.data", "IterableDataset") and len(dataset):
        _check_repeatable(dataset, name)
        return _item_source(_Indexed(dataset), name)
    return _item_source(dataset, name)


def item_source(items: list[Any], name: str) -> Source:
    """A list of ``(x, y)`` tuples."""
    return _item_source(items, name)


class _Indexed:
    """A map-style data set read by position, because not all of them stop iterating at their length."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        return (self._dataset[position] for position in range(len(self._dataset)))


def _item_source(items: Any, name: str) -> Source:
    def batches() -> Iterator[Batch]:
        rows: list[dict[str, Any]] = []
        size = 0
        for position, item in enumerate(items):
            rows.append(_item_row(item, f"{name}, {row_number(position)}"))
            size += sum(map(_size, rows[-1].values()))
            if len(rows) >= _BATCH_ROWS:
                yield Batch(columns_of(rows), len(rows), size)
                rows, size = [], 0
        if rows:
            yield Batch(columns_of(rows), len(rows), size)

    return Source(name, batches, row_number)


def _item_row(item: Any, place: str) -> dict[str, Any]:
    if isinstance(item, tuple):
        if len(item) > 2:
            raise DataError(
                f"{place}: a tuple of {len(item)}, expected (input, label).",
                fix="return a dictionary with named entries instead.",
            )
        item = dict(zip(("input", "label"), item, strict=False))
    elif not isinstance(item, Mapping):
        item = {"input": item}
    row = {}
    for name, value in item.items():
        try:
            row[str(name)] = plain(_untorched(value, name))
        except TypeError as error:
            raise DataError(
                f"{place}, column {str(name)!r}: a {error}, expected numbers, text or arrays.",
                fix="turn it into an array or a tensor (for images: a transform such as ToTensor).",
            ) from error
    return row


def _untorched(value: Any, name: str) -> Any:
    if not is_instance(value, "torch", "Tensor"):
        return value
    return as_array(value, name) if value.ndim else value.item()


def _size(value: Any) -> int:
    return value.nbytes if isinstance(value, np.ndarray) else sys.getsizeof(value)


def _check_repeatable(dataset: Any, name: str) -> None:
    first, again = (_item_row(dataset[0], f"{name}, {row_number(0)}") for _ in range(2))
    same = first.keys() == again.keys() and all(_is_same(first[name], again[name]) for name in first)
    if not same:
        raise DataError(
            f"{name}: item 0 is different each time it is read.",
            fix="turn random augmentation off: an example must be the same whenever it is looked at.",
        )


def _is_same(first: Any, again: Any) -> bool:
    if isinstance(first, np.ndarray) and isinstance(again, np.ndarray):
        return first.shape == again.shape and first.tobytes() == again.tobytes()
    return first == again or (first != first and again != again)  # NaN is the same as NaN here


def _check_rectangular(rows: Any, name: str) -> None:
    lengths = [len(row) if isinstance(row, list | tuple) else None for row in rows]
    for position, length in enumerate(lengths):
        if length != lengths[0]:
            width = "a single value" if lengths[0] is None else f"{lengths[0]} values"
            found = "a single value" if length is None else f"{length} values"
            raise DataError(
                f"{name}, {row_number(position)}: {found}, but row 0 has {width}.",
                fix="make all rows equally long, by padding or cutting them.",
            )
    if lengths and lengths[0] is not None:
        for position, row in enumerate(rows):
            _check_rectangular(row, f"{name}, {row_number(position)}")


def _numpy_error(path: Path, error: Exception) -> DataError:
    if any(word in str(error) for word in ("pickle", "Python objects")):
        return DataError(
            f"{path}: holds Python objects, which only pickle can read and which could run code.",
            fix="save plain arrays of numbers or text (dtype other than object).",
        )
    return DataError(
        f"{path}: not a readable NumPy file: {error}.", fix="write it with numpy.save or numpy.savez."
    )
