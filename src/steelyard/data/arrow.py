"""Columnar sources: Parquet and Arrow files, Hugging Face data sets, tables of other libraries."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.data.kinds import (
    BOOL,
    BYTES,
    DOUBLE,
    MIXED,
    TEXT,
    Batch,
    Cells,
    Kind,
    Source,
    kind_of_array,
    objects,
    row_number,
)
from steelyard.data.limits import Limits
from steelyard.data.lines import check_readable, file_key
from steelyard.data.values import Missing, plain
from steelyard.errors import DataError

_BATCH_ROWS = 16_384
_BUFFER = 2**20


@dataclass(frozen=True)
class ArrowCells:
    """Cells of one column of an Arrow batch: null, bool, number, text, bytes or nested."""

    array: Any
    kind: Kind

    def __len__(self) -> int:
        return len(self.array)

    def convert(self, kind: Kind, /) -> np.ndarray:
        """The cells as an array of that kind."""
        if kind.name == "number":
            return _tensor(self.array, kind.dtype)
        if kind.name == "mixed":
            return objects((plain(value) for value in self.array.to_pylist()), len(self.array))
        return self.array.to_numpy(zero_copy_only=False)

    def texts(self) -> list[str | None]:
        """The cells as text."""
        return [None if value is None else str(value) for value in self.array.to_pylist()]


def table_source(table: Any, name: str, limits: Limits) -> Source:
    """A ``pyarrow.Table`` in memory."""
    rows = _batch_rows(table.nbytes, table.num_rows, limits)
    return Source(name, lambda: _batches(table.to_batches(max_chunksize=rows)), row_number)


def parquet_source(path: Path, limits: Limits) -> Source:
    """A Parquet file, read row group by row group."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    check_readable(path)

    def batches() -> Iterator[Batch]:
        try:
            with parquet.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
                yield from _batches(file.iter_batches(batch_size=_batch_rows(size, rows, limits)))
        except (pa.ArrowInvalid, OSError) as error:
            raise _broken(path, "Parquet", error) from error

    try:
        with parquet.ParquetFile(path) as file:
            rows = file.metadata.num_rows
            groups = range(file.metadata.num_row_groups)
            size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
    except (pa.ArrowInvalid, OSError) as error:
        raise _broken(path, "Parquet", error) from error
    return Source(str(path), batches, row_number, max(size, path.stat().st_size), file_key(path))


def arrow_source(*paths: Path, name: str, limits: Limits) -> Source:
    """Arrow IPC files or streams, one after the other."""
    for path in paths:
        check_readable(path)
    size = sum(path.stat().st_size for path in paths)
    return Source(name, lambda: _ipc_batches(paths, limits), row_number, size, file_key(*paths))


