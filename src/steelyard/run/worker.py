"""A worker process of :mod:`steelyard.run.pool`: opens a function, then calls it with whatever comes, until told."""

import os
import pickle
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import IO, Any

from steelyard.errors import RunError

Answer = tuple[str, Any, str]
"""``"done"`` or ``"failed"``, the result or the exception, and its traceback."""


def main() -> None:
    """Answer on what was standard output; anything that is printed goes to standard error instead."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(questions, inbox), daemon=True).start()
    path, pickled = inbox.get()
    sys.path[:] = path
    work, reason = opened(pickled)
    if work is None:
        _tell(answers, ("refused", reason))
        return
    _tell(answers, ("ready", ""))
    while True:
        _tell(answers, answered(work, inbox.get()))


def opened(pickled: bytes | memoryview) -> tuple[Callable[[Any], Any] | None, str]:
    """The function in a pickle, or why it cannot be had."""
    try:
        return pickle.loads(pickled), ""
    except Exception as error:  # noqa: BLE001 - importing a user's module can raise anything; it is told
        return None, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def answered(work: Callable[[Any], Any], task: Any) -> Answer:
    """What the function gives, or what it raised, as plain values that can be sent."""
    try:
        return "done", work(task), ""
    except Exception as error:  # noqa: BLE001 - raised again where the work was asked for
        return "failed", _sendable(error), f"In a worker process:\n{traceback.format_exc()}"


def _listen(questions: IO[bytes], inbox: "queue.SimpleQueue[Any]") -> None:
    """Read ahead in a thread, so that the end of whoever asks is seen in the middle of work."""
    while True:
        try:
            inbox.put(pickle.load(questions))
        except (EOFError, pickle.UnpicklingError):
            os._exit(0)


def _sendable(error: Exception) -> Exception:
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - a user's exception may refuse in any way; what it says goes on
        return RunError(f"{type(error).__name__}: {error}", fix="read the traceback of the worker process.")


def _tell(answers: IO[bytes], what: object) -> None:
    pickle.dump(what, answers, protocol=pickle.HIGHEST_PROTOCOL)
    answers.flush()


if __name__ == "__main__":
    main()
