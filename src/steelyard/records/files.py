"""Records as single files: written whole or not at all, and read with an error that names the file."""

import json
from pathlib import Path
from typing import Any

from steelyard.errors import DataError


def write_whole(path: str | Path, text: str) -> Path:
    """Write a file under another name and put it in place when it is complete, so that no half file is ever found.

    Returns:
        The path.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path


def write_record(path: str | Path, kind: str, values: dict[str, Any]) -> Path:
    """Write a record as one JSON file that says what it is.

    Args:
        path: Where.
        kind: The record's name, lower case, as :func:`read_record` asks for it.
        values: Its plain values.
    """
    return write_whole(path, json.dumps({"steelyard": kind, **values}, indent=1))


def read_record(path: str | Path, kind: str, *, fix: str) -> dict[str, Any]:
    """The inverse of :func:`write_record`.

    Args:
        path: A file.
        kind: What it has to be.
        fix: What to do if it is not.

    Raises:
        DataError: If the file is no such record.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: no {kind}: {error}.", fix=fix) from error
    if not isinstance(values, dict) or values.pop("steelyard", None) != kind:
        raise DataError(f"{path}: no {kind}.", fix=fix)
    return values
