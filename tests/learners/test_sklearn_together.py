"""Shorter ways to many scikit-learn fits: exactly the estimator's own fits, or none at all."""

import pickle

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from steelyard.collect.fits import outcomes
from steelyard.learners import Sklearn, sklearn_nearest
from steelyard.problem import Problem
from steelyard.records import Measurement
from steelyard.run import in_memory

TIGHT = {"tol": 1e-12, "max_iter": 10_000}


def data(classes: int = 3, *, rows: int = 60, width: int = 4) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(5)
    labels = np.arange(rows) % classes
    return draw.normal(size=(rows, width)) + 1.5 * np.eye(width)[labels % width], labels


def weightings(count: int = 10, rows: int = 60, *, fractional: bool = True) -> np.ndarray:
    draw = np.random.default_rng(6)
    found = np.ones((count, rows))
    for k in range(1, count):
        found[k, draw.choice(rows, size=(1, 3, rows // 2)[k % 3], replace=False)] = 0.0
    if fractional:
        found[-1] *= draw.uniform(0.2, 2.0, size=rows)
    return found


def learner_of(problem: Problem) -> Sklearn:
    assert isinstance(problem.learner, Sklearn)
    return problem.learner


def together(problem: Problem, weights: np.ndarray) -> np.ndarray:
    return learner_of(problem).measure_together(problem.train, weights, range(len(weights)), problem.query)


def one_by_one(problem: Problem, weights: np.ndarray) -> np.ndarray:
    learner = problem.learner
    return np.stack([learner.measure(learner.fit(problem.train, one), problem.query) for one in weights])


RIDGES = [Ridge(0.7), Ridge(3.0, fit_intercept=False), Ridge(0.1, solver="svd")]
LOGISTICS = [
    LogisticRegression(C=0.5, **TIGHT),
    LogisticRegression(C=2.0, fit_intercept=False, solver="newton-cg", **TIGHT),
    LogisticRegression(C=1.0, solver="newton-cholesky", **TIGHT),
]
NEIGHBOURS = [
    KNeighborsClassifier(3),
    KNeighborsClassifier(4, weights="distance", metric="manhattan"),
    KNeighborsClassifier(1, algorithm="brute"),
]


@pytest.mark.parametrize("estimator", RIDGES, ids=str)
@pytest.mark.parametrize("targets", [1, 2])
def test_ridge_equals_its_own_fits(estimator: Ridge, targets: int):
    x, _ = data()
    y = x @ np.random.default_rng(0).normal(size=(4, targets))
    y = (y + 0.1 * np.random.default_rng(1).normal(size=y.shape)).squeeze()
    problem = Problem(Sklearn(estimator), (x, y), (x[:7] + 0.1, y[:7]))
    weights = weightings()
    assert learner_of(problem).together(problem.train) > 10
    found = together(problem, weights)
    np.testing.assert_allclose(found, one_by_one(problem, weights), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("estimator", LOGISTICS, ids=str)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("measurement", ["loss", "margin", "log_probability", "accuracy"])
def test_logistic_regression_reaches_the_minimum_of_tight_fits(estimator, classes: int, measurement):
    x, y = data(classes)
    names = np.array(["a", "b", "c"])[y]
    problem = Problem(Sklearn(estimator, measurement=measurement), (x, names), (x[:7] + 0.1, names[:7]))
    weights = weightings()
    found = together(problem, weights)
    np.testing.assert_allclose(found, one_by_one(problem, weights), rtol=1e-5, atol=1e-6)
    assert "Newton" in learner_of(problem).together_note(problem.train)


@pytest.mark.parametrize("estimator", NEIGHBOURS, ids=str)
@pytest.mark.parametrize("measurement", ["loss", "margin", "accuracy"])
def test_neighbours_equal_their_own_fits(estimator, measurement):
    x, y = data()
    problem = Problem(Sklearn(estimator, measurement=measurement), (x, y), (x[:7] + 0.1, y[:7]))
    weights = weightings(fractional=False)
    found = together(problem, weights)
    np.testing.assert_allclose(found, one_by_one(problem, weights), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("design", ["leave one out", "half", "few"])
def test_neighbours_that_are_tied_are_those_that_scikit_learn_takes(weights, design, monkeypatch):
    """A few queries at whole numbers, as all examples are: their neighbours tie in many ways."""
    draw = np.random.default_rng(4)
    x, y = draw.integers(0, 6, size=(160, 4)).astype(float), draw.integers(0, 3, size=160)
    q = draw.uniform(0, 6, size=(40, 4))
    q[:8] = np.round(q[:8])
    problem = Problem(
        Sklearn(KNeighborsClassifier(5, weights=weights, algorithm="brute")), (x, y), (q, y[:40])
    )
    masks = {
        "leave one out": 1.0 - np.eye(160)[:30],
        "half": (draw.random((30, 160)) < 0.5).astype(float),
        "few": (draw.random((30, 160)) < 0.1).astype(float),
    }[design]
    asked: list[int] = []
    search = sklearn_nearest._asked
    monkeypatch.setattr(sklearn_nearest, "_asked", lambda f, x, q: asked.append(len(q)) or search(f, x, q))
    values = learner_of(problem).measure_together(problem.train, masks, range(30), problem.query)
    known = np.isfinite(values).all(axis=1)
    assert known.sum() >= 20 and sum(asked) > 0
    np.testing.assert_allclose(values[known], one_by_one(problem, masks[known]), rtol=1e-10, atol=1e-12)


def test_neighbours_predict_numbers_like_their_own_fits():
    x, _ = data()
    for weights in ("uniform", "distance"):
        problem = Problem(
            Sklearn(KNeighborsRegressor(3, weights=weights)), (x, x[:, :2]), (x[:7], x[:7, 1:3])
        )
        masks = weightings(fractional=False)
        found = together(problem, masks)
        np.testing.assert_allclose(found, one_by_one(problem, masks), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("estimator", [LOGISTICS[0], KNeighborsClassifier(5), KNeighborsClassifier(2)])
def test_lost_classes_tied_neighbours_and_too_few_of_them_end_as_single_fits(estimator):
    x, y = data()
    x = np.concatenate([x[:30], x[:30]])  # every example twice, half of them under another label
    problem = Problem(Sklearn(estimator), (x, y), (x[:7], y[:7]))
    weights = np.ones((5, 60))
    weights[1, y == 2] = 0.0
    weights[2, 4:] = 0.0
    weights[3, y != 1] = 0.0
    found = outcomes(problem, weights, [0] * 5, in_memory(), purpose="scoring")
    for k in np.flatnonzero(~found.failed):
        alone = one_by_one(problem, weights[k : k + 1])[0]
        np.testing.assert_allclose(found.values[k], alone, rtol=1e-5, atol=1e-6)
    alone_fails = [isinstance(estimator, LogisticRegression), estimator.get_params().get("n_neighbors") == 5]
    assert found.failed.tolist() == [False, False, alone_fails[1], alone_fails[0], False]


def _one_over_more_than_the_distance(distances):
    return 1 / (1 + distances)


@pytest.mark.parametrize(
    "estimator",
    [
        GaussianNB(),
        RidgeClassifier(),
        LogisticRegression(C=np.inf),
        LogisticRegression(solver="saga", l1_ratio=0.5, max_iter=5000),
        LogisticRegression(class_weight="balanced"),
        KNeighborsClassifier(3).set_params(weights=_one_over_more_than_the_distance),
        Ridge(1e-14),
        Ridge(1.0, solver="sag"),
        Ridge(1.0, positive=True, solver="lbfgs"),
    ],
    # A function's text holds its address, by which two processes would not know the same test.
    ids=lambda estimator: type(estimator).__name__,
)
def test_nothing_is_offered_where_the_model_would_be_another(estimator):
    x, y = data()
    problem = Problem(Sklearn(estimator), (x, y), (x[:5], y[:5]))
    assert learner_of(problem).together(problem.train) == 1
    assert learner_of(problem).together_note(problem.train) == ""


def test_nothing_is_offered_for_early_stopping_and_measurements_of_ones_own():
    x, y = data()
    own = (
        lambda estimator, inputs, labels: np.ones(len(labels)),
        Measurement("one", "points", lower_is_better=False),
    )
    problem = Problem(Sklearn(Ridge(), measurement=own), (x, x[:, 0]), (x[:5], x[:5, 0]))
    assert learner_of(problem).together(problem.train) == 1
    early = Problem(Sklearn(LogisticRegression(max_iter=2)), (x, y), (x[:5], y[:5]))
    with pytest.warns(match="max_iter"):
        assert learner_of(early).together(early.train) == 1


def test_the_learner_still_pickles_after_a_shorter_way_was_found():
    x, y = data()
    problem = Problem(Sklearn(LOGISTICS[0]), (x, y), (x[:5], y[:5]))
    found = together(problem, np.ones((1, 60)))
    copied = Problem(pickle.loads(pickle.dumps(problem.learner)), (x, y), (x[:5], y[:5]))  # noqa: S301 - our own
    np.testing.assert_array_equal(together(copied, np.ones((1, 60))), found)
