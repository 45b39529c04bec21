"""Memory: what scoring needs beside the data and the score matrix does not grow with the training set.

    python -m benchmarks.memory

EK-FAC and grad-dot on a perceptron 784-128-64-10 with 2,000 to 32,000 training examples and 20 queries, each
in a process of its own. The data go in as a memory-mapped file and the scores come out as one, so that what
remains is the working memory.
"""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.measure import Options, options, record, show

_SIZES = (2000, 8000, 32_000)
_QUERIES = 20
_METHODS = ("grad_dot", "ekfac", "trak")


def main(given: Options) -> None:
    """One process per method and size."""
    sizes = _SIZES[:2] if given.reduced else _SIZES
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in sizes:
            _write(Path(folder) / f"{count}.npz", count)
        for method in _METHODS:
            for count in sizes:
                rows.append(_measure(Path(folder), method, count, given.threads))
    show(
        "peak memory while scoring",
        ("method", "train", "working MB", "score matrix MB", "data MB"),
        [tuple(row.values()) for row in rows],
    )
    record("memory", given, {"rows": rows})


def _write(path: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((count, 784), dtype=np.float32)
    np.savez(path, input=inputs, label=generator.integers(0, 10, count))


def _measure(folder: Path, method: str, count: int, threads: int) -> dict[str, str | int | float]:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.memory",
            "--inside",
            str(folder),
            method,
            str(count),
            str(threads),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{method} with {count} examples failed:\n{done.stderr[-2000:]}")
    working = json.loads(done.stdout.splitlines()[-1])["bytes"]
    return {
        "method": method,
        "train": count,
        "working_mb": working / 2**20,
        "matrix_mb": count * _QUERIES * 4 / 2**20,
        "data_mb": count * 784 * 4 / 2**20,
    }


def _inside(folder: Path, method: str, count: int, threads: int) -> None:
    """Score, and print by how much the peak of this process grew."""
    import torch

    import steelyard as sy
    from benchmarks.networks import perceptron

    torch.set_num_threads(threads)
    net, (inputs, labels) = perceptron(torch.Generator().manual_seed(0), _QUERIES)
    learner = sy.learners.Torch(net, trained=True)
    query = sy.read({"input": inputs.numpy(), "label": labels.numpy()}, label="label")
    # One small call first, so that what libraries allocate once is not counted.
    warm = sy.Problem(learner, train=query, query=query)
    sy.score.by_name(method)(warm)
    problem = sy.Problem(learner, train=sy.read(folder / f"{count}.npz", label="label"), query=query)
    with (
        _watching() as peak,
        sy.open_run(folder / f"{method}-{count}", {"command": "benchmark"}, show="quiet") as kept,
    ):
        sy.score.by_name(method)(problem, kept)
    print(json.dumps({"bytes": peak[-1] - peak[0]}))


@contextmanager
def _watching() -> Iterator[list[int]]:
    """First and highest number of bytes that the process holds itself, looked at every 2 ms.

    Pages of mapped files (data and scores) belong to the system, which drops them when it needs room; the usual
    peak of resident memory counts them all the same.
    """
    status = Path("/proc/self/status")

    def held() -> int:
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

    seen = [held(), held()]
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.002):
            seen[-1] = max(seen[-1], held())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        _inside(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main(options(__doc__))
