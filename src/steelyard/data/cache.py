"""Sources larger than memory: streamed once into an Arrow file in the cache folder, then memory-mapped.

An entry is a folder ``<what>-<state>``: what was read (path, id column) and in which state (size and time of
change). It is written under another name and renamed when complete, and replaces the entries of earlier
states.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.data.columns import ArrowColumn, to_arrow
from steelyard.data.identity import (
    DIGEST,
    LONGEST_ID,
    Checksum,
    check_id_texts,
    check_unique,
    content_ids,
    digest_keys,
    id_width,
    occurrences,
    row_digests,
)
from steelyard.data.kinds import Kind, Source, column_kinds
from steelyard.data.limits import Limits
from steelyard.data.roles import Names, Roles, resolve
from steelyard.data.values import Missing
from steelyard.errors import DataError
from steelyard.records import Column

_FORMAT = 1
_BLOCK = 65_536


@dataclass(frozen=True, eq=False)
class Stored:
    """Content of a cache entry, memory-mapped."""

    ids: np.ndarray
    columns: dict[str, Column]
    roles: Roles
    checksum: str


def stored(source: Source, names: Names, limits: Limits) -> Stored:
    """The source's rows from the cache, written there first if they are not there yet.

    Cost: two passes over the source the first time (kinds, then values), none later; holds a few batches, and
    40 bytes per row while ids are made.

    Raises:
        DataError: If the rows cannot be used, or the cache folder cannot be written.
    """
    key = source.key if source.key is not None else f"{source.name}\t{uuid.uuid4()}"
    folder = entry_folder(limits, key, f"rows {_FORMAT} {names.id!r}")
    if source.key is None or not (folder / "entry.json").exists():
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        try:
            part.mkdir(parents=True, exist_ok=True)
            _write(source, names, part)
            publish(part, folder)
        except OSError as error:
            raise DataError(
                f"{part}: cannot write {source.name} here, which is larger than memory: {error.strerror}.",
                fix="name a folder with space with STEELYARD_CACHE, or raise limits=Limits(memory=BYTES).",
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return _load(folder, names, source.name)


def entry_folder(limits: Limits, key: str, purpose: str) -> Path:
    """Folder of a cache entry.

    Args:
        limits: Name the cache folder.
        key: What is cached; of several files one per line, as path, size and time of change separated by
            tabs.
        purpose: What the entry is for, with everything else that its content depends on.
    """
    what = "\n".join(line.split("\t")[0] for line in key.split("\n"))
    first = hashlib.sha256(f"{purpose}\n{what}".encode()).hexdigest()[:16]
    return limits.cache_folder() / f"{first}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def publish(part: Path, folder: Path) -> None:
    """Give a complete entry its name and remove those of earlier states of the same source."""
    what = folder.name.split("-")[0]
    for old in folder.parent.glob(f"{what}-????????????????"):
        shutil.rmtree(old, ignore_errors=True)
    part.rename(folder)


def _write(source: Source, names: Names, part: Path) -> None:
    kinds, rows = column_kinds(source.batches(), source.fallback)
    if rows == 0:
        raise DataError(f"{source.name}: there are no examples.", fix="give at least one.")
    roles = resolve(names, list(kinds), source.name)
    kept = {name: kind for name, kind in kinds.items() if name != roles.id}

    def place(row: int) -> str:
        return f"{source.name}, {source.where(row)}"

    width = _write_rows(source, kept, roles.id, part, place)
    digests = np.memmap(part / "digests.bin", dtype=np.uint8, mode="r", shape=(rows, DIGEST))
    _write_ids(part, digests, width, roles.id, place)
    ids = np.load(part / "ids.npy", mmap_mode="r", allow_pickle=False)
    checksum = Checksum(list(kept), kept)
    for start in range(0, rows, _BLOCK):
        checksum.add_digests(digests[start : start + _BLOCK])
    entry = {
        "format": _FORMAT,
        "id": roles.id,
        "columns": {name: asdict(kind) for name, kind in kept.items()},
        "checksum": checksum.finish(_texts(ids)),
    }
    (part / "entry.json").write_text(json.dumps(entry), encoding="utf-8")


def _write_rows(
    source: Source, kinds: dict[str, Kind], id_name: str | None, part: Path, place: Callable[[int], str]
) -> int:
    """Columns, digests and given ids; the characters of the longest id."""
    import pyarrow as pa

    width, rows = 0, 0
    writer: Any = None
    with pa.OSFile(str(part / "data.arrow"), "wb") as file, (part / "digests.bin").open("wb") as digests:
        for batch in source.batches():
            columns = {
                name: batch.cells.get(name, Missing(batch.rows)).convert(kind) for name, kind in kinds.items()
            }
            digests.write(
                row_digests(columns, kinds, place=lambda row, rows=rows: place(rows + row)).tobytes()
            )
            arrays = [to_arrow(column, kinds[name]) for name, column in columns.items()]
            if id_name is not None:
                texts = batch.cells.get(id_name, Missing(batch.rows)).texts()
                check_id_texts(texts, column=id_name, place=lambda row, rows=rows: place(rows + row))
                width = max(width, *(len(text or "") for text in texts))
                arrays.append(pa.array(texts, pa.large_string()))
            record = pa.record_batch(arrays, names=[*columns, *([id_name] if id_name is not None else [])])
            writer = writer or pa.ipc.new_file(file, record.schema)
            writer.write_batch(record)
            rows += batch.rows
        if writer is not None:
            writer.close()
    return min(width, LONGEST_ID)


def _write_ids(
    part: Path, digests: np.ndarray, width: int, id_name: str | None, place: Callable[[int], str]
) -> None:
    rows = len(digests)
    if id_name is not None:
        given = ArrowColumn(_chunks(part / "data.arrow")[id_name], Kind("text"))
        ids = np.lib.format.open_memmap(part / "ids.npy", mode="w+", dtype=f"U{width}", shape=(rows,))
        for start in range(0, rows, _BLOCK):
            ids[start : start + _BLOCK] = given[start : start + _BLOCK]
        check_unique(_Texts(ids), column=id_name, place=place)
    else:
        keys = np.concatenate(
            [digest_keys(digests[start : start + _BLOCK]) for start in range(0, rows, _BLOCK)]
        )
        copies = occurrences(keys)
        size = id_width(copies)
        ids = np.lib.format.open_memmap(part / "ids.npy", mode="w+", dtype=f"U{size}", shape=(rows,))
        for start in range(0, rows, _BLOCK):
            block = slice(start, start + _BLOCK)
            ids[block] = content_ids(keys[block], copies[block], size)
    ids.flush()


def _load(folder: Path, names: Names, source: str) -> Stored:
    entry = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
    kinds = {name: Kind(**{**kind, "shape": tuple(kind["shape"])}) for name, kind in entry["columns"].items()}
    chunks = _chunks(folder / "data.arrow")
    id_name = entry["id"]
    present = [*kinds, *([id_name] if id_name is not None else [])]
    roles = replace(resolve(names, present, source), id=id_name)
    return Stored(
        ids=np.load(folder / "ids.npy", mmap_mode="r", allow_pickle=False),
        columns={name: ArrowColumn(chunks[name], kind) for name, kind in kinds.items()},
        roles=roles,
        checksum=entry["checksum"],
    )


def _chunks(path: Path) -> dict[str, tuple[Any, ...]]:
    import pyarrow as pa

    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    return {name: tuple(batch.column(i) for batch in batches) for i, name in enumerate(reader.schema.names)}


class _Texts:
    """Memory-mapped ids that iterate in blocks, because one at a time a memory-map is slow."""

    def __init__(self, ids: np.ndarray) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, row: int) -> str:
        return str(self._ids[row])

    def __iter__(self) -> Iterator[str]:
        return _texts(self._ids)


def _texts(ids: np.ndarray) -> Iterator[str]:
    for start in range(0, len(ids), _BLOCK):
        yield from ids[start : start + _BLOCK].tolist()
