"""Out-of-sample probabilities: against plain cross-validation, and what cannot be folded."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from steelyard.collect.folds import held_out_probabilities
from steelyard.errors import CapabilityError, DataError, SettingError
from steelyard.learners import Sklearn
from steelyard.problem import Problem
from steelyard.run import in_memory, open_run


def problem(labels: np.ndarray, seed: int = 0, truth: np.ndarray | None = None) -> Problem:
    centre = labels if truth is None else truth
    x = np.random.default_rng(0).normal(size=(len(labels), 4)) + np.asarray(centre)[:, None]
    return Problem(Sklearn(LogisticRegression()), (x, labels), (x[:3], labels[:3]), seed=seed)


def test_no_example_is_predicted_by_a_model_that_saw_it():
    truth = np.repeat([0, 3], 40)
    labels = truth.copy()
    labels[5] = 3
    found = held_out_probabilities(problem(labels, truth=truth), in_memory())
    assert found.shape == (80, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found[5, 0] > 0.5


def test_leaving_one_out_equals_the_loop():
    labels = np.array([0, 1] * 6)
    given = problem(labels)
    found = held_out_probabilities(given, in_memory(), folds=12)
    x = np.asarray(given.train.input()[:])
    for i in range(12):
        rest = np.arange(12) != i
        expected = LogisticRegression().fit(x[rest], labels[rest]).predict_proba(x[i : i + 1])[0]
        np.testing.assert_allclose(found[i], expected, atol=1e-4)


def test_a_folder_gives_the_same_bits_without_fitting(tmp_path):
    given = problem(np.array([0, 1] * 20))
    with open_run(tmp_path / "run", {}) as run:
        first = held_out_probabilities(given, run)
        spent = run.cost.fits
        again = held_out_probabilities(given, run)
        assert run.cost.fits == spent == 5
    np.testing.assert_array_equal(first, again)


def test_what_cannot_be_folded_is_refused():
    with pytest.raises(SettingError, match="folds=1"):
        held_out_probabilities(problem(np.array([0, 1] * 5)), in_memory(), folds=1)
    with pytest.raises(DataError, match="a single example"):
        held_out_probabilities(problem(np.array([0, 1] * 5 + [2])), in_memory())
    x = np.eye(6)
    with pytest.raises(DataError, match="measured numbers"):
        held_out_probabilities(Problem(Sklearn(Ridge()), (x, x[:, 0]), (x, x[:, 0])), in_memory())
    labels = np.arange(6) % 2
    with pytest.raises(CapabilityError):
        held_out_probabilities(Problem(Sklearn(LinearSVC()), (x, labels), (x, labels)), in_memory(), folds=2)
