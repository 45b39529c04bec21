"""Sources larger than memory: streamed once into an Arrow file in the cache folder, then memory-mapped.

An entry is a folder ``<what>-<state>``: what was read (path, id column) and in which state (size and time of
change). It is written under another name and renamed when complete, and replaces the entries of earlier
states.
"""

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from steelyard.data.columns import ArrowColumn, FileColumn, to_arrow
from steelyard.data.identity import (
    DIGEST,
    Checksum,
    check_id_texts,
    check_unique,
    content_ids,
    digest_keys,
    id_width,
    occurrences,
    row_digests,
    texts_of,
)
from steelyard.data.kinds import TEXT, Kind, Source, column_kinds
from steelyard.data.limits import Limits
from steelyard.data.roles import Names, Roles, resolve
from steelyard.data.values import Missing
from steelyard.errors import DataError
from steelyard.records import Column

_FORMAT = 1
_BLOCK = 65_536
_ABANDONED = 7 * 86_400


@dataclass(frozen=True, eq=False)
class Stored:
    """Content of a cache entry.

    Attributes:
        ids: ``str[" row"]``, memory-mapped.
        columns: Memory-mapped columns.
        unmapped: The same columns for one look from start to end, which leaves nothing resident.
        roles: What the columns are for.
        checksum: Checksum of columns and ids.
    """

    ids: np.ndarray
    columns: dict[str, Column]
    unmapped: dict[str, Column]
    roles: Roles
    checksum: str


def stored(source: Source, names: Names, limits: Limits) -> Stored:
    """The source's rows from the cache, written there first if they are not there yet.

    Cost: two passes over the source the first time (kinds, then values), none later; holds a few batches, and
    40 bytes per row while ids are made.

    Raises:
        DataError: If the rows cannot be used, or the cache folder cannot be written.
    """
    if source.key is not None:
        purpose = f"rows {_FORMAT} {names.id!r}"
        folder = kept(limits, source.key, purpose, lambda part: _write(source, names, part), name=source.name)
    else:
        folder = _kept_by_content(source, names, limits)
    return _load(folder, names, source.name)


def kept(
    limits: Limits, key: str, purpose: str, fill: Callable[[Path], None], *, name: str | None = None
) -> Path:
    """Folder of a cache entry, filled first if it is not there yet.

    Args:
        limits: Name the cache folder.
        key: Content of the entry: lines of what, a tab, and its state.
        purpose: What the entry is for, with everything else that its content depends on.
        fill: Writes the files of the entry into a folder.
        name: What is cached, for errors.

    Raises:
        DataError: If the cache folder cannot be written.
    """
    what = "\n".join(line.split("\t")[0] for line in key.split("\n"))
    first, state = _name(f"{purpose}\n{what}"), _name(key)
    folder = limits.cache_folder() / f"{first}-{state}"
    if not folder.exists():
        with _part(limits, first, name or what) as part:
            fill(part)
            for old in folder.parent.glob(f"{first}-{'?' * len(state)}"):
                shutil.rmtree(old, ignore_errors=True)
            _publish(part, folder)
    return folder


def _kept_by_content(source: Source, names: Names, limits: Limits) -> Path:
    # Objects in memory have no state to compare, so they are written first and named by what they hold.
    first = _name(f"content {_FORMAT} {names.id!r}")
    with _part(limits, first, source.name) as part:
        _write(source, names, part)
        folder = limits.cache_folder() / f"{first}-{_name((part / 'entry.json').read_text(encoding='utf-8'))}"
        _publish(part, folder)
    return folder


@contextmanager
def _part(limits: Limits, first: str, name: str) -> Iterator[Path]:
    """A folder to write an entry into; it is removed if it was not published, as are those long abandoned."""
    root = limits.cache_folder()
    part = root / f"{first}.{uuid.uuid4().hex[:8]}.part"
    try:
        part.mkdir(parents=True)
        for old in root.glob("*.part"):
            if old.stat().st_mtime < time.time() - _ABANDONED:
                shutil.rmtree(old, ignore_errors=True)
        yield part
    except OSError as error:
        raise DataError(
            f"{root}: cannot write {name} here, which is larger than memory: {error.strerror or error}.",
            fix="name a folder with space with STEELYARD_CACHE, or raise limits=Limits(memory=BYTES).",
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _publish(part: Path, folder: Path) -> None:
    try:
        part.rename(folder)
    except OSError:
        if not folder.exists():  # else another process has just written the same content
            raise


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(source: Source, names: Names, part: Path) -> None:
    kinds, rows = column_kinds(source.batches(), source.fallback)
    if rows == 0:
        raise DataError(f"{source.name}: there are no examples.", fix="give at least one.")
    roles = resolve(names, list(kinds), source.name)
    kept = {name: kind for name, kind in kinds.items() if name != roles.id}

    def place(row: int) -> str:
        return f"{source.name}, {source.where(row)}"

    width = _write_rows(source, kept, rows, roles.id, part, place)
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
        "checksum": checksum.finish(texts_of(ids)),
    }
    (part / "entry.json").write_text(json.dumps(entry), encoding="utf-8")


