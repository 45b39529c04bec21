"""Text files line by line: plain, gzip or zstd; and JSON Lines."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from steelyard.data.kinds import Batch, Source
from steelyard.data.limits import Limits
from steelyard.data.values import columns_of
from steelyard.errors import DataError

_COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
_BATCH_ROWS = 65_536
_EXCERPT = 24
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def open_bytes(path: Path) -> BinaryIO:
    """A file for reading bytes, decompressed by its name.

    Raises:
        DataError: If it is missing, a folder, or may not be read.
    """
    check_readable(path)
    if path.suffix not in _COMPRESSION:
        return path.open("rb")
    import pyarrow as pa

    # Arrow's stream says so when a compressed file ends early; Python's zstd binding does not.
    stream = pa.input_stream(str(path), compression=_COMPRESSION[path.suffix])
    return cast(BinaryIO, io.BufferedReader(cast(Any, stream), 2**20))


def check_readable(path: Path) -> None:
    """Refuse what cannot be opened as a file.

    Raises:
        DataError: If the path is missing, a folder, or may not be read.
    """
    try:
        with path.open("rb"):
            return
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: there is no such file.", fix=f"check the path; the current folder is {Path.cwd()}."
        ) from error
    except IsADirectoryError as error:
        raise DataError(
            f"{path}: this is a folder, expected a file.", fix="name a file inside it."
        ) from error
    except PermissionError as error:
        raise DataError(
            f"{path}: no permission to read it.",
            fix="change the file's permissions or run as a user who may read it.",
        ) from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror}.", fix="check the disk, or copy the file elsewhere."
        ) from error


def numbered_lines(path: Path, longest: int) -> Iterator[tuple[int, bytes]]:
    """Lines of a file with their numbers from 1, line ends included, a byte order mark left out.

    Args:
        path: The file.
        longest: Bytes; a longer line is an error.

    Raises:
        DataError: If a line is too long, or a compressed file is broken.
    """
    number = 0
    with open_bytes(path) as file:
        while True:
            try:
                line = file.readline(longest + 1)
            except OSError as error:
                raise DataError(
                    f"{path}, after line {number}: {error}.",
                    fix="the file is cut off or damaged: copy it again.",
                ) from error
            if not line:
                return
            number += 1
            if len(line) > longest and len(line.rstrip(b"\r\n")) > longest:
                raise DataError(
                    f"{path}, line {number}: longer than {longest:,} bytes, the limit for one line.",
                    fix="split this line, or raise the limit with limits=Limits(line=BYTES).",
                )
            yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line


def decode(path: Path, number: int, line: bytes) -> str:
    """A line as text.

    Raises:
        DataError: If it is not UTF-8.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}, byte {error.start + 1}: not UTF-8 ({error.reason}).",
            fix="convert the file: iconv -f latin1 -t utf-8 IN > OUT, with the encoding it was written in.",
        ) from error


def jsonl_source(path: Path, limits: Limits) -> Source:
    """A JSON Lines file: one object per line; blank lines are skipped."""

    def where(row: int) -> str:
        filled = (number for number, line in numbered_lines(path, limits.line) if line.strip())
        return f"line {next(number for position, number in enumerate(filled) if position == row)}"

    check_readable(path)
    return Source(str(path), lambda: _jsonl_batches(path, limits), where, path.stat().st_size, file_key(path))


def file_key(*paths: Path) -> str:
    """Names the content of files by path, size and time of change."""
    return "\n".join(f"{p.resolve()}\t{p.stat().st_size}\t{p.stat().st_mtime_ns}" for p in paths)


def _jsonl_batches(path: Path, limits: Limits) -> Iterator[Batch]:
    rows: list[dict[str, Any]] = []
    size, most = 0, limits.batch_bytes()
    for number, line in numbered_lines(path, limits.line):
        text = decode(path, number, line).strip()
        if not text:
            continue
        rows.append(_parsed(path, number, text))
        size += len(line)
        if size >= most or len(rows) >= _BATCH_ROWS:
            yield Batch(columns_of(rows), len(rows), size)
            rows, size = [], 0
    if rows:
        yield Batch(columns_of(rows), len(rows), size)


def _parsed(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        if number == 1 and text.startswith("["):
            raise _not_lines(path) from error
        shown = text[max(0, error.pos - _EXCERPT) : error.pos + _EXCERPT]
        raise DataError(
            f"{path}, line {number}, column {error.pos + 1}: not JSON: {error.msg} near {ascii(shown)}.",
            fix="correct or remove this line; every line must be one JSON object.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}, line {number}: JSON that cannot be read: {error}.",
            fix="shorten the number or flatten the nesting on this line.",
        ) from error
    if isinstance(row, dict):
        return row
    if number == 1 and isinstance(row, list):
        raise _not_lines(path)
    raise DataError(
        f"{path}, line {number}: expected a JSON object, found {type(row).__name__} "
        f"{ascii(text[:_EXCERPT])}.",
        fix='write every line as an object with named columns, such as {"text": "...", "label": 0}.',
    )


def _not_lines(path: Path) -> DataError:
    return DataError(
        f"{path}, line 1: a JSON array, expected one object per line (JSON Lines).",
        fix=f"convert it: jq -c '.[]' {path.name} > {path.stem}.jsonl",
    )