def saved_dataset_source(folder: Path, limits: Limits) -> Source:
    """A data set saved by ``datasets.Dataset.save_to_disk``; read without that library.

    Raises:
        DataError: If the folder holds several splits, or no data set.
    """
    splits = folder / "dataset_dict.json"
    if splits.exists():
        names = json.loads(splits.read_text(encoding="utf-8")).get("splits", [])
        raise DataError(
            f"{folder}: holds the splits {', '.join(names)}; expected one data set.",
            fix=f"name one of them: {folder / (names[0] if names else 'train')}.",
        )
    state = folder / "state.json"
    if not state.exists():
        raise DataError(
            f"{folder}: this is a folder, but not a saved Hugging Face data set (state.json is missing).",
            fix="name a file inside it, or a folder written by Dataset.save_to_disk.",
        )
    try:
        files = [
            folder / entry["filename"]
            for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{state}: damaged: {error!r}.", fix="save the data set again.") from error
    outside = [file for file in files if file.parent != folder]
    if outside:
        raise DataError(
            f"{state}: names a file outside its folder: {outside[0]}.", fix="save the data set again."
        )
    return arrow_source(*files, name=str(folder), limits=limits)


def loaded_dataset_source(dataset: Any, limits: Limits) -> Source:
    """A ``datasets.Dataset`` in memory, with its own order and selection of rows."""
    rows = _batch_rows(dataset.data.nbytes, dataset.data.num_rows, limits)

    def batches() -> Iterator[Batch]:
        for table in dataset.with_format("arrow").iter(batch_size=rows):
            yield from _batches(table.combine_chunks().to_batches())

    return Source("Hugging Face data set", batches, row_number, 0, f"datasets\t{dataset._fingerprint}")


def arrow_cells(array: Any) -> Cells:
    """One Arrow column as cells, with types brought down to the few kinds there are."""
    array = _simplified(array)
    if array.null_count == len(array):
        return Missing(len(array))
    return ArrowCells(array, _kind(array))


def _batch_rows(size: int, rows: int, limits: Limits) -> int:
    """Rows that take about as many bytes as may be read at a time."""
    return max(1, min(_BATCH_ROWS, limits.batch_bytes() * rows // max(1, size)))


def _batches(batches: Any) -> Iterator[Batch]:
    for batch in batches:
        if batch.num_rows:
            columns = zip(batch.schema.names, batch.columns, strict=True)
            yield Batch({name: arrow_cells(column) for name, column in columns}, batch.num_rows, batch.nbytes)


def _ipc_batches(paths: tuple[Path, ...], limits: Limits) -> Iterator[Batch]:
    import pyarrow as pa

    for path in paths:
        try:
            with pa.memory_map(str(path)) as file:
                for batch in _ipc_reader(file):
                    rows = _batch_rows(batch.nbytes, batch.num_rows, limits)
                    yield from _batches(batch.slice(start, rows) for start in range(0, batch.num_rows, rows))
        except (pa.ArrowInvalid, OSError) as error:
            raise _broken(path, "Arrow", error) from error


def _ipc_reader(file: Any) -> Iterator[Any]:
    import pyarrow as pa

    if file.size() >= 6 and file.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(file)
        return (reader.get_batch(i) for i in range(reader.num_record_batches))
    file.seek(0)
    return iter(pa.ipc.open_stream(file))


def _broken(path: Path, what: str, error: Exception) -> DataError:
    return DataError(f"{path}: not a readable {what} file: {error}.", fix="write or copy the file again.")


def _simplified(array: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as compute

    if isinstance(array, pa.ExtensionArray):
        return _simplified(array.storage)
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _simplified(array.dictionary_decode())
    if pa.types.is_temporal(kind):
        return compute.cast(array, pa.string())
    if pa.types.is_decimal(kind):
        return compute.cast(array, pa.float64())
    return compute.cast(array, pa.float32()) if pa.types.is_float16(kind) else array


def _kind(array: Any) -> Kind:
    import pyarrow as pa

    kind = array.type
    if pa.types.is_boolean(kind):
        return MIXED if array.null_count else BOOL
    if pa.types.is_floating(kind):
        return Kind("number", str(kind.to_pandas_dtype().__name__))
    if pa.types.is_integer(kind):
        return _integer_kind(array)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return TEXT
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return BYTES
    return _nested_kind(array)


def _integer_kind(array: Any) -> Kind:
    values = array.drop_null().to_numpy(zero_copy_only=False) if array.null_count else array.to_numpy()
    kind = kind_of_array(values)
    if kind is None or not array.null_count:
        return kind or MIXED
    return MIXED if kind.big else DOUBLE


def _nested_kind(array: Any) -> Kind:
    """A number kind with a shape if all lists are full and of one length, else mixed."""
    import pyarrow as pa

    shape: list[int] = []
    inner = array
    while _is_list(inner.type):
        length = _common_length(inner)
        if not length:
            return MIXED
        shape.append(length)
        inner = inner.flatten()
    is_number = pa.types.is_floating(inner.type) or pa.types.is_integer(inner.type)
    if not shape or not is_number or inner.null_count:
        return MIXED
    kind = _kind(inner)
    return Kind("number", kind.dtype, tuple(shape), kind.big)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _common_length(array: Any) -> int:
    import pyarrow.compute

    compute: Any = pyarrow.compute  # its functions are made at import, where no type checker sees them
    if array.null_count:
        return 0
    lengths = compute.unique(compute.list_value_length(array)).to_pylist()
    return lengths[0] if len(lengths) == 1 else 0


def _tensor(array: Any, dtype: str) -> np.ndarray:
    shape: list[int] = [len(array)]
    while _is_list(array.type):
        shape.append(_common_length(array))
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False).astype(dtype, copy=False).reshape(shape)
