"""A lock on a run folder, which the kernel takes away from a process that is killed."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from steelyard.errors import RunError
from steelyard.run.files import explained


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the run folder for this process alone.

    The lock is a file beside the folder, ``NAME.lock``, held by ``flock``: it survives no kill, and the file
    is removed at the end. A process that was forked from a killed one and lives on still holds it, as it may
    still write.

    Raises:
        RunError: If another process holds it, naming that process; or if the system or the disk has no locks.
    """
    path = target.with_name(target.name + ".lock")
    handle = _acquire(path, target)
    try:
        yield
    finally:
        # Removed while it is still held: whoever opened the old file meanwhile sees that it is gone, and
        # retries.
        path.unlink(missing_ok=True)
        os.close(handle)


def _acquire(path: Path, target: Path) -> int:
    while True:
        with explained(target):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _flock(handle, target)
        except BlockingIOError:
            holder = _holder(path)
            os.close(handle)
            raise _busy(target, holder) from None
        except RunError:
            os.close(handle)
            raise
        if _is_current(handle, path):
            break
        os.close(handle)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    content = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started}).encode()
    os.ftruncate(handle, 0)
    os.pwrite(handle, content, 0)
    return handle


def _flock(handle: int, target: Path) -> None:
    try:
        import fcntl
    except ImportError as error:
        raise RunError(
            f"{target}: this system has no file locks, so two runs could spoil one folder.",
            fix="use Linux, macOS or WSL for run folders, or call the functions without a run.",
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise
        raise RunError(
            f"{target}: this disk has no file locks ({error.strerror}), so two runs could spoil one folder.",
            fix="choose a folder on a local disk (--out).",
        ) from error


def _is_current(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        # It was released, or its holder has not written its name yet.
        return None


def _busy(target: Path, holder: dict[str, Any] | None) -> RunError:
    if holder is None:
        who = "another process has just opened it"
    else:
        who = f"process {holder['pid']} on {holder['host']} has held it since {holder['started']}"
        if holder["host"] == socket.gethostname() and not _alive(holder["pid"]):
            who += "; that process has ended, but one that it started is still running"
        elif holder["pid"] == os.getpid():
            who += " (this very process)"
    return RunError(
        f"{target} is in use: {who}.",
        fix="wait for it to end, stop it, or choose another folder (--out).",
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
