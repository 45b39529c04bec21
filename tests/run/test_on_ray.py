"""Ray workers: answers as from the pool, lost workers, what cannot be sent or reached, and that nothing stays."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from steelyard.collect.designs import random_subsets
from steelyard.collect.fits import outcomes
from steelyard.errors import FitError, RunError
from steelyard.problem import Problem
from steelyard.run import in_memory, on_ray, open_run
from steelyard.run.on_ray import RayWorkers
from tests.collect.test_processes import Broken, Held, Placed, Slow, of, plain
from tests.problems import ridge_problem
from tests.run.test_pool import gone, half

ray = pytest.importorskip("ray", reason="needs ray: pip install 'steelyard[ray]'")
# The files that Ray opens for its processes are left to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(scope="module")
def workers() -> Iterator[RayWorkers]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(on_ray, "cores", lambda: 2)
        patched.setattr(on_ray, "_STORE", 100 * 2**20)
        found = RayWorkers("local")
    yield found
    found.close()


def where(seconds: float) -> tuple[int, str]:
    time.sleep(seconds)
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


class Fatal:
    """Ends its process as often as a folder has no file for it; then answers."""

    def __init__(self, folder: Path, times: int) -> None:
        self.folder, self.times = folder, times

    def __call__(self, number: int) -> int:
        if number == 3:
            deaths = len(list(self.folder.iterdir()))
            if deaths < self.times:
                (self.folder / str(deaths)).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return number * number


def fitted(problem: Problem, weightings: np.ndarray, workers: RayWorkers, run=None):
    run = run or in_memory()
    run.workers = workers
    return outcomes(problem, weightings, range(len(weightings)), run, purpose="scoring"), run


def test_tasks_run_elsewhere_in_one_thread_and_errors_come_back_whole(workers):
    with workers.opened(where) as pool:
        found = dict(pool.results([0.2] * 4))
    assert sorted(found) == [0, 1, 2, 3]
    assert os.getpid() not in {pid for pid, _ in found.values()}
    assert {threads for _, threads in found.values()} == {"1"}
    with workers.opened(half) as pool:
        assert sorted(pool.results([4, 8])) == [(0, 2), (1, 4)]
        with pytest.raises(FitError, match="5 is odd") as caught:
            list(pool.results([5]))
    assert caught.value.fix == "take an even one."
    assert "in half" in "".join(caught.value.__notes__)


def test_a_task_whose_worker_is_killed_is_made_again(workers, tmp_path):
    with workers.opened(Fatal(tmp_path, times=2)) as pool:
        assert dict(pool.results(range(6))) == {k: k * k for k in range(6)}
    assert len(list(tmp_path.iterdir())) == 2


def test_fits_equal_those_of_the_loop_bit_by_bit_and_are_kept_one_by_one(workers, tmp_path, monkeypatch):
    problem = of(Slow(noise=0.1, needs=("t0003",)))
    weightings = random_subsets(problem, 10, fraction=0.7, name="test")
    weightings[3] *= 1.5
    weightings[5, 3] = 0.0
    with open_run(tmp_path / "run", {}, show="quiet") as run:
        found, _ = fitted(problem, weightings, workers, run)
        assert [
            note for note in run.notes if "Ray workers of one thread each (this machine, 2 cores)" in note
        ]
        assert run.cost.fits == 10
        assert len(list((tmp_path / "run.part" / "kept" / "fits" / "scoring").iterdir())) == 10
    assert found.failed[5] and found.messages[5] == "example t0003 is missing"
    np.testing.assert_array_equal(found.values, plain(problem, weightings, monkeypatch))


@pytest.mark.slow  # workers import torch
def test_blocks_of_networks_equal_those_of_the_loop(workers, monkeypatch):
    import torch
    from torch import nn

    import steelyard as sy
    from steelyard.learners import torch_together

    base = ridge_problem()
    train, query = (
        (x.input()[:].astype(np.float32), x.labels().astype(np.float32)) for x in (base.train, base.query)
    )
    net = nn.Sequential(nn.Linear(train[0].shape[1], 4), nn.Tanh(), nn.Linear(4, 1))
    learner = sy.learners.Torch(net, loss="mse", recipe=sy.learners.SGD(lr=0.05, epochs=3, batch_size=10))
    problem = Problem(learner, train, query)
    weightings = random_subsets(problem, 11, fraction=0.5, name="test")
    monkeypatch.setattr(
        torch_together, "decide", lambda *_: torch_together.Together(4, "four at once, for this test")
    )
    monkeypatch.setattr("steelyard.learners.torch.decide", torch_together.decide)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        here = outcomes(problem, weightings, range(11), in_memory(), purpose="scoring")
        found, run = fitted(problem, weightings, workers)
    finally:
        torch.set_num_threads(threads)
    assert [note for note in run.notes if "Ray workers" in note] and run.cost.fits == 11
    np.testing.assert_array_equal(found.values, here.values)


def test_what_workers_that_were_asked_for_cannot_do_is_an_error(workers):
    few = random_subsets(of(Slow()), 6, fraction=0.5, name="test")
    with pytest.raises(
        RunError, match="fits cannot be made in Ray workers.*Held: it cannot be pickled"
    ) as caught:
        fitted(of(Held()), few, workers)
    assert "leave out --ray" in caught.value.fix
    with pytest.raises(RunError, match="a fit came out differently by up to"):
        fitted(of(Placed()), few, workers)


def test_functions_that_a_worker_cannot_open_are_refused(workers, tmp_path, monkeypatch):
    (tmp_path / "fleeting.py").write_text("def work(x):\n    return x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import fleeting  # type: ignore[import-not-found]

    with workers.opened(fleeting.work) as pool:
        assert list(pool.results([3])) == [(0, 3)]
    (tmp_path / "fleeting.py").unlink()
    for name in ("fleeting", "other"):
        (tmp_path / f"{name}.py").unlink(missing_ok=True)
    work = type(fleeting.work)(fleeting.work.__code__, {"__name__": "other"})
    other = type(fleeting)("other")
    work.__module__, other.work = "other", work  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "other", other)
    with workers.opened(work) as pool, pytest.raises(RunError, match="cannot open it.*other"):
        list(pool.results([3]))


def test_a_second_user_in_this_process_leaves_the_first_ones_ray_running(workers):
    again = RayWorkers("local")
    again.close()
    with workers.opened(abs) as pool:
        assert list(pool.results([-1])) == [(0, 1)]


def test_no_ray_is_an_error_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match="--ray needs ray, which is not installed") as caught:
        RayWorkers("local")
    assert "pip install 'steelyard[ray]'" in caught.value.fix


def test_an_address_where_nothing_answers_is_told_at_once(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(RunError, match=f"--ray 127.0.0.1:{port}: nothing answers there") as caught:
        RayWorkers(f"127.0.0.1:{port}")
    assert time.monotonic() - began < 3 and "ray start --head" in caught.value.fix
    for wrong in ("ray://127.0.0.1:10001", "127.0.0.1:port", ":6379"):
        with pytest.raises(RunError, match="not an address"):
            RayWorkers(wrong)


DRIVER = """
import sys, time
from pathlib import Path
from steelyard.collect.fits import outcomes
from steelyard.collect.designs import random_subsets
from steelyard.run import on_ray, open_run
from tests.run.test_on_ray import Dawdling, of
if __name__ == "__main__":
    on_ray.cores, on_ray._STORE = (lambda: 2), 100 * 2**20
    problem = of(Dawdling())
    with open_run(sys.argv[1], {}, show="quiet") as run:
        run.workers = on_ray.RayWorkers("local")
        try:
            rows = random_subsets(problem, 200, fraction=0.5, name="test")
            outcomes(problem, rows, range(200), run, purpose="scoring")
        finally:
            run.workers.close()
