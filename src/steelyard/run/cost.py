"""What a run takes: gradient-equivalents, fits, seconds, peak memory and bytes on disk, counted."""

import sys
import threading
import time
from pathlib import Path

from steelyard.records import Cost

_STATUS = Path("/proc/self/status")
_SAMPLE_SECONDS = 0.05


class Meter:
    """Counts what is spent from its making on, on top of what earlier sessions of the same run spent.

    Peak memory is exact where the process reaches a new high during the run. Below an older high of it
    the kernel's counter says nothing, and the highest of the samples taken along the way stands in.

    Args:
        before: What earlier sessions spent.
    """

    def __init__(self, before: Cost | None = None) -> None:
        self._before = before or Cost()
        self._guard = threading.Lock()
        self._gradients = 0.0
        self._fits = 0
        self._disk_bytes = 0
        self._began = time.monotonic()
        self._sampled_at = self._began
        self._resident, self._high_water = memory()
        self._highest_sample = self._resident

    def spend(self, *, gradients: float | int = 0, fits: int = 0, disk_bytes: int = 0) -> None:
        """Count what was spent."""
        with self._guard:
            self._gradients += float(gradients)
            self._fits += int(fits)
            self._disk_bytes += int(disk_bytes)
        self.sample()

    def sample(self) -> None:
        """Look at the memory in use, at most twenty times a second."""
        now = time.monotonic()
        with self._guard:
            if now - self._sampled_at >= _SAMPLE_SECONDS:
                self._sampled_at = now
                self._highest_sample = max(self._highest_sample, memory()[0])

    def read(self) -> Cost:
        """Everything spent so far, earlier sessions included."""
        with self._guard:
            resident, high_water = memory()
            self._highest_sample = max(self._highest_sample, resident)
            peak = high_water if high_water > self._high_water else self._highest_sample
            spent = Cost(
                gradients=self._gradients,
                fits=self._fits,
                seconds=time.monotonic() - self._began,
                peak_bytes=max(0, peak - self._resident),
                disk_bytes=self._disk_bytes,
            )
        return self._before + spent


def memory() -> tuple[int, int]:
    """Resident memory of this process in bytes: now, and at its highest since the process began.

    Where the system has no ``/proc``, the highest stands for both, so that a rise is still seen.
    """
    if _STATUS.exists():
        fields = dict(
            line.split(":", 1) for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        )
        return _kibibytes(fields["VmRSS"]), _kibibytes(fields["VmHWM"])
    import resource

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    highest *= 1 if sys.platform == "darwin" else 1024
    return highest, highest


def _kibibytes(field: str) -> int:
    return int(field.split()[0]) * 1024
