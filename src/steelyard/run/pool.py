"""Worker processes: the same function of many arguments, each call in another interpreter on one core.

Workers are started afresh (``python -m steelyard.run.worker``), so they share no locks, threads or accelerator with
this process, and a user's script is not run again in them. They read their work from a pipe that this process alone
writes: when it ends, however it ends, the pipe closes and they stop at once.
"""

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import IO, Any, ClassVar, Protocol, runtime_checkable

from steelyard.errors import RunError

LARGEST = 2**30
"""Bytes of a function with its data that are worth sending to every worker."""

ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "POLARS_MAX_THREADS",
    "LOKY_MAX_CPU_COUNT",
)
_Worker = subprocess.Popen[bytes]


class Pool:
    """Workers that have opened a function and wait for its arguments; a context, at whose end they are gone.

    Cost: the start of an interpreter and the imports that the function needs, in all workers at the same time.

    Args:
        work: What they do with one argument. It is pickled, with everything that it refers to.
        count: How many.

    Raises:
        RunError: If the function cannot be pickled, is too large to be sent, or cannot be opened by a worker; the
            text says why.

    Example:
        >>> with Pool(abs, 2) as pool:
        ...     sorted(pool.results([-3, 2]))
        [(0, 3), (1, 2)]
    """

    def __init__(self, work: Callable[[Any], Any], count: int) -> None:
        sent = (list(sys.path), pickled(work))
        self._workers: list[_Worker] = []
        self._threads: list[threading.Thread] = []
        try:
            for _ in range(count):
                self._workers.append(_start())
            for worker in self._workers:
                _send(worker, sent)
            for worker in self._workers:
                _check_opened(worker)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def results(self, tasks: Sequence[Any]) -> Generator[tuple[int, Any], None, None]:
        """What the function gives for each argument, with its place, as soon as a worker has it.

        Args:
            tasks: Arguments, begun in this order.

        Raises:
            RunError: If a worker ended before it answered.
            Exception: What the function raised, with the worker's traceback as a note.
        """
        todo: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        answers: queue.SimpleQueue[tuple[int, str, Any, str]] = queue.SimpleQueue()
        for entry in enumerate(tasks):
            todo.put(entry)
        for worker in self._workers:
            thread = threading.Thread(target=_drive, args=(worker, todo, answers), daemon=True)
            self._threads.append(thread)
            thread.start()
        for _ in tasks:
            place, state, value, where = answers.get()
            if state == "failed":
                value.add_note(where)
                raise value
            yield place, value

    def close(self) -> None:
        """End all workers, whatever they do."""
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.wait()
        for thread in self._threads:
            thread.join()
        for worker in self._workers:
            for pipe in (_questions(worker), _answers(worker)):
                _shut(pipe)
        self._workers = []


@runtime_checkable
class Opened(Protocol):
    """A function that workers have opened; a context, at whose end nothing of it goes on."""

    def __enter__(self) -> "Opened": ...

    def __exit__(self, *_: object) -> None: ...

    def results(self, tasks: Sequence[Any]) -> Generator[tuple[int, Any], None, None]:
        """What the function gives for each argument, with its place, as soon as there is an answer."""
        ...


@runtime_checkable
class Workers(Protocol):
    """Where a function can be called many times at once.

    Attributes:
        asked: Whether the user asked for these workers: then it is an error that they cannot do the work.
    """

    asked: ClassVar[bool]

    def opened(self, work: Callable[[Any], Any]) -> Opened:
        """Send a function to the workers.

        Raises:
            RunError: If it cannot be sent or opened.
        """
        ...

    def __str__(self) -> str: ...

    def close(self) -> None:
        """End what was started for them."""
        ...


@dataclass(frozen=True)
class Cores:
    """Worker processes on this machine, started for each function.

    Attributes:
        count: How many.
    """

    count: int
    asked: ClassVar[bool] = False

    def opened(self, work: Callable[[Any], Any]) -> Pool:
        """As many workers, which have opened the function."""
        return Pool(work, self.count)

    def __str__(self) -> str:
        return f"{self.count} processes of one thread each"

    def close(self) -> None:
        """Nothing outlives a function's pool."""


def cannot_open(reason: str) -> RunError:
    """The error for a function that a worker cannot open."""
    return RunError(
        f"a worker process cannot open it ({reason})",
        fix="define its classes and functions in a module that can be imported, not in a script or notebook.",
    )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def threads() -> int:
    """Threads that work within this process may use: one per core, or as few as ``OMP_NUM_THREADS`` says."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores(), max(1, int(asked))) if asked.isdigit() else cores()


def pickled(work: Callable[[Any], Any]) -> bytes:
    """A function with everything that it refers to, to be sent to workers.

    Raises:
        RunError: If it cannot be pickled, or is too large to be sent; the text says why.
    """
    try:
        found = pickle.dumps(work, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise RunError(
            f"it cannot be pickled ({_first_line(error)})",
            fix="build it of functions and classes that a module defines, without open files or locks.",
        ) from error
    if len(found) > LARGEST:
        raise RunError(
            f"it takes {len(found) / 2**30:.1f} GiB with its data, too much to be sent to several processes",
            fix="use fewer examples or a smaller model.",
        )
    return found


def _start() -> _Worker:
    places = os.pathsep.join(place for place in sys.path if place)
    environment = os.environ | dict.fromkeys(ONE_THREAD, "1") | {"PYTHONPATH": places}
    command = [sys.executable, "-P", "-m", "steelyard.run.worker"]
    try:
        # In a session of its own, so that Ctrl-C reaches this process alone, which then ends the workers.
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        raise RunError(
            f"no worker process can be started ({error})", fix="run it where processes may be started."
        ) from error


def _check_opened(worker: _Worker) -> None:
    try:
        state, reason = pickle.load(_answers(worker))
    except (EOFError, pickle.UnpicklingError) as error:
        raise RunError(
            f"a worker process ended before it began (exit status {worker.wait()})",
            fix="read what it wrote to standard error.",
        ) from error
    if state != "ready":
        raise cannot_open(reason)


def _drive(worker: _Worker, todo: "queue.SimpleQueue[Any]", answers: "queue.SimpleQueue[Any]") -> None:
    """Feed one worker until nothing is left to do, or it or the function has failed."""
    while True:
        try:
            place, task = todo.get_nowait()
        except queue.Empty:
            return
        try:
            _send(worker, task)
            state, value, where = pickle.load(_answers(worker))
        except (OSError, EOFError, pickle.UnpicklingError):
            status = worker.wait()
            ended = RunError(
                f"a worker process ended in the middle of its work (exit status {status}"
                f"{', killed, perhaps because memory ran out' if status == -9 else ''}).",
                fix="free memory or allow fewer cores (taskset); the same command goes on with what was kept.",
            )
            state, value, where = "failed", ended, "This was seen by the process that had started it."
        answers.put((place, state, value, where))
        if state == "failed":
            return


def _send(worker: _Worker, what: object) -> None:
    pipe = _questions(worker)
    try:
        pickle.dump(what, pipe, protocol=pickle.HIGHEST_PROTOCOL)
        pipe.flush()
    except BrokenPipeError:
        # It has ended: reading its answer tells.
        return


def _shut(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        # What was still to be flushed is for a worker that has ended.
        return


def _questions(worker: _Worker) -> IO[bytes]:
    if worker.stdin is None:
        raise AssertionError("workers are started with a pipe to their input")
    return worker.stdin


def _answers(worker: _Worker) -> IO[bytes]:
    if worker.stdout is None:
        raise AssertionError("workers are started with a pipe from their output")
    return worker.stdout


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
