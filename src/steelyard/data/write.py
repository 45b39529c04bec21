"""Examples back to files: JSON Lines, CSV and Parquet, with their ids, so that reading gives them again."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial, reduce
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from steelyard.data.columns import to_arrow
from steelyard.data.kinds import kind_of_array
from steelyard.errors import DataError
from steelyard.records import Examples

_BLOCK = 8192
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_COMPRESSION = {".gz": "gzip", ".zst": "zstd"}

Writer = Callable[[Examples, BinaryIO], None]


def write(examples: Examples, path: str | Path) -> Path:
    r"""Write examples to a file whose format its name tells.

    ``.jsonl`` and ``.csv`` (each also ``.gz`` and ``.zst``) and ``.parquet``. Ids are the first column, named
    ``id`` (``example_id`` if a column has that name). JSON Lines and Parquet keep every value; missing
    numbers are null. In CSV, text that a spreadsheet would run as a formula (``=``, ``+``, ``-``, ``@``, tab
    or carriage return first) gets an apostrophe in front, nested values are JSON, and None is an empty cell.
    The file appears when it is complete, or not at all.

    Cost: one pass (two for Parquet with text), holding 8,192 examples.

    Args:
        examples: What to write.
        path: Where to; an existing file is replaced.

    Returns:
        The path.

    Raises:
        DataError: If the format is unknown or cannot hold a value, or the file cannot be written.

    Example:
        >>> from steelyard.data import read
        >>> path = write(read([{"id": "a", "text": "good"}]), getfixture("tmp_path") / "good.jsonl")
        >>> path.read_text()
        '{"id": "a", "text": "good"}\n'
    """
    path = Path(path)
    writer = _writer(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with _opened(part, path.suffix.lower()) as file:
            writer(examples, file)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written: {error.strerror or error}.",
            fix="check the folder, its permissions and the space on the disk, or choose another path.",
        ) from error
    finally:
        with suppress(OSError):  # gone when it was renamed; and where it cannot be removed, it was never made
            part.unlink()
    return path


def _writer(path: Path) -> Writer:
    name = path.name.lower()
    if name.endswith(".parquet"):
        return partial(_write_parquet, path)
    stem = name.removesuffix(path.suffix.lower()) if path.suffix.lower() in _COMPRESSION else name
    if stem.endswith(".jsonl"):
        return partial(_write_jsonl, path)
    if stem.endswith(".csv"):
        return partial(_write_csv, path)
    raise DataError(
        f"{path}: unknown file type {path.suffix!r}.",
        fix="choose a name that ends in .jsonl or .csv (each also with .gz or .zst), or in .parquet.",
    )


def _opened(part: Path, ending: str) -> BinaryIO:
    if ending not in _COMPRESSION:
        return part.open("wb")
    import pyarrow as pa

    return io.BufferedWriter(cast(Any, pa.output_stream(str(part), compression=_COMPRESSION[ending])))


def _write_jsonl(path: Path, examples: Examples, file: BinaryIO) -> None:
    for block in _blocks(examples):
        names = list(block)
        for row in zip(*(_plain_list(column) for column in block.values()), strict=True):
            try:
                line = json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, allow_nan=False)
                file.write(line.encode() + b"\n")
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"{path}: example {row[0]!r} holds a value that JSON cannot say: {error}.",
                    fix="write .parquet instead, or leave the column out.",
                ) from error


def _write_csv(path: Path, examples: Examples, file: BinaryIO) -> None:
    for name, column in examples.columns.items():
        shape = np.asarray(column[:1]).shape[1:]
        if shape:
            raise DataError(
                f"{path}: column {name!r} has {int(np.prod(shape))} numbers per example, a cell holds one.",
                fix="write .jsonl or .parquet instead.",
            )
    # Text is quoted always, because csv leaves a lone carriage return bare, which no reader takes.
    writer = csv.writer(_Encoded(file), lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    for position, block in enumerate(_blocks(examples)):
        if position == 0:
            writer.writerow([_cell(name) for name in block])
        columns = [[_cell(value) for value in _plain_list(column)] for column in block.values()]
        writer.writerows(zip(*columns, strict=True))


class _Encoded:
    """What ``csv.writer`` writes to: text as UTF-8."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write text; the number of bytes."""
        return self._file.write(text.encode())


def _cell(value: Any) -> str | int | float:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return "'" + value if value.startswith(_FORMULA) else value
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=repr)


def _write_parquet(path: Path, examples: Examples, file: BinaryIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        schemas = [_record(block).schema for block in _blocks(examples)]
        schema = reduce(_united, schemas[1:], schemas[0])
        with parquet.ParquetWriter(file, schema) as writer:
            for block in _blocks(examples):
                writer.write_batch(_record(block, schema))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{path}: Parquet cannot hold a column of several types: {error}.", fix="write .jsonl instead."
        ) from error


def _united(first: Any, second: Any) -> Any:
    import pyarrow as pa

    return pa.unify_schemas([first, second], promote_options="permissive")


def _record(block: dict[str, np.ndarray], schema: Any = None) -> Any:
    import pyarrow as pa

    arrays = []
    for name, values in block.items():
        kind = None if values.dtype.kind == "O" else kind_of_array(values)
        if kind is None or kind.name in ("text", "bytes"):
            arrays.append(pa.array(values.tolist(), None if schema is None else schema.field(name).type))
        else:
            arrays.append(to_arrow(values, kind))
    return pa.record_batch(arrays, names=list(block))


def _blocks(examples: Examples) -> Iterator[dict[str, np.ndarray]]:
    name = "id" if "id" not in examples.columns else "example_id"
    if name in examples.columns:
        raise DataError(
            f"{examples.source}: columns named 'id' and 'example_id' leave no name for the ids.",
            fix="rename one of them before.",
        )
    for start in range(0, len(examples), _BLOCK):
        rows = slice(start, start + _BLOCK)
        columns = {key: np.asarray(column[rows]) for key, column in examples.columns.items()}
        yield {name: np.asarray(examples.ids[rows]), **columns}


def _plain_list(column: np.ndarray) -> list[Any]:
    """Values as Python's own; NaN, which is how a missing number is held, as None."""
    values = column.tolist()
    if column.dtype.kind == "f" and column.ndim == 1:
        return [None if value != value else value for value in values]
    return values
