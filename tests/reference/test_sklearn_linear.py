"""Gradients, Hessians and influence of linear models against finite differences and real refits."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.datasets import make_classification, make_regression
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from steelyard.data import read
from steelyard.learners.sklearn import Sklearn
from steelyard.learners.sklearn_objectives import as_linear
from steelyard.records import Examples

pytestmark = pytest.mark.reference

TIGHT = {"tol": 1e-10, "max_iter": 20_000}


def _logistic(**settings) -> LogisticRegression:
    return LogisticRegression(**{"C": 0.3, **TIGHT, **settings})


def _classes(count: int, rows: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return make_classification(
        rows,
        6,
        n_informative=5,
        n_redundant=0,
        n_classes=count,
        n_clusters_per_class=1,
        flip_y=0.1,
        random_state=seed,
    )


def _targets(rows: int = 80, outputs: int = 1) -> tuple[np.ndarray, np.ndarray]:
    return make_regression(rows, 6, n_targets=outputs, noise=20.0, random_state=1)


CASES = {
    "linear": (LinearRegression(), lambda: _targets()),
    "linear without intercept": (LinearRegression(fit_intercept=False), lambda: _targets()),
    "ridge": (Ridge(alpha=3.0), lambda: _targets()),
    "ridge without intercept": (Ridge(alpha=3.0, fit_intercept=False), lambda: _targets()),
    "ridge of three targets": (Ridge(alpha=[0.5, 2.0, 8.0]), lambda: _targets(outputs=3)),
    "logistic": (_logistic(), lambda: _classes(2)),
    "logistic without intercept": (_logistic(fit_intercept=False), lambda: _classes(2)),
    "logistic by newton-cholesky": (_logistic(solver="newton-cholesky"), lambda: _classes(2)),
    "logistic by liblinear": (
        _logistic(solver="liblinear", intercept_scaling=2.5),
        lambda: _classes(2),
    ),
    "logistic without penalty": (_logistic(C=np.inf), lambda: _classes(2)),
    "softmax": (_logistic(), lambda: _classes(4)),
    "softmax without penalty": (_logistic(C=np.inf), lambda: _classes(3, rows=300)),
    "softmax without intercept": (_logistic(fit_intercept=False), lambda: _classes(4)),
    "support vectors": (LinearSVC(C=0.1, tol=1e-10, max_iter=200_000), lambda: _classes(2)),
    "support vectors, scaled intercept": (
        LinearSVC(C=0.1, intercept_scaling=3.0, tol=1e-10, max_iter=200_000),
        lambda: _classes(2),
    ),
    "support vectors of four classes": (LinearSVC(C=0.1, tol=1e-10, max_iter=200_000), lambda: _classes(4)),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request: pytest.FixtureRequest) -> tuple[Sklearn, Examples]:
    estimator, data = CASES[request.param]
    return Sklearn(estimator), read(data())


def _at(learner: Sklearn, fitted, parameters: np.ndarray):
    """The same fitted model with other parameters, set through scikit-learn's own attributes."""
    from copy import deepcopy
    from dataclasses import replace

    estimator = deepcopy(fitted.estimator)
    linear = as_linear(estimator)
    table = parameters.reshape(linear.weights.shape)
    if linear.constant is not None:
        intercept = table[:, -1] * linear.constant
        estimator.intercept_ = intercept if np.ndim(estimator.intercept_) else float(intercept[0])
        table = table[:, :-1]
    estimator.coef_ = table.reshape(np.shape(estimator.coef_))
    return replace(fitted, estimator=estimator)


def _derivative(function: Callable[[np.ndarray], np.ndarray], point: np.ndarray, step: float) -> np.ndarray:
    """Central differences: one row per parameter."""
    rows = []
    for k in range(len(point)):
        shift = np.zeros_like(point)
        shift[k] = step * max(1.0, abs(point[k]))
        rows.append((function(point + shift) - function(point - shift)) / (2 * shift[k]))
    return np.array(rows)


def test_the_fit_is_the_minimum_of_the_objective_we_say(case) -> None:
    learner, train = case
    weights = np.random.default_rng(0).integers(1, 4, len(train)).astype(float)
    fitted = learner.fit(train, weights)
    linear = as_linear(fitted.estimator)
    gradient = weights @ learner.gradients(fitted).dense(train) + (linear.penalty * linear.weights).ravel()
    terms = weights @ np.abs(learner.gradients(fitted).dense(train))
    assert np.max(np.abs(gradient) / terms) < 1e-5


