"""From batches or arrays to examples: in memory if they fit, else through the cache and memory-mapped."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from steelyard.data.cache import Stored, stored
from steelyard.data.checks import check_read
from steelyard.data.identity import (
    Checksum,
    check_id_texts,
    check_unique,
    content_ids,
    digest_keys,
    id_width,
    occurrences,
    row_digests,
)
from steelyard.data.kinds import TEXT, Batch, Kind, Source, column_kinds, kind_of_array, row_number
from steelyard.data.limits import Limits
from steelyard.data.roles import Names, Roles, resolve
from steelyard.data.values import Missing, plain, values_of
from steelyard.errors import DataError
from steelyard.records import Examples


def from_source(source: Source, names: Names, limits: Limits) -> Examples:
    """Examples of a source of batches.

    Args:
        source: Where the rows come from.
        names: Columns as the user named them.
        limits: A source that takes more memory is streamed through the cache folder.

    Raises:
        DataError: If the rows cannot be used.
    """
    batches = _gathered(source, limits.memory_bytes())
    if batches is None:
        kept = stored(source, names, limits)
        return _finished(kept, source.name, source.where, delimited=source.fallback == TEXT)
    kinds, rows = column_kinds(batches, source.fallback)
    check_filled(rows, source.name)
    roles = resolve(names, list(kinds), source.name)
    ids = None if roles.id is None else _id_texts(batches, roles.id)
    columns = {name: _column(batches, name, kind) for name, kind in kinds.items() if name != roles.id}
    return from_columns(columns, kinds, roles, ids, source)


def from_arrays(arrays: Mapping[str, np.ndarray], names: Names, name: str) -> Examples:
    """Examples of arrays of equal length, which are not copied.

    Raises:
        DataError: If the arrays hold something else than numbers, booleans or text.
    """
    check_filled(len(next(iter(arrays.values()))) if arrays else 0, name)
    roles = resolve(names, list(arrays), name)
    ids = None if roles.id is None else [None if i is None else str(i) for i in arrays[roles.id].tolist()]
    columns: dict[str, np.ndarray] = {}
    kinds: dict[str, Kind] = {}
    for column, array in arrays.items():
        if column != roles.id:
            columns[column], kinds[column] = _usable(array, f"{name}, column {column!r}")
    return from_columns(columns, kinds, roles, ids, Source(name, lambda: iter(()), row_number))


def from_columns(
    columns: Mapping[str, np.ndarray],
    kinds: Mapping[str, Kind],
    roles: Roles,
    ids: list[str | None] | None,
    source: Source,
) -> Examples:
    """Examples of finished columns: ids, checksum and checks.

    Args:
        columns: Name to ``[row, ...]``, without the id column.
        kinds: Name to kind; further names are ignored.
        roles: What the columns are for.
        ids: The id column, if there is one.
        source: Name and places, for the record and for errors.
    """

    def place(row: int) -> str:
        return f"{source.name}, {source.where(row)}"

    digests = row_digests(columns, kinds, place=place)
    if ids is None or roles.id is None:
        keys = digest_keys(digests)
        copies = occurrences(keys)
        unique = content_ids(keys, copies, id_width(copies))
    else:
        check_id_texts(ids, column=roles.id, place=place)
        unique = np.array(ids, dtype=str)
        check_unique(unique, column=roles.id, place=place)
    checksum = Checksum(list(columns), kinds)
    checksum.add_digests(digests)
    examples = Examples(
        ids=unique,
        columns=columns,
        inputs=roles.inputs,
        label=roles.label,
        checksum=checksum.finish(iter(unique.tolist())),
        source=source.name,
    )
    return check_read(examples, roles, place, delimited=source.fallback == TEXT)


def check_filled(rows: int, name: str) -> None:
    """Refuse a source without rows.

    Raises:
        DataError: If there are none.
    """
    if rows == 0:
        raise DataError(
            f"{name}: there are no examples.", fix="give at least one; check the path and any filter before."
        )


def _finished(kept: Stored, name: str, where: Callable[[int], str], *, delimited: bool) -> Examples:
    examples = Examples(
        ids=kept.ids,
        columns=kept.columns,
        inputs=kept.roles.inputs,
        label=kept.roles.label,
        checksum=kept.checksum,
        source=name,
    )
    looked_at = replace(examples, columns=kept.unmapped)
    check_read(looked_at, kept.roles, lambda row: f"{name}, {where(row)}", delimited=delimited)
    return examples


def _gathered(source: Source, most: int) -> list[Batch] | None:
    """All batches, or None as soon as they turn out to take more than ``most`` bytes."""
    if source.size > most:
        return None
    batches: list[Batch] = []
    size = 0
    for batch in source.batches():
        batches.append(batch)
        size += batch.size
        if size > most:
            return None
    return batches


def _column(batches: list[Batch], name: str, kind: Kind) -> np.ndarray:
    pieces = [batch.cells.get(name, Missing(batch.rows)).convert(kind) for batch in batches]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _id_texts(batches: list[Batch], name: str) -> list[str | None]:
    return [text for batch in batches for text in batch.cells.get(name, Missing(batch.rows)).texts()]


def _usable(array: np.ndarray, place: str) -> tuple[np.ndarray, Kind]:
    """The array itself if it holds numbers, booleans or text; dates and objects in a form that does."""
    kind = kind_of_array(array)
    if kind is not None:
        return array, kind
    if array.dtype.kind in "mM":
        return array.astype(str).astype(object), TEXT
    if array.dtype.kind == "O" and array.ndim == 1:
        try:
            cells = values_of([plain(value) for value in array.tolist()])
        except TypeError as error:
            raise DataError(
                f"{place}: holds {error} objects, expected numbers, booleans or text.",
                fix="convert them first.",
            ) from error
        return cells.convert(cells.kind), cells.kind
    raise DataError(
        f"{place}: an array of type {array.dtype}, expected numbers, booleans or text.",
        fix="convert it: array.astype(...), or split it into several columns.",
    )
