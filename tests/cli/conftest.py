"""Models and data as users have them: a Python file, a data file, a saved estimator."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

MODEL = '''
"""A ridge regression and what goes with it, in every shape that MODEL may return."""

import numpy as np
from sklearn.linear_model import LogisticRegression

import steelyard as sy


def _data(count, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3))
    return x, (x[:, 0] + 0.3 * rng.normal(size=count) > 0).astype(int)


def build():
    return sy.Problem(sy.learners.Sklearn(LogisticRegression(C=1.0)), _data(60, 0), _data(8, 1))


def parts():
    return sy.learners.Sklearn(LogisticRegression(C=1.0)), _data(60, 0), _data(8, 1)


def learner():
    return sy.learners.Sklearn(LogisticRegression(C=1.0))


def fitted():
    return LogisticRegression(C=1.0).fit(*_data(60, 0))


def nothing():
    return 3


def pair():
    return learner(), _data(60, 0)


CONSTANT = 3
'''


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model_for_cli.py"
    path.write_text(MODEL)
    return path


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path]:
    """Training examples and queries as JSONL, labels included."""
    rng = np.random.default_rng(0)
    paths = []
    for name, count in (("train", 60), ("query", 8)):
        x = rng.normal(size=(count, 3))
        path = tmp_path / f"{name}.jsonl"
        rows = [
            {"a": a, "b": b, "c": c, "label": int(a > 0), "id": f"{name}-{i}"}
            for i, (a, b, c) in enumerate(x)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths.append(path)
    return paths[0], paths[1]
