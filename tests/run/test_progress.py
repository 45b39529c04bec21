import io
import json
import sys

import pytest

from steelyard.records import Cost
from steelyard.run import open_run, progress
from steelyard.run.progress import (
    JsonLines,
    Position,
    Progress,
    Silence,
    Terminal,
    display,
    in_words,
    printable,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock.monotonic)
    return clock


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rate_and_time_left(clock):
    bar = Progress("work", 100, unit="examples", shown=Silence())
    assert bar.position.seconds_left is None
    clock.now += 2
    bar.advance(20)
    assert bar.position == Position("work", 20, 100, "examples", 10.0, 8.0)


def test_kept_work_neither_speeds_up_nor_slows_down_the_estimate(clock):
    bar = Progress("work", 1000, unit="examples", shown=Silence())
    clock.now += 0.01
    bar.advance(900, kept=True)
    assert bar.position.rate is None
    clock.now += 5
    bar.advance(10)
    clock.now += 60
    bar.advance(40, kept=True)
    assert bar.position.done == 950
    assert bar.position.rate == pytest.approx(2)
    assert bar.position.seconds_left == pytest.approx(25)


def test_more_than_the_total_leaves_no_time(clock):
    bar = Progress("work", 5, unit="examples", shown=Silence())
    clock.now += 1
    bar.advance(10)
    assert bar.position.seconds_left == 0


def test_json_lines_parse_and_are_few(tmp_path, capsys, clock):
    with open_run(tmp_path / "run", {"a": 1}, show="json") as run:
        run.predict(Cost(gradients=1000.0))
        with run.progress("scoring", 1000) as bar:
            for _ in range(1000):
                clock.now += 0.001
                bar.advance()
        run.note("line one\nline two")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [json.loads(line) for line in captured.err.splitlines()]
    events = [line["event"] for line in lines]
    assert events[0] == "start"
    assert events[1] == "predicted"
    assert events[-2:] == ["note", "finish"]
    told = [line for line in lines if line["event"] == "progress"]
    assert 2 <= len(told) <= 7
    assert set(told[0]) == {"event", "what", "done", "total", "unit", "rate", "seconds_left"}
    assert (told[0]["done"], told[-1]["done"]) == (0, 1000)
    assert told[-1]["rate"] == pytest.approx(1000)
    assert lines[-1]["status"] == "finished"
    assert lines[-1]["cost"]["disk_bytes"] > 0
    assert lines[1]["gradients"] == 1000


def test_json_survives_a_listener_that_left(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    shown = JsonLines()
    shown.say("note", "a", {"text": "a"})
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    shown.say("note", "b", {"text": "b"})
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize("show", ["quiet", "auto"])
def test_quiet_and_no_terminal_print_nothing(tmp_path, capsys, show):
    with open_run(tmp_path / "run", {"a": 1}, show=show) as run:
        run.predict(Cost(gradients=1.0))
        run.note("a note")
        with run.progress("work", 3) as bar:
            bar.advance(3)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_terminal_gets_bars_and_messages(tmp_path, monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(progress, "_TELL_SECONDS", 0.0)
    assert isinstance(display("auto"), Terminal)
    with open_run(tmp_path / "run", {"a": 1}) as run:
        run.predict(Cost(gradients=1000.0, fits=2))
        with run.progress("outer [bold]", 2, unit="fits") as outer, run.progress("inner", 10) as inner:
            inner.advance(4)
            run.note("fell back\x1b[2J to torch.func [red]")
            outer.advance(1)
    text = screen.getvalue()
    assert "predicted: 1,000 gradient-equivalents, 2 fits" in text
    assert "fell back\N{REPLACEMENT CHARACTER}[2J to torch.func [red]" in text
    assert "\x1b[2J" not in text
    assert "outer [bold]" in text
    assert "4/10 examples" in text
    assert "measured:" in text


def test_positions_in_words():
    assert in_words(Position("w", 120, 1000, "examples", 35.2, 25.0)) == "120/1,000 examples, 35/s, 0:25 left"
    assert in_words(Position("w", 1, 50, "fits", 0.05, 7265.0)) == "1/50 fits, 0.05/s, 2:01:05 left"
    assert in_words(Position("w", 0, 5, "fits", None, None)) == "0/5 fits"


def test_control_characters_are_replaced():
    assert printable("a\x1b]0;title\x07\x9b\u202eb\nc") == "a\ufffd]0;title\ufffd\ufffd\ufffdb\nc"