def _measurable() -> list[tuple[str, str]]:
    offered = {LogisticRegression: ("loss", "margin", "log_probability"), LinearSVC: ("loss", "margin")}
    return [(name, asked) for name, (e, _) in CASES.items() for asked in offered.get(type(e), ("loss",))]


@pytest.mark.parametrize(("name", "measurement"), _measurable())
def test_gradients_are_finite_differences_of_loss_and_measurement(name: str, measurement: str) -> None:
    learner, train = Sklearn(CASES[name][0], measurement=measurement), read(CASES[name][1]())
    fitted = learner.fit(train)
    engine = learner.gradients(fitted)
    point = as_linear(fitted.estimator).weights.ravel()
    assert engine.size == len(point)
    found = engine.dense(train, "loss")
    expected = _derivative(lambda p: learner.loss(_at(learner, fitted, p), train), point, 1e-6).T
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    found = engine.dense(train, "measurement")
    expected = _derivative(lambda p: learner.measure(_at(learner, fitted, p), train), point, 1e-6).T
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_the_hessian_is_the_derivative_of_the_gradient(case) -> None:
    learner, train = case
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(train))
    fitted = learner.fit(train, weights)
    linear = as_linear(fitted.estimator)

    def gradient(parameters: np.ndarray) -> np.ndarray:
        there = learner.gradients(_at(learner, fitted, parameters))
        return weights @ there.dense(train) + linear.penalty.ravel() * parameters

    expected = _derivative(gradient, linear.weights.ravel(), 1e-7)
    found = learner.hessian(fitted, train, weights)
    np.testing.assert_allclose(found, found.T, rtol=1e-12)
    # Where a softmax is flat, the Hessian is made invertible; no gradient has a part there.
    flat = np.zeros((0, linear.weights.size))
    if linear.kind == "softmax":
        columns = np.flatnonzero((linear.penalty == 0).all(axis=0))
        flat = np.array([np.tile(np.eye(linear.weights.shape[1])[c], len(linear.weights)) for c in columns])
        flat = flat.reshape(len(columns), linear.weights.size) / np.sqrt(len(linear.weights))
    keep = np.eye(linear.weights.size) - flat.T @ flat
    np.testing.assert_allclose(keep @ found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(learner.gradients(fitted).dense(train) @ flat.T, 0.0, atol=1e-12)
    assert np.linalg.eigvalsh(found)[0] > 1e-6 * np.linalg.eigvalsh(found)[-1]


def test_products_norms_and_metrics_are_those_of_full_gradients(case) -> None:
    learner, train = case
    fitted = learner.fit(train)
    engine = learner.gradients(fitted)
    queries = train.take(slice(0, 7))
    full, asked = engine.dense(train), engine.dense(queries, "measurement")
    metric = np.random.default_rng(0).standard_normal((engine.size, engine.size))
    scale = np.abs(full @ asked.T).max()
    plain = engine.products(train, engine.prepare(queries))
    np.testing.assert_allclose(plain, full @ asked.T, atol=1e-12 * scale)
    np.testing.assert_allclose(
        engine.products(train, engine.prepare(queries, metric)), full @ metric @ asked.T, atol=1e-11 * scale
    )
    length = np.linalg.norm(asked, axis=1)
    unit = asked / np.where(length > 0, length, 1.0)[:, None]
    np.testing.assert_allclose(
        engine.products(train, engine.prepare(queries, unit_norm=True)), full @ unit.T, atol=1e-12 * scale
    )
    np.testing.assert_allclose(engine.self_products(train), (full**2).sum(axis=1), rtol=1e-10)
    np.testing.assert_allclose(
        engine.self_products(train, metric), np.einsum("np,pq,nq->n", full, metric, full), atol=1e-10 * scale
    )


def test_measurements_that_should_be_high_are_negated_on_the_query_side() -> None:
    train = read(_classes(3))
    products = {}
    for name in ("loss", "log_probability"):
        learner = Sklearn(LogisticRegression(**TIGHT), measurement=name)
        engine = learner.gradients(learner.fit(train))
        products[name] = engine.products(train, engine.prepare(train))
    np.testing.assert_allclose(products["loss"], products["log_probability"], rtol=1e-9)


def test_ridge_influence_times_leverage_is_leave_one_out_exactly() -> None:
    x, y = _targets(rows=40)
    learner = Sklearn(Ridge(alpha=2.0, solver="cholesky"))
    train = read((x, y))
    fitted = learner.fit(train)
    engine = learner.gradients(fitted)
    curvature = learner.hessian(fitted, train)
    dense = engine.dense(train)
    step = np.linalg.solve(curvature, dense.T)
    # Removing i moves the parameters by H⁻¹ g_i / (1 - h_ii), with the leverage h_ii = 2 x_i' H⁻¹ x_i.
    columns = as_linear(fitted.estimator).columns(x)
    leverage = 2.0 * np.einsum("np,pn->n", columns, np.linalg.solve(curvature, columns.T))
    point = as_linear(fitted.estimator).weights.ravel()
    for i in (0, 7, 39):
        refitted = learner.fit(train.take(np.delete(np.arange(40), i)))
        moved = as_linear(refitted.estimator).weights.ravel()
        np.testing.assert_allclose(moved - point, step[:, i] / (1.0 - leverage[i]), rtol=1e-8, atol=1e-9)


LOO = {
    "ridge": (Ridge(alpha=30.0), lambda: _targets(rows=120)),
    "ridge of two targets": (Ridge(alpha=30.0), lambda: _targets(rows=120, outputs=2)),
    "logistic": (_logistic(C=0.05), lambda: _classes(2, rows=120)),
    "logistic by liblinear": (_logistic(C=0.05, solver="liblinear"), lambda: _classes(2, rows=120)),
    "softmax": (_logistic(C=0.05), lambda: _classes(3, rows=120)),
    "imbalanced": (_logistic(C=0.05), lambda: _imbalanced()),
    "support vectors": (LinearSVC(C=0.002, tol=1e-10, max_iter=200_000), lambda: _classes(2, rows=120)),
    "pipeline, scaler refitted": (
        make_pipeline(StandardScaler(), _logistic(C=0.05)),
        lambda: _classes(2, rows=120),
    ),
}


def _imbalanced() -> tuple[np.ndarray, np.ndarray]:
    x, y = _classes(2, rows=400)
    keep = np.concatenate([np.flatnonzero(y == 0)[:110], np.flatnonzero(y == 1)[:10]])
    return x[keep], y[keep]


@pytest.mark.parametrize("name", LOO)
def test_influence_predicts_leave_one_out(name: str) -> None:
    estimator, data = LOO[name]
    learner, train = Sklearn(estimator), read(data())
    queries = train.take(slice(0, 30))
    fitted = learner.fit(train)
    engine = learner.gradients(fitted)
    inverse = np.linalg.inv(learner.hessian(fitted, train))
    predicted = engine.products(train, engine.prepare(queries, inverse))
    before = learner.measure(fitted, queries)
    weights = np.ones(len(train))
    actual = np.empty_like(predicted)
    for i in range(len(train)):
        weights[i] = 0.0
        actual[i] = learner.measure(learner.fit(train, weights), queries) - before
        weights[i] = 1.0
    correlation = np.corrcoef(predicted.ravel(), actual.ravel())[0, 1]
    slope = np.polyfit(predicted.ravel(), actual.ravel(), 1)[0]
    # A scaler that is fitted anew moves a little with every example, which influence leaves out.
    assert correlation > (0.95 if name.startswith("pipeline") else 0.99)
    assert 0.95 < slope < 1.15


def test_a_weight_of_two_is_a_copy() -> None:
    x, y = _classes(3)
    weights = np.ones(len(x))
    weights[5] = 2.0
    learner = Sklearn(_logistic())
    weighted, copied = read((x, y)), read((np.vstack([x, x[5]]), np.append(y, y[5])))
    one, two = learner.fit(weighted, weights), learner.fit(copied)
    np.testing.assert_allclose(one.estimator.coef_, two.estimator.coef_, atol=1e-6)
    curvature = learner.hessian(one, weighted, weights)
    np.testing.assert_allclose(curvature, learner.hessian(two, copied), atol=1e-4)
    gradients = learner.gradients(two).dense(copied)
    np.testing.assert_array_equal(gradients[5], gradients[-1])


def test_projected_gradients_estimate_products_without_bias() -> None:
    from steelyard.gradients.signs import Projection

    train = read(_classes(4))
    learner = Sklearn(LogisticRegression(**TIGHT))
    engine = learner.gradients(learner.fit(train))
    exact = engine.dense(train) @ engine.dense(train).T
    estimates = []
    for seed in range(300):
        features = engine.features(train, Projection(dimension=16, seed=seed))
        assert features.shape == (len(train), 16)
        estimates.append(features @ features.T)
    error = np.mean(estimates, axis=0) - exact
    noise = np.std(estimates, axis=0) / np.sqrt(300)
    assert np.mean(np.abs(error) < 3 * noise + 1e-12) > 0.97
    wide = engine.features(train, Projection(dimension=20_000))
    np.testing.assert_allclose(wide @ wide.T, exact, atol=0.05 * np.abs(exact).max())
