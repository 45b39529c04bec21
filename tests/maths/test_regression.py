"""Ridge and lasso with held-out penalties: equal to scikit-learn's, and honest about what they predict."""

import numpy as np
import pytest
from sklearn.linear_model import Lasso, LinearRegression, Ridge

from steelyard.errors import SettingError
from steelyard.maths.regression import linear_models


def data(rows: int = 60, features: int = 8, columns: int = 3, noise: float = 1.0):
    draw = np.random.default_rng(2)
    x = draw.normal(size=(rows, features))
    weights = draw.normal(size=(features, columns))
    return x, x @ weights + 3.0 + noise * draw.normal(size=(rows, columns)), weights


@pytest.mark.parametrize("shape", [(60, 8), (30, 40)])
def test_ridge_is_that_of_scikit_learn_at_the_chosen_penalty(shape):
    x, y, _ = data(*shape)
    found = linear_models(x, y, kind="ridge")
    level = np.square(np.linalg.svd(x - x.mean(0), compute_uv=False))
    level = level[level > 1e-9].mean()
    for column in range(3):
        twin = Ridge(alpha=found.penalties[column] * level, solver="svd").fit(x, y[:, column])
        if found.penalties[column] == 0:
            twin = LinearRegression().fit(x, y[:, column])
        np.testing.assert_allclose(found.weights[:, column], twin.coef_, rtol=1e-6, atol=1e-9)
        assert found.intercepts[column] == pytest.approx(twin.intercept_)


def test_least_squares_has_the_textbook_errors():
    x, y, weights = data(400, 5, 2)
    found = linear_models(x, y, kind="ridge")
    design = np.c_[np.ones(400), x]
    for column in range(2):
        residual = y[:, column] - design @ np.linalg.lstsq(design, y[:, column], rcond=None)[0]
        variance = residual @ residual / (400 - 6) * np.linalg.inv(design.T @ design)
        np.testing.assert_allclose(found.errors[:, column], np.sqrt(np.diag(variance))[1:], rtol=0.02)
    assert np.abs(found.weights - weights).max() < 5 * found.errors.max()


def test_lasso_is_that_of_scikit_learn_at_the_chosen_penalty():
    x, y, _ = data(40, 30, 2)
    found = linear_models(x, y, kind="lasso")
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    for column in range(2):
        largest = np.abs(centred_x.T @ centred_y[:, column]).max() / len(x)
        twin = Lasso(alpha=found.penalties[column] * largest, max_iter=50_000, tol=1e-8).fit(x, y[:, column])
        np.testing.assert_allclose(found.weights[:, column], twin.coef_, atol=0.02)


@pytest.mark.parametrize("kind", ["ridge", "lasso"])
def test_noise_predicts_nothing(kind):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(100, 20)), draw.normal(size=(100, 12))
    found = linear_models(x, y, kind=kind)
    told = found.correlation[np.isfinite(found.correlation)]
    assert told.mean() < 0.1  # the penalty is chosen without the rows that are predicted
    assert np.abs(found.weights).max() < 0.4


def test_a_constant_outcome_has_no_correlation_and_no_weights():
    x, y, _ = data(40, 4, 2, noise=0.0)
    y[:, 1] = 7.0
    for kind in ("ridge", "lasso"):
        found = linear_models(x, y, kind=kind)
        np.testing.assert_allclose(found.weights[:, 1], 0.0, atol=1e-12)
        assert np.isnan(found.correlation[1])
        assert found.correlation[0] == pytest.approx(1.0)
        assert found.intercepts[1] == pytest.approx(7.0)


def test_too_few_rows_are_refused():
    x, y, _ = data(9, 2, 1)
    with pytest.raises(SettingError, match="9 rows"):
        linear_models(x, y, kind="ridge")
