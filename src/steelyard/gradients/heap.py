"""Memory that was freed between batches, given back to the system.

Batches of sequences differ in length, so their tensors differ in size, and the holes that freed ones leave in the heap
of the C library seldom fit the next ones: the heap grows to several times of what any batch needs. The library can give
the pages of all holes back, which takes a few milliseconds and a fault per page when they are used again.
"""

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

GROWTH_BYTES = 256 * 2**20  # of resident memory, after which the holes are given back

_STATM = Path("/proc/self/statm")


class Heap:
    """Watches the memory of this process; does nothing where the C library cannot trim. See :func:`heap`.

    Args:
        growth: How far resident memory may grow before freed memory is given back.
    """

    def __init__(self, growth: int = GROWTH_BYTES) -> None:
        self._growth = growth
        self._give_back = _trim()
        self._lowest = _resident() if self._give_back else 0

    def look(self) -> bool:
        """Give freed memory back if there is too much of it; call it between batches.

        Returns:
            Whether it was given back.
        """
        if self._give_back is None:
            return False
        now = _resident()
        if now - self._lowest <= self._growth:
            self._lowest = min(self._lowest, now)
            return False
        self._give_back(0)
        self._lowest = _resident()
        return True


@functools.cache
def heap() -> Heap:
    """That of this process: what grows over many short passes counts together."""
    return Heap()


@functools.cache
def _trim() -> Callable[[int], int] | None:
    if not _STATM.exists():
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; others have no such function
    if trim is not None:
        trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim


def _resident() -> int:
    return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
