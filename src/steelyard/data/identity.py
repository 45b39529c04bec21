"""Who an example is: digests, ids and checksums, the same on every machine and for every format.

A row's digest is taken over the names and values of its columns in name order, the id column left out.
Numbers count by value and not by type: a float32 array, a float64 array and a JSON file with the same numbers
have the same ids.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8, UInt64

from steelyard.data.kinds import Kind
from steelyard.errors import DataError

DIGEST = 16
"""Bytes of a row's digest."""

LONGEST_ID = 256
"""Characters. Ids are held at fixed width, so one long id would make all of them long."""

_BLOCK_BYTES = 16 * 2**20
_BLOCK_ROWS = 65_536


def row_digests(
    columns: Mapping[str, np.ndarray], kinds: Mapping[str, Kind], *, place: Callable[[int], str]
) -> UInt8[np.ndarray, "row 16"]:
    """Digest of every row: BLAKE2b with 16 bytes over the row's values.

    Cost: about 1.5 µs per row plus 1 s per GB; holds one block of 16 MiB.

    Args:
        columns: Name to ``[row, ...]``; arrays may be memory-mapped.
        kinds: Name to kind.
        place: Source and place of a row, for errors.

    Raises:
        DataError: If a text cannot be written as UTF-8 or a nested value not as JSON.
    """
    names = sorted(columns)
    rows = len(columns[names[0]]) if names else 0
    person = _schema_digest(names, kinds)
    out = np.empty((rows, DIGEST), dtype=np.uint8)
    step = _rows_per_block(columns)
    for start in range(0, rows, step):
        block = {name: columns[name][start : start + step] for name in names}
        digests = _block_digests(block, kinds, person, lambda row, start=start: place(start + row))
        out[start : start + step] = np.frombuffer(digests, dtype=np.uint8).reshape(-1, DIGEST)
    return out


def digest_keys(digests: UInt8[np.ndarray, "row 16"]) -> UInt64[np.ndarray, " row"]:
    """The first 8 bytes of every digest as one number."""
    return np.ascontiguousarray(digests[:, :8]).view(">u8").ravel().astype(np.uint64)


