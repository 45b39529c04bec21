"""Telling how far the work is: a bar on a terminal, JSON lines for a program, or nothing.

Everything goes to standard error, so that results on standard output can be piped. Texts may quote training
data; control characters are replaced before they reach a terminal.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

Show = Literal["auto", "quiet", "json"]

_TELL_SECONDS = 0.25


@dataclass(frozen=True)
class Position:
    """How far a piece of work is.

    Attributes:
        what: The work, in a few words.
        done: Units finished, those kept from an earlier session included.
        total: Units in all.
        unit: What is counted.
        rate: Units per second of fresh work; None before the first.
        seconds_left: At this rate; None while the rate is unknown.
    """

    what: str
    done: int
    total: int
    unit: str
    rate: float | None
    seconds_left: float | None


@runtime_checkable
class Display(Protocol):
    """Where progress and messages are shown."""

    def begin(self, position: Position) -> int:
        """Show a new piece of work; the number by which it is updated comes back."""
        ...

    def update(self, number: int, position: Position) -> None:
        """Show how far it is."""
        ...

    def end(self, number: int, position: Position) -> None:
        """It is over, finished or not."""
        ...

    def say(self, event: str, text: str, facts: Mapping[str, Any]) -> None:
        """A message: in words for people, as facts for programs."""
        ...


def display(show: Show) -> Display:
    """The display asked for; ``"auto"`` is bars on a terminal, silence where standard error is none."""
    if show == "json":
        return JsonLines()
    if show == "auto" and sys.stderr.isatty():
        return Terminal()
    return Silence()


class Progress:
    """Counts finished units, and keeps rate and time left honest when some were kept from an earlier session.

    Args:
        what: The work, in a few words.
        total: Units in all.
        unit: What is counted.
        shown: Where it is shown.
        watch: Called at every step, for instance to look at the memory in use.
    """

    def __init__(
        self, what: str, total: int, *, unit: str, shown: Display, watch: Callable[[], None] | None = None
    ) -> None:
        self._watch = watch
        self._what, self._total, self._unit, self._shown = what, total, unit, shown
        self._guard = threading.Lock()
        self._done = self._fresh = 0
        self._worked = 0.0
        self._last = self._told = time.monotonic()
        self._number = shown.begin(self.position)

    @property
    def position(self) -> Position:
        """How far the work is now."""
        rate = self._fresh / self._worked if self._fresh and self._worked > 0 else None
        left = None if rate is None else max(0, self._total - self._done) / rate
        return Position(self._what, self._done, self._total, self._unit, rate, left)

    def advance(self, n: int = 1, *, kept: bool = False) -> None:
        """Count n more units as done.

        Args:
            n: Units finished since the last call.
            kept: Whether they were read from the run folder. They count as done, but neither they nor the
                time since the last call count towards the rate.
        """
        with self._guard:
            now = time.monotonic()
            self._done += n
            if not kept:
                self._fresh += n
                self._worked += now - self._last
            self._last = now
            due = now - self._told >= _TELL_SECONDS
            if due:
                self._told = now
        if due:
            self._shown.update(self._number, self.position)
        if self._watch is not None:
            self._watch()

    def close(self) -> None:
        """Show the last position and take the bar away."""
        self._shown.end(self._number, self.position)


class Silence:
    """Shows nothing."""

    def begin(self, position: Position) -> int:
        """Nothing."""
        return 0

    def update(self, number: int, position: Position) -> None:
        """Nothing."""

    def end(self, number: int, position: Position) -> None:
        """Nothing."""

    def say(self, event: str, text: str, facts: Mapping[str, Any]) -> None:
        """Nothing."""


class JsonLines:
    """Writes one JSON object per line to standard error; ``event`` says which kind it is."""

    def __init__(self) -> None:
        self._heard = True

    def begin(self, position: Position) -> int:
        """Write the position at the start."""
        self._write("progress", asdict(position))
        return 0

    def update(self, number: int, position: Position) -> None:
        """Write the position."""
        self._write("progress", asdict(position))

    def end(self, number: int, position: Position) -> None:
        """Write the last position."""
        self._write("progress", asdict(position))

    def say(self, event: str, text: str, facts: Mapping[str, Any]) -> None:
        """Write the facts."""
        self._write(event, facts)

    def _write(self, event: str, facts: Mapping[str, Any]) -> None:
        if not self._heard:
            return
        try:
            sys.stderr.write(json.dumps({"event": event, **facts}) + "\n")
            sys.stderr.flush()
        except BrokenPipeError:
            # Whoever listened has gone; that is no reason to lose hours of work.
            self._heard = False


class Terminal:
    """Shows bars and messages on a terminal; several pieces of work may be under way, one inside another."""

    def __init__(self) -> None:
        self._live: Any = None

    def begin(self, position: Position) -> int:
        """Add a bar."""
        if self._live is None:
            self._live = _bars()
            self._live.start()
        return int(self._live.add_task(printable(position.what), total=position.total, side=""))

    def update(self, number: int, position: Position) -> None:
        """Move the bar."""
        if self._live is not None:
            self._live.update(number, completed=position.done, side=in_words(position), refresh=True)

    def end(self, number: int, position: Position) -> None:
        """Take the bar away, and free the terminal with the last one."""
        if self._live is None:
            return
        self._live.remove_task(number)
        if not self._live.tasks:
            self._live.stop()
            self._live = None

    def say(self, event: str, text: str, facts: Mapping[str, Any]) -> None:
        """Print the text above the bars."""
        from rich.console import Console

        console = Console(stderr=True) if self._live is None else self._live.console
        console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def in_words(position: Position) -> str:
    """Count, rate and time left as one short text: ``"120/1,000 examples, 35/s, 0:25 left"``."""
    text = f"{position.done:,}/{position.total:,} {position.unit}"
    if position.rate is None or position.seconds_left is None:
        return text
    rate = f"{position.rate:,.0f}/s" if position.rate >= 10 else f"{position.rate:.2g}/s"
    minutes, seconds = divmod(round(position.seconds_left), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return f"{text}, {rate}, {left} left"


def printable(text: str) -> str:
    """The text with control characters replaced, so that no training text can steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[side]}", markup=False),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=4,
    )
