"""Limits on what is read, and the folder for what does not fit into memory."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

_FALLBACK = 2 * 2**30


@dataclass(frozen=True)
class Limits:
    """How much is held at once.

    Attributes:
        memory: Bytes. A source that takes more is streamed into the cache folder and memory-mapped from
            there.
            None: a quarter of the machine's (or the container's) memory.
        line: Bytes of the longest line of a text file; a longer one is an error that names it.
        cache: Folder for streamed sources. None: ``STEELYARD_CACHE``, else the platform's cache folder.
    """

    memory: int | None = None
    line: int = 64 * 2**20
    cache: str | Path | None = None

    def memory_bytes(self) -> int:
        """The memory limit as a number."""
        return self.memory if self.memory is not None else machine_memory() // 4

    def batch_bytes(self) -> int:
        """How much of a file is read at a time, so that a few batches stay well below the memory limit."""
        return max(2**16, min(8 * 2**20, self.memory_bytes() // 16))

    def cache_folder(self) -> Path:
        """The cache folder, which may not exist yet."""
        return Path(self.cache) if self.cache is not None else _platform_cache()


def machine_memory() -> int:
    """Bytes of memory of this machine, or of the container if it has less; 2 GiB where nothing says."""
    found = []
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    control = Path("/sys/fs/cgroup/memory.max")
    if control.is_file():
        text = control.read_text(encoding="ascii").strip()
        found += [int(text)] if text.isdigit() else []
    return min(found, default=_FALLBACK)


def _platform_cache() -> Path:
    if "STEELYARD_CACHE" in os.environ:
        return Path(os.environ["STEELYARD_CACHE"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "steelyard"
    root = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "steelyard"
