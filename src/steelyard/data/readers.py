"""``read``: any kind of data to :class:`steelyard.records.Examples`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.data import arrays, arrow
from steelyard.data.assemble import from_arrays, from_source
from steelyard.data.cache import kept
from steelyard.data.checks import check_read
from steelyard.data.delimited import csv_source
from steelyard.data.kinds import Source
from steelyard.data.limits import Limits
from steelyard.data.lines import file_key, jsonl_source
from steelyard.data.roles import Names, resolve
from steelyard.errors import DataError, SettingError
from steelyard.records import Examples

_JSON_LINES = (".jsonl", ".ndjson", ".json")
_DELIMITED = (".csv", ".tsv")
_TEXT = tuple(f"{name}{packed}" for name in (*_JSON_LINES, *_DELIMITED) for packed in ("", ".gz", ".zst"))
_PARQUET = (".parquet",)
_ARROW = (".arrow", ".feather", ".ipc")
READABLE = (*_TEXT, *_PARQUET, *_ARROW, ".npz", ".npy")
"""Ends of file names that :func:`read` takes."""


def read(  # noqa: PLR0913 - the role of every column, all named
    source: Any,
    *,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    id: str | None = None,
    features: str | Sequence[str] | None = None,
    missing: bool = False,
    limits: Limits | None = None,
) -> Examples:
    """Examples from a file, arrays, tensors, tables, lists or a data set.

    Files: JSON Lines, CSV and TSV (each also ``.gz`` and ``.zst``), Parquet, Arrow, ``.npy``, ``.npz``, and
    folders written by Hugging Face's ``save_to_disk``. Objects: an array or tensor, ``(X, y)``, a dictionary
    of arrays, a list of dictionaries or of ``(x, y)``, tables of pandas, polars and Arrow, torch and Hugging
    Face data sets. Arrays become the columns ``input`` and ``label`` and are not copied. Inputs, label and id
    are checked; other columns are carried along.

    Ids are those of the id column, else 16 hexadecimal digits of each row's content, with ``-1``, ``-2``, …
    for exact copies. Ids and checksum depend on names and values of the columns only: not on the format, the
    machine, or the types of the numbers.

    Cost: one pass. What is larger than ``limits.memory`` is read twice in bounded memory and kept
    memory-mapped in the cache folder.

    Args:
        source: The data; ``Examples`` are given back as they are, or with other inputs and label if any is
            named.
        text: Column or columns of text to read. Default: ``text``, ``prompt`` and ``completion``, or
            ``messages``.
        label: Label column; ``""`` for none. Default: ``label``, ``labels``, ``target`` or ``y``.
        id: Id column; ``""`` for ids from the content. Default: ``id``.
        features: Input columns of numbers or categories. Default, where there is no text: all but label, id
            and ``weight``.
        missing: Whether features may be missing (NaN, empty), as boosted trees read them; labels may not.
        limits: Bounds on memory and line length, and the cache folder.

    Raises:
        DataError: If the data cannot be used; names file, line and column.
        SettingError: If options contradict each other.

    Example:
        >>> examples = read([{"text": "good", "label": 1}, {"text": "bad", "label": 0}])
        >>> len(examples), examples.inputs, examples.label
        (2, ('text',), 'label')
    """
    names = Names(text, label, id, features, missing)
    limits = limits or Limits()
    if isinstance(source, Examples):
        return _renamed(source, names) if names.given() else source
    if isinstance(source, str | Path):
        return _read_path(Path(source), names, limits)
    found = _object_source(source, limits)
    if found is not None:
        return from_source(found, names, limits)
    return from_arrays(_object_arrays(source), names, "arrays")


def _renamed(examples: Examples, names: Names) -> Examples:
    if names.id is not None:
        raise SettingError(
            f"{examples.source}: id={names.id!r} for examples that have ids already.",
            fix="name the id column where the data is read.",
        )
    if names.label is None and examples.label is not None:
        names = replace(names, label=examples.label)
    if names.text is None and names.features is None:
        names = replace(names, features=examples.inputs)
    roles = resolve(replace(names, id=""), list(examples.columns), examples.source)
    renamed = replace(examples, inputs=roles.inputs, label=roles.label)

    def place(row: int) -> str:
        return f"{examples.source}, example {str(examples.ids[row])!r}"

    return check_read(renamed, roles, place, delimited=False)


def _read_path(path: Path, names: Names, limits: Limits) -> Examples:
    if path.is_dir():
        return from_source(arrow.saved_dataset_source(path, limits), names, limits)
    kind = path.name.lower()
    if kind.endswith(".npy"):
        return from_arrays(_fields(arrays.load_npy(path)), names, str(path))
    if kind.endswith(".npz"):
        return from_arrays(_npz(path, limits), names, str(path))
    return from_source(_file_source(path, kind, limits), names, limits)


def _file_source(path: Path, kind: str, limits: Limits) -> Source:
    stem = kind.removesuffix(".gz").removesuffix(".zst")
    if stem.endswith(_JSON_LINES):
        return jsonl_source(path, limits)
    if stem.endswith(_DELIMITED):
        return csv_source(path, limits)
    if kind.endswith(_PARQUET):
        return arrow.parquet_source(path, limits)
    if kind.endswith(_ARROW):
        return arrow.arrow_source(path, name=str(path), limits=limits)
    raise DataError(
        f"{path}: unknown file type {path.suffix!r}.",
        fix=f"give a file that ends in {', '.join(READABLE)}, or a saved Hugging Face data set.",
    )


def _npz(path: Path, limits: Limits) -> dict[str, np.ndarray]:
    if not path.exists() or path.stat().st_size <= limits.memory_bytes():
        return arrays.named_arrays(arrays.load_npz(path), str(path))
    folder = kept(limits, file_key(path), "npz", lambda part: arrays.unpack_npz(path, part))
    files = sorted(folder.glob("*.npy"))
    return arrays.named_arrays({file.stem: arrays.load_npy(file) for file in files}, str(path))


def _fields(array: np.ndarray) -> dict[str, np.ndarray]:
    return {name: array[name] for name in array.dtype.names} if array.dtype.names else {"input": array}


def _object_source(source: Any, limits: Limits) -> Source | None:
    """A source of batches for tables, lists of rows and data sets; None for arrays."""
    if arrays.is_frame(source):
        library = type(source).__module__.split(".")[0]
        return arrow.table_source(arrays.as_table(source), f"{library} table", limits)
    if arrays.is_instance(source, "datasets", "Dataset"):
        return arrow.loaded_dataset_source(source, limits)
    if arrays.is_instance(source, "datasets", "DatasetDict", "IterableDatasetDict"):
        raise DataError(
            f"a DatasetDict with the splits {', '.join(source)}, expected one data set.",
            fix="choose a split: dataset['train'].",
        )
    if arrays.is_instance(source, "polars", "LazyFrame"):
        raise DataError("a polars LazyFrame, expected a DataFrame.", fix="call .collect() first.")
    if arrays.is_instance(source, "torch.utils.data", "DataLoader"):
        raise DataError("a DataLoader, which may shuffle.", fix="pass its data set: loader.dataset.")
    if arrays.is_instance(source, "torch.utils.data", "Dataset") and _tensors(source) is None:
        return arrays.dataset_source(source)
    if isinstance(source, list) and source and isinstance(source[0], Mapping):
        return arrays.rows_source(source, "list of dictionaries")
    if (
        isinstance(source, list)
        and source
        and all(isinstance(row, tuple) and len(row) == 2 for row in source)
    ):
        return arrays.item_source(source, "list of (input, label)")
    return None


def _object_arrays(source: Any) -> dict[str, np.ndarray]:
    tensors = _tensors(source)
    if tensors is not None:
        source = tensors if len(tensors) == 2 else next(iter(tensors))
    if isinstance(source, Mapping):
        return arrays.named_arrays(source, "arrays")
    if not isinstance(source, tuple):
        return {"input": arrays.as_array(source, "arrays")}
    if len(source) != 2:
        raise DataError(
            f"a tuple of {len(source)}, expected (X, y).",
            fix="pass a dictionary of named arrays for anything else.",
        )
    inputs, label = source
    if arrays.is_frame(inputs):
        table = arrays.as_table(inputs)
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
        if "label" in columns:
            raise DataError(
                "X has a column named 'label' beside y.", fix="rename it, or pass the table alone."
            )
        return arrays.named_arrays({**columns, "label": label}, "arrays")
    return arrays.named_arrays({"input": inputs, "label": label}, "arrays")


def _tensors(source: Any) -> tuple[Any, ...] | None:
    """The tensors of a torch ``TensorDataset`` of inputs, or of inputs and labels."""
    if arrays.is_instance(source, "torch.utils.data", "TensorDataset") and len(source.tensors) in (1, 2):
        return source.tensors
    return None