"""


class Dawdling(Slow):
    def fit(self, examples, weights=None, seed=0):
        time.sleep(0.2)
        return super().fit(examples, weights, seed)


@pytest.mark.slow  # starts a Ray of its own for each signal
@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes by number in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_was_made_stays_and_no_process_does(tmp_path, number):
    program = tmp_path / "driver.py"
    program.write_text(DRIVER)
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])}
    parent = subprocess.Popen([sys.executable, str(program), str(tmp_path / "run")], env=environment)
    folder = tmp_path / "run.part" / "kept" / "fits" / "scoring"
    end = time.monotonic() + 120
    while (not folder.exists() or len(list(folder.iterdir())) < 5) and time.monotonic() < end:
        time.sleep(0.1)
    # Ray's two agents, which do no work, look for their parent for up to a minute after it was killed.
    agents = ("ray::Dashboard", "ray::RuntimeEnv") if number == signal.SIGKILL else ()
    started = [pid for pid in _below(parent.pid) if not any(agent in _name(pid) for agent in agents)]
    assert len(started) > 3
    parent.send_signal(number)
    assert parent.wait(timeout=60) != 0
    assert gone(started), [_name(pid) for pid in started]
    assert 5 <= len(list(folder.iterdir())) < 200


def _name(pid: int) -> str:
    """Its command, or nothing if it has ended."""
    place = Path(f"/proc/{pid}/stat")
    return place.read_text()[:60] if place.exists() else ""


def _below(pid: int) -> list[int]:
    """Every process that descends from this one."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


@pytest.mark.slow  # starts a Ray head as users do
def test_a_cluster_that_runs_already_is_joined_and_left_running(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts"]
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", on_ray._token())
    folder = tempfile.mkdtemp(prefix="ray-")  # its sockets' paths must be short
    head = [*command, "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    head += [
        f"--port={port}",
        "--include-dashboard=false",
        f"--temp-dir={folder}",
        f"--object-store-memory={100 * 2**20}",
    ]
    server = subprocess.Popen(
        head, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        code = (
            "import sys; from steelyard.run.on_ray import RayWorkers; w = RayWorkers(sys.argv[1]); "
            "print(str(w)); p = w.opened(abs); print(sorted(p.results([-3, 2]))); w.close()"
        )
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = subprocess.run(
                [sys.executable, "-c", code, f"127.0.0.1:{port}"], capture_output=True, text=True, check=False
            )
            if found.returncode == 0:
                break
            time.sleep(1)
        assert "[(0, 3), (1, 2)]" in found.stdout, found.stderr
        assert f"(127.0.0.1:{port}, 2 cores)" in found.stdout
        assert server.poll() is None
    finally:
        started = _below(server.pid)
        for one in (server.pid, *started):  # asked kindly, a head waits for half a minute
            os.kill(one, signal.SIGKILL)
        server.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def test_other_errors_are_raised_as_the_loop_raises_them(workers):
    sizes = [20, 21, 22, 25]
    weightings = np.array([np.arange(40) < size for size in sizes], dtype=np.float64)
    with pytest.raises(Exception, match="weights make no sense"):
        fitted(of(Broken()), weightings, workers)