def _write_rows(
    source: Source,
    kinds: dict[str, Kind],
    rows: int,
    id_name: str | None,
    part: Path,
    place: Callable[[int], str],
) -> int:
    """Columns, digests and given ids; the characters of the longest id."""
    import pyarrow as pa

    width, start = 0, 0
    with ExitStack() as files:
        digests = files.enter_context((part / "digests.bin").open("wb"))
        numbers = {
            name: files.enter_context(_npy_file(part / f"{position:04d}.npy", kind, rows))
            for position, (name, kind) in enumerate(kinds.items())
            if _is_dense(kind)
        }
        schema = [name for name in kinds if name not in numbers]
        writer: Any = None
        for batch in source.batches():
            columns = {n: batch.cells.get(n, Missing(batch.rows)).convert(kind) for n, kind in kinds.items()}
            digests.write(
                row_digests(columns, kinds, place=lambda row, start=start: place(start + row)).tobytes()
            )
            for name, file in numbers.items():
                file.write(np.ascontiguousarray(columns[name], dtype=_dtype(kinds[name])).tobytes())
            arrays = [to_arrow(columns[name], kinds[name]) for name in schema]
            if id_name is not None:
                texts = batch.cells.get(id_name, Missing(batch.rows)).texts()
                check_id_texts(texts, column=id_name, place=lambda row, start=start: place(start + row))
                width = max(width, *(len(text or "") for text in texts))
                arrays.append(pa.array(texts, pa.large_string()))
            record = pa.record_batch(arrays, names=[*schema, *([id_name] if id_name is not None else [])])
            if writer is None:
                file = files.enter_context(pa.OSFile(str(part / "data.arrow"), "wb"))
                writer = files.enter_context(pa.ipc.new_file(file, record.schema))
            writer.write_batch(record)
            start += batch.rows
    return width


def _is_dense(kind: Kind) -> bool:
    return kind.name in ("number", "bool")


def _dtype(kind: Kind) -> np.dtype[Any]:
    return np.dtype(kind.dtype if kind.name == "number" else "bool")


def _npy_file(path: Path, kind: Kind, rows: int) -> BinaryIO:
    """A ``.npy`` file open for its rows, its header written."""
    file = path.open("wb")
    header = {"descr": _dtype(kind).str, "fortran_order": False, "shape": (rows, *kind.shape)}
    np.lib.format.write_array_header_1_0(file, header)
    return file


def _write_ids(
    part: Path, digests: np.ndarray, width: int, id_name: str | None, place: Callable[[int], str]
) -> None:
    rows = len(digests)
    if id_name is not None:
        given = _arrow_columns(part, {id_name: TEXT}, mapped=False)[id_name]
        ids = np.lib.format.open_memmap(part / "ids.npy", mode="w+", dtype=f"U{width}", shape=(rows,))
        for start in range(0, rows, _BLOCK):
            ids[start : start + _BLOCK] = given[start : start + _BLOCK]
        check_unique(ids, column=id_name, place=place)
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
    id_name = entry["id"]
    present = [*kinds, *([id_name] if id_name is not None else [])]
    roles = replace(resolve(names, present, source), id=id_name)
    dense = {
        name: folder / f"{position:04d}.npy"
        for position, (name, kind) in enumerate(kinds.items())
        if _is_dense(kind)
    }
    arrays = {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in dense.items()}
    rest = {name: kind for name, kind in kinds.items() if name not in dense}
    columns = {**arrays, **_arrow_columns(folder, rest, mapped=True)}
    unmapped = {
        **{name: FileColumn(path, arrays[name]) for name, path in dense.items()},
        **_arrow_columns(folder, rest, mapped=False),
    }
    return Stored(
        ids=np.load(folder / "ids.npy", mmap_mode="r", allow_pickle=False),
        columns={name: columns[name] for name in kinds},
        unmapped={name: unmapped[name] for name in kinds},
        roles=roles,
        checksum=entry["checksum"],
    )


def _arrow_columns(folder: Path, kinds: dict[str, Kind], *, mapped: bool) -> dict[str, ArrowColumn]:
    import pyarrow as pa

    if not kinds:
        return {}
    path = str(folder / "data.arrow")
    reader = pa.ipc.open_file(pa.memory_map(path))
    batches = [reader.get_batch(position) for position in range(reader.num_record_batches)]
    lengths = tuple(batch.num_rows for batch in batches)
    columns = {}
    for name, kind in kinds.items():
        field = reader.schema.get_field_index(name)
        chunks = [batch.column(field) for batch in batches] if mapped else _Chunks(path, field, len(batches))
        columns[name] = ArrowColumn(chunks, kind, lengths)
    return columns


class _Chunks(Sequence[Any]):
    """Chunks of one column, each read from the file when it is asked for."""

    def __init__(self, path: str, field: int, count: int) -> None:
        self._path, self._field, self._count = path, field, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: Any, /) -> Any:
        import pyarrow as pa

        options = pa.ipc.IpcReadOptions(included_fields=[self._field], use_threads=False)
        with pa.OSFile(self._path) as file:
            return pa.ipc.open_file(file, options=options).get_batch(position).column(0)
