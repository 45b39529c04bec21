"""Files that are either there in full or not at all, and errors that say what to do when a disk refuses."""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from steelyard.errors import RunError

TEMPORARY = ".tmp"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def write_atomically(folder: Path, target: Path, write: Callable[[BinaryIO], None]) -> int:
    """Write a file so that a kill or a crash at any moment leaves the old file, the new one, or none.

    The content goes to the folder's own temporary place, is flushed to the disk, and is renamed onto the
    target; then the renaming itself is flushed.

    Args:
        folder: The run folder.
        target: Where the file shall be, inside the folder.
        write: Writes the content to the open file it is given.

    Returns:
        Bytes written.

    Raises:
        RunError: If the disk is full or the folder may not be written.
    """
    with explained(folder):
        place = folder / TEMPORARY
        place.mkdir(exist_ok=True)
        upto = target.parent if target.parent.exists() else folder
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = place / secrets.token_hex(8)
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            temporary.replace(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_folders(target.parent, upto)
        return size


def write_json(folder: Path, target: Path, value: Any) -> int:
    """Write a JSON file atomically; bytes written."""
    content = json.dumps(value, indent=1, ensure_ascii=False).encode()

    def write(file: BinaryIO) -> None:
        file.write(content)

    return write_atomically(folder, target, write)


def sync_folders(folder: Path, upto: Path) -> None:
    """Flush the entries of a folder, and of those above it up to ``upto``, to the disk."""
    while True:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if folder == upto or upto not in folder.parents:
            return
        folder = folder.parent


def size_of(folder: Path) -> int:
    """Bytes that the files in a folder hold, those in folders below included."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn a refusal of the disk into an error that says what was kept and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (*_FULL, *_FORBIDDEN):
            raise refused(error, folder) from error
        raise


def is_refusal(error: OSError, folder: Path) -> bool:
    """Whether the error says that the disk of this folder is full, or that the folder may not be written."""
    named = isinstance(error.filename, str | os.PathLike)
    if named and not Path(error.filename).is_relative_to(folder):
        return False
    # NumPy reports a full disk in words: "4096 requested and 512 written".
    full = error.errno in _FULL or (error.errno is None and "requested and" in str(error))
    return full or (named and error.errno in _FORBIDDEN)


def refused(error: OSError, folder: Path) -> RunError:
    """What a refusal of the disk means for the run."""
    begun = (folder / "manifest.json").exists()
    kept = "Everything kept before is intact." if begun else "Nothing was begun."
    if error.errno not in _FORBIDDEN:
        free = free_bytes(folder) / 2**20
        return RunError(
            f"{folder}: the disk is full ({free:,.0f} MiB free; {error.strerror or error}). {kept}",
            fix="free some space and give the same command again, or choose another folder (--out).",
        )
    return RunError(
        f"{folder}: writing is not permitted ({error.strerror}). {kept}",
        fix="change the permissions of the folder, or choose another one (--out).",
    )


def free_bytes(folder: Path) -> int:
    """Bytes that can still be written where the folder is or would be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
