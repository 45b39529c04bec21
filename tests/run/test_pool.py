"""Worker processes: answers, errors, what cannot be sent, and that nothing is left running."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from steelyard.errors import FitError, RunError
from steelyard.run.pool import Pool, cores


def half(number: int) -> int:
    os.write(1, b"a learner that talks")
    if number % 2:
        raise FitError(f"{number} is odd", fix="take an even one.")
    return number // 2


class Stubborn(Exception):
    def __reduce__(self):
        raise TypeError("not me")


def stubborn(_: object) -> None:
    raise Stubborn("will not be sent")


def leave(_: object) -> None:
    os._exit(7)


def whoami(seconds: float) -> tuple[int, str]:
    time.sleep(seconds)
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def gone(pids: list[int]) -> bool:
    end = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, pids))


def test_answers_come_with_their_places_from_all_workers():
    with Pool(whoami, 2) as pool:
        found = dict(pool.results([0.2] * 4))
    assert sorted(found) == [0, 1, 2, 3]
    pids = {pid for pid, _ in found.values()}
    assert len(pids) == 2 and os.getpid() not in pids
    assert {threads for _, threads in found.values()} == {"1"}
    assert gone(list(pids))


def test_printing_disturbs_no_answer_and_errors_come_back_whole():
    with Pool(half, 1) as pool:
        assert list(pool.results([4, 8])) == [(0, 2), (1, 4)]
        with pytest.raises(FitError, match="5 is odd") as caught:
            list(pool.results([5]))
        assert caught.value.fix == "take an even one."
        assert "in half" in "".join(caught.value.__notes__)


def test_an_error_that_cannot_be_sent_still_says_what_it_was():
    with Pool(stubborn, 1) as pool, pytest.raises(RunError, match="Stubborn: will not be sent"):
        list(pool.results([0]))


def test_a_worker_that_ends_is_told():
    with Pool(leave, 1) as pool, pytest.raises(RunError, match=r"exit status 7"):
        list(pool.results([0, 1]))


def test_what_cannot_be_pickled_or_opened_is_refused_at_the_start(tmp_path, monkeypatch):
    with pytest.raises(RunError, match="cannot be pickled"):
        Pool(lambda x: x, 1)
    with pytest.raises(RunError, match="cannot be pickled.*lock"):
        Pool(threading.Lock().__enter__, 1)
    (tmp_path / "passing.py").write_text("def work(x):\n    return x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import passing  # type: ignore[import-not-found]

    work = passing.work
    with Pool(work, 1) as pool:
        assert list(pool.results([3])) == [(0, 3)]
    (tmp_path / "passing.py").unlink()
    with pytest.raises(RunError, match="cannot open it.*passing"):
        Pool(work, 2)


def test_an_interpreter_that_cannot_start_is_a_reason(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RunError, match="no worker process can be started"):
        Pool(math.sqrt, 1)


DRIVER = """
import sys, time
from steelyard.run.pool import Pool
from tests.run.test_pool import whoami
if __name__ == "__main__":
    with Pool(whoami, 2) as pool:
        for place, (pid, _) in pool.results([0.0, 0.0, 0.0, 0.0, 60.0, 60.0]):
            print(pid, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes by number in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_parent_ends_no_worker_stays(tmp_path, number):
    program = tmp_path / "driver.py"
    program.write_text(DRIVER)
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])}
    parent = subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    if parent.stdout is None:
        raise AssertionError("it has a pipe")
    for _ in range(4):
        parent.stdout.readline()
    workers = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _parent_of(entry) == parent.pid
    ]
    assert len(workers) == 2
    parent.send_signal(number)
    _, errors = parent.communicate(timeout=20)
    assert gone(workers)
    # Ctrl-C is told once, by the parent.
    assert errors.count(b"KeyboardInterrupt") == (number == signal.SIGINT)


def _parent_of(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def test_cores_are_those_that_this_process_may_use():
    assert 1 <= cores() <= (os.cpu_count() or 1)
