"""Run: where work is kept so that nothing is computed twice, how far it is, and what it costs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from steelyard.records import Cost
from steelyard.run.cost import Meter
from steelyard.run.progress import Display, Progress, Silence


class Run:
    """A piece of work under way. Made by :func:`open_run` and :func:`in_memory`.

    Attributes:
        folder: Where the work is kept; None in memory.
        finished: Whether it was finished before it was opened: what is kept can be read, nothing is written.
    """

    def __init__(self, *, meter: Meter, shown: Display) -> None:
        self.folder: Path | None = None
        self.finished = False
        self._meter = meter
        self._shown = shown
        self._notes: dict[str, None] = {}
        self._predicted: Cost | None = None

    def has(self, key: str) -> bool:
        """Whether something is kept under the key."""
        return False

    def keep(self, key: str, compute: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        """The arrays kept under the key; computed and kept first if there are none."""
        return {name: np.asarray(array) for name, array in compute().items()}

    def matrix(
        self, key: str, shape: tuple[int, int], dtype: np.dtype | type | str = np.float32
    ) -> np.ndarray:
        """A matrix of zeros to fill."""
        return np.zeros(shape, dtype)

    @contextmanager
    def progress(self, what: str, total: int, *, unit: str = "examples") -> Iterator[Progress]:
        """Show a piece of work while it goes on; call ``advance`` on what comes back."""
        bar = Progress(what, total, unit=unit, shown=self._shown)
        try:
            yield bar
        finally:
            bar.close()

    def spend(self, *, gradients: float | int = 0, fits: int = 0) -> None:
        """Count gradient-equivalents and fits as spent."""
        self._meter.spend(gradients=gradients, fits=fits)

    def predict(self, cost: Cost) -> None:
        """Tell, before the work, what it is expected to take; several predictions add up."""
        self._predicted = cost if self._predicted is None else self._predicted + cost
        self._shown.say("predicted", f"predicted: {cost}", cost.__dict__)

    def note(self, text: str) -> None:
        """Record what was done less or differently than asked; once, however often it is said."""
        if text not in self._notes:
            self._notes[text] = None
            self._shown.say("note", f"note: {text}", {"text": text})

    @property
    def notes(self) -> tuple[str, ...]:
        """Every note so far."""
        return tuple(self._notes)

    @property
    def predicted(self) -> Cost | None:
        """What the work was predicted to take, if it was."""
        return self._predicted

    @property
    def cost(self) -> Cost:
        """What was spent so far, earlier sessions of the same run included."""
        return self._meter.read()


def in_memory() -> Run:
    """A run that keeps nothing and shows nothing: the default where a function is called without one."""
    return Run(meter=Meter(), shown=Silence())
