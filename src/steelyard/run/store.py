"""Arrays kept under keys: one ``.npz`` file each, checked when read, memory-mapped when large.

The files are ordinary uncompressed NumPy archives, which ``np.load`` opens anywhere; only the first byte of
each array is put on a multiple of 64, so that it can be mapped from the middle of the archive.
"""

import errno
import math
import os
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from steelyard.errors import RunError, SettingError
from steelyard.run.files import explained, free_bytes, write_atomically

MAPPED_BYTES = 32 * 2**20
"""Arrays from this size on are memory-mapped instead of read."""

_ALIGNMENT = 64
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_PADDING = 0xD935  # the field that Android's zipalign pads with; every reader skips it
_CHUNK = 2**20
_HEADER_ROOM = 4096
_RESERVE = 16 * 2**20  # left free for the manifest, small results, and whoever else writes to the disk
_KEPT = "kept"
_RESERVED = (_KEPT, "manifest.json")


@dataclass(frozen=True)
class Damaged:
    """A kept file that cannot be used.

    Attributes:
        reason: What is wrong with it.
    """

    reason: str


def checked_key(key: str) -> str:
    """The key, known to name a place inside the run folder.

    Raises:
        SettingError: If it has other characters than letters, digits, ``.``, ``_``, ``-`` and ``/``, or a
            part that is empty, longer than 200 characters, or begins with a dot.
    """
    if all(_PART.fullmatch(part) for part in key.split("/")):
        return key
    raise SettingError(
        f"{key!r} cannot be the key of something kept in a run folder.",
        fix="use letters, digits, '.', '_', '-' and '/' (no part empty, over 200 characters, or beginning "
        "with '.'); put a checksum in place of other text.",
    )


def result_path(folder: Path, key: str) -> Path:
    """Where a result of that name lies in the run folder, beside what is kept.

    Raises:
        SettingError: If the name is not allowed, or belongs to the run folder itself.
    """
    if checked_key(key).split("/")[0] in _RESERVED:
        raise SettingError(
            f"{key!r} belongs to the run folder itself.", fix="choose another name for the result."
        )
    return folder / key


def kept_path(folder: Path, key: str) -> Path:
    """Where the arrays of a key are kept."""
    return folder / _KEPT / f"{checked_key(key)}.npz"


def write_arrays(folder: Path, key: str, arrays: Mapping[str, np.ndarray]) -> int:
    """Keep the arrays under the key; bytes written.

    Raises:
        RunError: If an array holds Python objects or records, the disk is full, or the folder may not be
            written.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject or array.dtype.names is not None:
            raise RunError(
                f"{key}: array {name!r} has dtype {array.dtype}, which cannot be kept.",
                fix="give arrays of numbers, booleans or fixed-width text (dtype=str).",
            )

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, array in arrays.items():
                member = zipfile.ZipInfo(f"{name}.npy")
                member.extra = _padding(file.tell(), len(member.filename.encode()))
                with archive.open(member, "w", force_zip64=True) as place:
                    np.lib.format.write_array(place, array, version=(1, 0), allow_pickle=False)

    return write_atomically(folder, kept_path(folder, key), write)


def read_arrays(folder: Path, key: str) -> Mapping[str, np.ndarray] | Damaged | None:
    """The arrays kept under the key; None if there are none.

    Every byte is compared with its CRC-32, so that a file damaged on the disk is told from a good one. Mapped
    arrays are copy-on-write: writing to them never reaches the file.

    Cost: one pass over the file.
    """
    path = kept_path(folder, key)
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            bad = archive.testzip()
            if bad is not None:
                return Damaged(f"the bytes of {bad} differ from their checksum")
            return {m.filename.removesuffix(".npy"): _read(archive, file, m) for m in archive.infolist()}
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        ValueError,
        EOFError,
        RuntimeError,
        OSError,
    ) as error:
        # What zipfile and NumPy raise when the bytes they read make no sense.
        return Damaged(str(error))


def new_matrix(folder: Path, key: str, shape: tuple[int, int], dtype: np.dtype) -> np.memmap:
    """A memory-mapped matrix of zeros in the run folder; its space on the disk is taken at once.

    Raises:
        RunError: If the disk cannot hold it. Without the space taken, a full disk would kill the process in
            the middle of writing to the map.
    """
    path = result_path(folder, f"{key}.npy")
    with explained(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        # Asked first, because an allocation that fails has filled the disk for everybody before it fails.
        size = math.prod(shape) * dtype.itemsize
        if size + _RESERVE > free_bytes(path.parent):
            raise OSError(errno.ENOSPC, f"{path.name} needs {size / 2**20:,.0f} MiB")
        try:
            matrix = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            with path.open("r+b") as file:
                _allocate(file, path.stat().st_size)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    return matrix


def old_matrix(folder: Path, key: str, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """The matrix of a finished run, to be filled once more with the same numbers; zeros if it is gone.

    Without permission to write, what is filled in stays in memory.
    """
    path = result_path(folder, f"{key}.npy")
    try:
        matrix = np.load(path, mmap_mode="r+" if os.access(path, os.W_OK) else "c", allow_pickle=False)
    except (FileNotFoundError, ValueError):
        return np.zeros(shape, dtype)
    return matrix if (matrix.shape, matrix.dtype) == (shape, dtype) else np.zeros(shape, dtype)


def _allocate(file: BinaryIO, size: int) -> None:
    if sys.platform == "linux":
        os.posix_fallocate(file.fileno(), 0, size)
        return
    file.seek(_HEADER_ROOM)
    zeros = bytes(_CHUNK)
    while file.tell() < size:
        file.write(zeros[: size - file.tell()])


def _padding(offset: int, name_length: int) -> bytes:
    # Before the .npy content, whose own header NumPy fills up to a multiple of 64, come the local header, the
    # name, this field, and the 20 bytes of the field that zipfile adds for large members.
    begins = offset + _LOCAL_HEADER.size + name_length + 4 + 20
    length = -begins % _ALIGNMENT
    return struct.pack("<HH", _PADDING, length) + bytes(length)


def _read(archive: zipfile.ZipFile, file: BinaryIO, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as content:
        np.lib.format.read_magic(content)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(content)
        header = content.tell()
    file.seek(member.header_offset)
    *_, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    offset = member.header_offset + _LOCAL_HEADER.size + name_length + extra_length + header
    order = "F" if fortran else "C"
    count = math.prod(shape)
    if count * dtype.itemsize >= MAPPED_BYTES:
        return np.memmap(file, dtype=dtype, mode="c", offset=offset, shape=shape, order=order).view(
            np.ndarray
        )
    file.seek(offset)
    return np.fromfile(file, dtype=dtype, count=count).reshape(shape, order=order)
