"""Ray workers: the same function of many arguments, on the cores of one machine or of a cluster.

Only this module imports ray. A function is pickled once, put where all workers can read it, and opened once in each
worker process; an answer is one Ray task on one core and in one thread. A task whose worker or machine is lost is
begun again by Ray on another one, so that killing a worker loses no work but what it had in hand.
"""

import functools
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Any, ClassVar

import numpy as np

from steelyard.errors import RunError
from steelyard.run.pool import ONE_THREAD, cannot_open, cores, pickled
from steelyard.run.worker import answered, opened

LOCAL, AUTO = "local", "auto"

_STORE = 256 * 2**20
"""Bytes of the object store of a Ray that is started here; what does not fit goes to its temporary folder."""
_AGAIN = 3
"""Times that a task whose worker was lost is begun again."""
_AHEAD = 4
"""Tasks per core that Ray is given at a time: enough to keep all busy, few enough to hold their arguments."""
_REACH = 5.0
_LISTEN = 1.0
_PORT = 6379
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class RayWorkers:
    """A Ray that functions can be sent to; :meth:`close` stops it, if it was started for this.

    A connection that this process had already is used as it is and left open.

    Args:
        address: ``"local"``: start one on the cores that this process may use. ``"auto"``: the one that runs on this
            machine. ``HOST:PORT``: the cluster with its head there; this machine must belong to it.

    Raises:
        RunError: If ray is not installed, or nothing answers at the address.

    Example:
        >>> workers = RayWorkers("local")  # doctest: +SKIP
        >>> with workers.opened(abs) as absolute:  # doctest: +SKIP
        ...     sorted(absolute.results([-3, 2]))
        [(0, 3), (1, 2)]
        >>> workers.close()  # doctest: +SKIP
    """

    asked: ClassVar[bool] = True

    def __init__(self, address: str = LOCAL) -> None:
        self._ray = _imported()
        self._address = address
        self._folder: str | None = None
        self._own = not self._ray.is_initialized()
        self._handler = signal.getsignal(signal.SIGTERM)
        if not self._own:
            return
        if address not in (LOCAL, AUTO):
            _check_reachable(address)
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        where = "this machine" if self._address == LOCAL else self._address
        return f"Ray workers of one thread each ({where}, {self.count} cores)"

    @property
    def count(self) -> int:
        """Cores that Ray has now."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def opened(self, work: Callable[[Any], Any]) -> "RayPool":
        """Put a function where all workers can read it.

        Raises:
            RunError: If it cannot be pickled or is too large to be sent.
        """
        sent = np.frombuffer(pickled(work), dtype=np.uint8)
        held = self._ray.put(sent)
        settings: dict[str, Any] = {"num_cpus": 1, "max_retries": _AGAIN}
        if self._address != LOCAL or not self._own:
            settings["runtime_env"] = {"env_vars": dict.fromkeys(ONE_THREAD, "1")}
        task = self._ray.remote(**settings)(_answer)
        name = secrets.token_hex(8)
        return RayPool(self._ray, functools.partial(task.remote, name, list(sys.path), [held]), self)

    def close(self) -> None:
        """Leave Ray; end all of its processes if they were started for this."""
        if self._own:
            self._ray.shutdown()
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, self._handler)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._own, self._folder = False, None

    def _connect(self) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        settings = {name: os.environ.get(name, value) for name, value in _SETTINGS.items()}
        with _environment(settings), _quiet():
            if self._address != LOCAL:
                self._join(quiet)
                return
            self._folder = tempfile.mkdtemp(prefix="steelyard-ray-")
            # Workers have what this process has while it starts them.
            with _environment(dict.fromkeys(ONE_THREAD, "1") | {"RAY_AUTH_TOKEN": _token()}):
                self._ray.init(
                    address=LOCAL,
                    num_cpus=cores(),
                    num_gpus=0,
                    include_dashboard=False,
                    object_store_memory=_STORE,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=self._folder,
                    **quiet,
                )

    def _join(self, quiet: Mapping[str, Any]) -> None:
        try:
            self._ray.init(address=self._address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            raise RunError(
                f"--ray {self._address}: Ray cannot be joined there ({_first_line(error)}).",
                fix="start it with the same versions of Ray and Python (ray start --head), make this machine "
                "part of it (ray start --address HOST:PORT), or give --ray local.",
            ) from error


@dataclass(frozen=True, eq=False)
class RayPool:
    """A function that Ray workers can call; a context, at whose end no task of it goes on.

    Attributes:
        ray: The package.
        ask: Begins one task.
        workers: Where.
    """

    ray: ModuleType
    ask: Callable[[Any], Any]
    workers: RayWorkers

    def __enter__(self) -> "RayPool":
        return self

    def __exit__(self, *_: object) -> None:
        """What is under way is ended by :meth:`results`."""

    def results(self, tasks: Sequence[Any]) -> Generator[tuple[int, Any], None, None]:
        """What the function gives for each argument, with its place, as soon as a worker has it.

        Args:
            tasks: Arguments, begun in this order.

        Raises:
            RunError: If a worker cannot open the function, or a task lost its worker again and again.
            Exception: What the function raised, with the worker's traceback as a note.
        """
        todo = iter(enumerate(tasks))
        under_way: dict[Any, int] = {}
        with _interrupts() as heard, self._ending(under_way):
            while True:
                for place, task in todo:
                    under_way[self.ask(task)] = place
                    if len(under_way) >= _AHEAD * self.workers.count:
                        break
                if not under_way:
                    return
                done, _ = self.ray.wait(list(under_way), num_returns=1, timeout=_LISTEN)
                if heard:
                    raise KeyboardInterrupt
                for task in done:
                    yield under_way.pop(task), self._answer(task)

    @contextmanager
    def _ending(self, under_way: Mapping[Any, int]) -> Iterator[None]:
        try:
            yield
        finally:
            for task in under_way:
                self.ray.cancel(task, force=True)

    def _answer(self, task: Any) -> Any:
        try:
            state, value, where = self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            raise RunError(
                f"a Ray task did not end, in {_AGAIN + 1} attempts ({_first_line(error)}).",
                fix="free memory on the machines, and install the same versions on all of them; the same command goes "
                "on with what was kept.",
            ) from error
        if state == "refused":
            raise cannot_open(value)
        if state == "failed":
            value.add_note(where)
            raise value
        return value


_WORK: dict[str, Callable[[Any], Any]] = {}
"""In a worker: the function that was opened last, by its name."""


def _answer(name: str, path: list[str], held: list[Any], task: Any) -> tuple[str, Any, str]:
    """A Ray task: open the function if this process has not yet, and call it."""
    if name not in _WORK:
        sys.path[:] = [*path, *(place for place in sys.path if place not in path)]
        work, reason = opened(memoryview(_imported().get(held[0])))
        if work is None:
            return "refused", reason, ""
        _WORK.clear()
        _WORK[name] = work
    return answered(_WORK[name], task)


def _imported() -> ModuleType:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise RunError(
            "--ray needs ray, which is not installed.",
            fix="pip install 'steelyard[ray]', or leave out --ray.",
        ) from error
    return ray


def _check_reachable(address: str) -> None:
    """Ray itself waits a minute before it says that nothing answers."""
    host, _, port = address.rpartition(":") if ":" in address else (address, "", str(_PORT))
    if not host or not port.isdigit() or "/" in host:
        raise RunError(
            f"--ray {address}: not an address.",
            fix=f"give HOST:PORT of the head of a cluster (its port is {_PORT} by default), auto, or local.",
        )
    try:
        socket.create_connection((host, int(port)), timeout=_REACH).close()
    except (OSError, OverflowError) as error:
        raise RunError(
            f"--ray {address}: nothing answers there ({_first_line(error)}).",
            fix="start the head (ray start --head) and check host, port and firewall; or give --ray local.",
        ) from error


@functools.cache
def _token() -> str:
    """What this process's own Ray asks of whoever calls it: it listens on more than the loopback, and runs any code."""
    return secrets.token_hex(32)


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Every Ctrl-C, besides what it does anyway: one that meets Ray's own code is lost there."""
    heard: list[int] = []
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is not signal.default_int_handler:
        yield heard
        return

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, hear)
    try:
        yield heard
    finally:
        signal.signal(signal.SIGINT, usual)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables for as long as Ray starts, which sets some itself; afterwards all are as they were."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in {*values, *(name for name in os.environ if name.startswith("RAY_"))}:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """No word from Ray about what it does by default; its errors are told."""
    log = logging.getLogger("ray")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
