"""Fits in several processes: the same as the loop's, kept one by one, told; and the loop where they cannot be."""

import os
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

import steelyard as sy
from steelyard.collect import processes
from steelyard.collect.designs import random_subsets
from steelyard.collect.fits import outcomes
from steelyard.errors import SettingError
from steelyard.problem import Problem
from steelyard.run import in_memory, open_run
from tests.problems import Parameters, Ridge, inputs, ridge_problem


@dataclass(frozen=True)
class Slow(Ridge):
    """Takes long enough to be worth processes by the tests' rule."""

    def fit(self, examples, weights=None, seed=0) -> Parameters:
        time.sleep(0.01)
        return super().fit(examples, weights, seed)


@dataclass(frozen=True)
class Held(Slow):
    """Holds what no process can be sent."""

    lock: object = threading.Lock()


@dataclass(frozen=True)
class Placed(Slow):
    """Depends on the process it runs in."""

    def fit(self, examples, weights=None, seed=0) -> Parameters:
        found = super().fit(examples, weights, seed)
        return Parameters(found.theta + (os.getpid() % 100_000 + 1), seed)


@dataclass(frozen=True)
class Broken(Slow):
    """Refuses small sets with an error that is no failed fit."""

    def fit(self, examples, weights=None, seed=0) -> Parameters:
        if len(examples) == 25:
            raise SettingError("weights make no sense", fix="leave them out.")
        return super().fit(examples, weights, seed)


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch):
    monkeypatch.setattr(processes, "cores", lambda: 2)
    monkeypatch.setattr(processes, "GAIN", 0.01)


def of(learner: object, **settings: float) -> Problem:
    base = ridge_problem(**settings)
    return Problem(learner, base.train, base.query)


def plain(problem: Problem, weightings: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    with monkeypatch.context() as patched:
        patched.setattr(processes, "cores", lambda: 1)
        run = in_memory()
        found = outcomes(problem, weightings, range(len(weightings)), run, purpose="scoring")
        assert not [note for note in run.notes if "processes" in note]
    return found.values


def test_fits_equal_those_of_the_loop_bit_by_bit(tmp_path, monkeypatch):
    problem = of(Slow(noise=0.1))
    weightings = random_subsets(problem, 12, fraction=0.5, name="test")
    weightings[3] *= 1.5
    with open_run(tmp_path / "run", {}, show="quiet") as run:
        first = outcomes(problem, weightings[:2], range(2), run, purpose="scoring")
        assert run.notes == ()
        found = outcomes(problem, weightings, range(12), run, purpose="scoring")
        assert run.cost.fits == 12
        assert [note for note in run.notes if "made in 2 processes" in note]
        kept = list((tmp_path / "run.part" / "kept" / "fits" / "scoring").iterdir())
        assert len(kept) == 12
    np.testing.assert_array_equal(found.values[:2], first.values)
    np.testing.assert_array_equal(found.values, plain(problem, weightings, monkeypatch))


def test_networks_of_torch_equal_those_of_the_loop_in_one_thread(monkeypatch):
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
    recipe = sy.learners.SGD(lr=0.05, momentum=0.9, epochs=3, batch_size=10)
    base = ridge_problem()
    train, query = (
        (inputs(x).astype(np.float32), x.labels().astype(np.float32)) for x in (base.train, base.query)
    )
    learner = sy.learners.Torch(net, loss="mse", recipe=recipe)
    problem = Problem(learner, train, query)
    weightings = random_subsets(problem, 8, fraction=0.5, name="test")
    run, threads = in_memory(), torch.get_num_threads()
    found = outcomes(problem, weightings, range(8), run, purpose="scoring")
    assert [note for note in run.notes if "made in 2 processes" in note], run.notes
    torch.set_num_threads(1)
    try:
        np.testing.assert_array_equal(found.values[2:], plain(problem, weightings, monkeypatch)[2:])
    finally:
        torch.set_num_threads(threads)


def test_failed_fits_come_back_with_their_messages(monkeypatch):
    problem = of(Slow(needs=("t0003",)))
    weightings = np.ones((10, 40))
    weightings[np.arange(10), np.arange(20, 30)] = 0.0
    weightings[:6, 0] = 0.0  # smaller ones come first: those that fail are made by workers
    weightings[[6, 8], 3] = 0.0
    weightings[7] = 0.0
    run = in_memory()
    found = outcomes(problem, weightings, range(10), run, purpose="scoring")
    assert [note for note in run.notes if "processes" in note]
    assert found.failed.nonzero()[0].tolist() == [6, 7, 8]
    assert found.messages[6] == "example t0003 is missing"
    assert found.messages[7] == "no training example has a positive weight"
    assert run.cost.fits == 9
    np.testing.assert_array_equal(found.values, plain(problem, weightings, monkeypatch))


def test_other_errors_are_raised_as_the_loop_raises_them():
    problem = of(Broken())
    sizes = [20, 21, 22, 23, 24, 25, 26, 27]
    weightings = np.array([np.arange(40) < size for size in sizes], dtype=np.float64)
    with pytest.raises(SettingError, match="weights make no sense"):
        outcomes(problem, weightings, range(8), in_memory(), purpose="scoring")


def test_a_learner_that_cannot_be_sent_is_fitted_here_and_told(monkeypatch):
    problem = of(Held(noise=0.1))
    weightings = random_subsets(problem, 8, fraction=0.5, name="test")
    run = in_memory()
    found = outcomes(problem, weightings, range(8), run, purpose="scoring")
    assert "fits are made one by one: Held: it cannot be pickled" in run.notes[0]
    assert run.cost.fits == 8
    np.testing.assert_array_equal(found.values, plain(problem, weightings, monkeypatch))


def test_fits_that_come_out_differently_elsewhere_are_made_here(monkeypatch):
    problem = of(Placed())
    weightings = random_subsets(problem, 8, fraction=0.5, name="test")
    run = in_memory()
    found = outcomes(problem, weightings, range(8), run, purpose="scoring")
    assert "a fit came out differently by up to" in run.notes[0]
    assert run.cost.fits == 8
    np.testing.assert_array_equal(found.values, plain(problem, weightings, monkeypatch))


def test_it_must_pay_and_leave_room(monkeypatch):
    monkeypatch.setattr(processes, "GAIN", 6.0)
    assert processes.worth(40, 0.3) == 2
    assert processes.worth(40, 0.29) == 1
    assert processes.worth(3, 100.0) == 1
    monkeypatch.setattr(processes, "cores", lambda: 8)
    assert processes.worth(7, 100.0) == 1
    monkeypatch.setattr(processes, "_fitting", lambda: 3)
    assert processes.worth(7, 100.0) == 3
    monkeypatch.setattr(processes, "_fitting", lambda: 0)
    assert processes.worth(700, 100.0) == 1
