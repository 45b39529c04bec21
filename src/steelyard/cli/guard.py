"""What every command does about errors: the message and its fix on standard error, and a fixed exit code."""

import functools
import json
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from steelyard.errors import SteelyardError
from steelyard.run.progress import printable

_P = ParamSpec("_P")
_R = TypeVar("_R")

BAD_INPUT = 2
INTERRUPTED = 130


def guarded(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """The command, which leaves with code 2 on an error of ours and with 130 on Ctrl-C.

    Any other exception is a defect, of Steelyard or of the model's code, and keeps its traceback. The run
    folder adds a note to whatever passes through it: where what is finished was kept.
    """

    @functools.wraps(command)
    def run(*given: _P.args, **named: _P.kwargs) -> _R:
        try:
            return command(*given, **named)
        except SteelyardError as error:
            if named.get("as_json"):
                facts = {"event": "error", "kind": type(error).__name__}
                typer.echo(json.dumps({**facts, "problem": error.problem, "fix": error.fix}), err=True)
            else:
                _tell(
                    f"error: {error.problem}\n  fix: {error.fix}",
                    _notes(error, quiet=bool(named.get("quiet"))),
                )
            raise typer.Exit(BAD_INPUT) from error
        except KeyboardInterrupt as error:
            if named.get("as_json"):
                typer.echo(json.dumps({"event": "interrupted"}), err=True)
            else:
                _tell("interrupted.", _notes(error, quiet=bool(named.get("quiet"))))
            raise typer.Exit(INTERRUPTED) from error

    return run


def _tell(text: str, notes: list[str]) -> None:
    # Names and texts of the data may be in the message; line breaks are ours, all else is made harmless.
    for line in (*text.split("\n"), *notes):
        typer.echo(printable(line), err=True)


def _notes(error: BaseException, *, quiet: bool) -> list[str]:
    """Where the run was kept; the progress display has told a terminal already."""
    told = sys.stderr.isatty() and not quiet
    return [] if told else list(getattr(error, "__notes__", ()))
