"""kill -9 at random moments of ``steelyard attribute``: the same command finishes with the same bits."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

MODEL = '''
import time

import numpy as np
from sklearn.linear_model import LogisticRegression

import steelyard as sy


class Slow(LogisticRegression):
    """Slow enough to be killed between two fits."""

    def fit(self, x, y, sample_weight=None):
        time.sleep(0.02)
        return super().fit(x, y, sample_weight)


def _data(count, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3))
    return x, (x[:, 0] + 0.3 * rng.normal(size=count) > 0).astype(int)


def few():
    return sy.learners.Sklearn(Slow()), _data(40, 0), _data(5, 1)


def many():
    return sy.learners.Sklearn(LogisticRegression()), _data(6000, 0), _data(50, 1)
'''


def start(model: Path, function: str, method: str, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "steelyard", "attribute", f"{model}:{function}"]
    options = ["--method", method, "--no-baselines", "--out", str(out), "--quiet"]
    return subprocess.Popen(
        [*command, *options], stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def kept(out: Path) -> int:
    """How many finished pieces lie in the folder."""
    return sum(1 for _ in Path(f"{out}.part", "kept").rglob("*.npz"))


def values(out: Path) -> np.ndarray:
    (folder,) = (out / "report" / "scores").iterdir()
    return np.load(folder / "values.npy")


@pytest.mark.parametrize(("function", "method"), [("few", "leave_one_out"), ("many", "gauss_newton")])
def test_killed_at_random_the_same_command_gives_the_same_bits(tmp_path, function, method):
    model = tmp_path / "model_to_kill.py"
    model.write_text(MODEL)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(model, function, method, whole).wait() == 0
    pieces = sum(1 for _ in (whole / "kept").rglob("*.npz"))
    assert pieces >= 10
    draw = random.Random(0)
    for target in sorted(draw.sample(range(1, pieces), 3)):
        process = start(model, function, method, killed)
        while process.poll() is None and kept(killed) < target:
            time.sleep(0.001)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            assert not killed.exists()
            assert kept(killed) >= target
    assert start(model, function, method, killed).wait() == 0
    np.testing.assert_array_equal(values(killed), values(whole))
    assert values(killed).tobytes() == values(whole).tobytes()