def occurrences(keys: UInt64[np.ndarray, " row"]) -> Int64[np.ndarray, " row"]:
    """How many equal keys come before each.

    Cost: one sort; 24 bytes per row.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.ones(len(keys), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    positions = np.arange(len(keys), dtype=np.int64)
    counts = np.empty(len(keys), dtype=np.int64)
    counts[order] = positions - np.maximum.accumulate(np.where(first, positions, 0))
    return counts


def content_ids(
    keys: UInt64[np.ndarray, " row"], copies: Int64[np.ndarray, " row"], width: int
) -> np.ndarray:
    """``str[" row"]`` 16 hexadecimal digits, followed by ``-1``, ``-2``, … for the copies of an earlier row.

    Args:
        keys: First 8 bytes of the rows' digests.
        copies: How many equal rows come before, in the whole data set.
        width: Characters of the longest id, see :func:`id_width`.
    """
    text = keys.astype(">u8").tobytes().hex().encode()
    ids = np.frombuffer(text, dtype="S16").astype(f"U{width}")
    for row in np.flatnonzero(copies):
        ids[row] = f"{ids[row]}-{copies[row]}"
    return ids


def id_width(copies: Int64[np.ndarray, " row"]) -> int:
    """Characters of the longest content id."""
    most = int(copies.max(initial=0))
    return 16 + (len(f"-{most}") if most else 0)


def check_id_texts(ids: Sequence[str | None], *, column: str, place: Callable[[int], str]) -> None:
    """Refuse ids that are missing, empty, too long, or that NumPy would change.

    Raises:
        DataError: Naming the first such row.
    """
    for row, value in enumerate(ids):
        if value and len(value) <= LONGEST_ID and "\0" not in value:
            continue
        fault = (
            "is missing"
            if not value
            else "holds a NUL character"
            if "\0" in value
            else f"is longer than {LONGEST_ID}"
        )
        raise DataError(
            f"{place(row)}, column {column!r}: the id {fault}.",
            fix='give every row a short id, name another column with id=..., or use content ids with id="".',
        )


def texts_of(ids: np.ndarray) -> Iterator[str]:
    """Ids one by one, read in blocks, because one at a time a memory-map is slow."""
    for start in range(0, len(ids), _BLOCK_ROWS):
        yield from ids[start : start + _BLOCK_ROWS].tolist()


def check_unique(ids: np.ndarray, *, column: str, place: Callable[[int], str]) -> None:
    """Refuse ids that repeat.

    Args:
        ids: ``str[" row"]``, which may be memory-mapped.
        column: Name of the id column, for the error.
        place: Source and place of a row, for the error.

    Raises:
        DataError: Naming the id that repeats first, and both rows.
    """
    keys = np.fromiter((_text_key(text) for text in texts_of(ids)), dtype=np.uint64, count=len(ids))
    repeated = np.flatnonzero(occurrences(keys)).tolist()
    for row in repeated:
        same = (other for other in np.flatnonzero(keys == keys[row]).tolist() if ids[other] == ids[row])
        earlier = next(same)
        if earlier < row:
            raise DataError(
                f"{place(row)}, column {column!r}: the id {str(ids[row])!r} was already given at "
                f"{place(earlier)} "
                f"({len(repeated)} ids repeat).",
                fix='make the ids unique, name another column with id=..., or use content ids with id="".',
            )


class Checksum:
    """Checksum of a data set, fed block by block: digests first, then ids."""

    def __init__(self, names: Sequence[str], kinds: Mapping[str, Kind]) -> None:
        self._digest = hashlib.sha256(b"steelyard 1" + _schema_digest(sorted(names), kinds))

    def add_digests(self, digests: UInt8[np.ndarray, "row 16"]) -> None:
        """Take in the digests of the next rows."""
        self._digest.update(np.ascontiguousarray(digests).tobytes())

    def finish(self, ids: Iterator[str]) -> str:
        """Take in the ids of all rows; the checksum in hexadecimal."""
        for value in ids:
            text = value.encode("utf-8", "surrogatepass")
            self._digest.update(len(text).to_bytes(4, "little") + text)
        return self._digest.hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and without keys that hold None, which Arrow adds to every struct.

    Raises:
        TypeError: If the value holds something that JSON cannot say.
    """
    return json.dumps(_without_none(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _schema_digest(names: Sequence[str], kinds: Mapping[str, Kind]) -> bytes:
    schema = [[name, kinds[name].name, list(kinds[name].shape), kinds[name].big] for name in names]
    return hashlib.blake2b(json.dumps(schema).encode(), digest_size=16).digest()


def _rows_per_block(columns: Mapping[str, np.ndarray]) -> int:
    width = sum(8 * int(np.prod(column.shape[1:], dtype=np.int64)) for column in columns.values())
    return max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // max(8, width)))


def _block_digests(
    block: Mapping[str, np.ndarray], kinds: Mapping[str, Kind], person: bytes, place: Callable[[int], str]
) -> bytes:
    fixed: list[np.ndarray] = []
    texts: list[list[bytes]] = []
    rows = 0
    for name, column in block.items():
        rows = len(column)
        kind = kinds[name]
        if kind.name in ("bool", "number"):
            fixed += _number_bits(column, kind)
        elif kind.name != "null":
            cells, lengths = _encoded(column, kind, lambda row, name=name: f"{place(row)}, column {name!r}")
            fixed.append(lengths.view("<u8")[:, None])
            texts.append(cells)
    if not fixed:
        fixed = [np.zeros((rows, 1), dtype="<u8")]
    bits = np.ascontiguousarray(np.concatenate(fixed, axis=1))
    row_bytes = bits.view(f"V{8 * bits.shape[1]}").ravel().tolist()
    start = hashlib.blake2b(digest_size=DIGEST, person=person)
    digests = []
    for parts in zip(row_bytes, *texts, strict=True):
        digest = start.copy()
        digest.update(b"".join(parts))
        digests.append(digest.digest())
    return b"".join(digests)


def _number_bits(column: np.ndarray, kind: Kind) -> list[np.ndarray]:
    # Every number as float64, so that types do not matter; -0.0 as 0.0 and one NaN, so that equal is equal.
    flat = np.asarray(column).reshape(len(column), -1)
    values = flat.astype("<f8") + 0.0
    values[np.isnan(values)] = np.nan
    bits = [values.view("<u8")]
    if kind.big:
        bits.append(flat.astype("<i8" if flat.dtype.kind == "i" else "<u8").view("<u8"))
    return bits


def _encoded(
    column: np.ndarray, kind: Kind, place: Callable[[int], str]
) -> tuple[list[bytes], Int64[np.ndarray, " row"]]:
    lengths = np.empty(len(column), dtype="<i8")
    cells: list[bytes] = []
    for row, value in enumerate(column.tolist()):
        try:
            cell = _cell_bytes(value, kind)
        except UnicodeEncodeError as error:
            raise DataError(
                f"{place(row)}: character {error.start + 1} is half of a surrogate pair, which UTF-8 cannot "
                "hold.",
                fix="remove it, or write the character as itself or as both halves.",
            ) from error
        except TypeError as error:
            raise DataError(
                f"{place(row)}: a nested value that JSON cannot hold: {error}.",
                fix="decode images and sounds into arrays first, or leave the column out.",
            ) from error
        lengths[row] = -1 if value is None else len(cell)
        cells.append(cell)
    return cells, lengths


def _cell_bytes(value: Any, kind: Kind) -> bytes:
    if value is None:
        return b""
    if kind.name == "bytes":
        return bytes(value)
    return (value if kind.name == "text" else canonical_json(value)).encode()


def _text_key(value: Any) -> int:
    return int.from_bytes(
        hashlib.blake2b(str(value).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )
