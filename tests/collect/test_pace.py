"""The prediction of seconds: from a probe, in run folders only, and honest about what it cannot know."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from steelyard.collect import pace
from steelyard.learners import Sklearn
from steelyard.problem import Problem
from steelyard.records import Cost
from steelyard.run import in_memory, open_run
from tests.problems import ridge_problem


def logistic(*, trained: bool = False) -> Problem:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    y = (x[:, 0] > 0).astype(np.int64)
    model = LogisticRegression().fit(x, y) if trained else LogisticRegression()
    return Problem(Sklearn(model, trained=trained), (x, y), (x[:5], y[:5]))


def test_seconds_are_told_before_the_work_and_probed_once(tmp_path, monkeypatch) -> None:
    problem = logistic()
    with open_run(tmp_path / "run", {"a": 1}, show="quiet") as run:
        told = pace.predict(problem, run, Cost(fits=100, gradients=10.0))
        assert told.seconds > 0
        assert run.predicted == told
        monkeypatch.setattr(pace, "_probe", lambda _: pytest.fail("probed twice"))
        assert pace.predict(problem, run, Cost(fits=200)).seconds == pytest.approx(
            2 * _fits(told, run, problem)
        )


def _fits(told: Cost, run, problem: Problem) -> float:
    return 100 * float(run.keep(f"pace/{problem.train.checksum[:16]}", dict)["fit"])


def test_nothing_is_probed_in_memory(monkeypatch) -> None:
    monkeypatch.setattr(pace, "_probe", lambda _: pytest.fail("probed"))
    run = in_memory()
    assert pace.predict(logistic(), run, Cost(fits=3)) == Cost(fits=3)
    assert run.predicted == Cost(fits=3)


def test_a_learner_without_gradients_or_with_failing_fits_predicts_no_seconds(tmp_path) -> None:
    problem = ridge_problem(40, 3, needs=("t1",))
    with open_run(tmp_path / "run", {"a": 1}, show="quiet") as run:
        assert pace.predict(problem, run, Cost(gradients=5.0)).seconds == 0.0


def test_the_prediction_is_of_the_right_size(tmp_path) -> None:
    """Within a factor of 20 on a busy machine: it must tell seconds from hours."""
    import time

    problem = logistic()
    with open_run(tmp_path / "run", {"a": 1}, show="quiet") as run:
        told = pace.predict(problem, run, Cost(fits=30))
    started = time.perf_counter()
    for seed in range(30):
        problem.learner.fit(problem.train, seed=seed)
    took = time.perf_counter() - started
    assert took / 20 < told.seconds < 20 * took
