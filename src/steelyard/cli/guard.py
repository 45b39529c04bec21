"""What every command does about errors: the message and its fix on standard error, and a fixed exit code."""

import functools
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
            _tell(f"error: {error.problem}\n  fix: {error.fix}", error)
            raise typer.Exit(BAD_INPUT) from error
        except KeyboardInterrupt as error:
            _tell("interrupted.", error)
            raise typer.Exit(INTERRUPTED) from error

    return run


def _tell(text: str, error: BaseException) -> None:
    # Names and texts of the data may be in the message; line breaks are ours, all else is made harmless.
    for line in (*text.split("\n"), *getattr(error, "__notes__", ())):
        typer.echo(printable(line), err=True)
