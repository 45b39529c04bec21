"""scikit-learn's linear models with an l1 penalty, as one matrix with both penalties."""

from typing import Any

import numpy as np
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression

from steelyard.errors import CapabilityError
from steelyard.learners.last_layer import LastLayer
from steelyard.learners.sklearn_measures import is_softmax
from steelyard.learners.sklearn_objectives import Linear, as_linear


def penalised(estimator: Any) -> LastLayer:
    """A fitted linear model as its last layer, with an l1 penalty where it has one.

    Raises:
        CapabilityError: If the estimator is not one of the linear models, or its objective is not known here.
    """
    if type(estimator) in (Lasso, ElasticNet):
        return _lasso(estimator)
    if type(estimator) is LogisticRegression and _share(estimator) > 0.0:
        return _logistic(estimator)
    return LastLayer(as_linear(estimator), np.asarray, whole=True)


def _share(model: LogisticRegression) -> float:
    """Share of the l1 penalty."""
    params = model.get_params(deep=False)
    # Up to scikit-learn 1.7 the penalty is named; since 1.8 l1_ratio alone decides.
    named = params.get("penalty", "deprecated")
    if named == "l1":
        return 1.0
    return float(params["l1_ratio"] or 0.0) if named in ("elasticnet", "deprecated") else 0.0


def _logistic(model: LogisticRegression) -> LastLayer:
    params = model.get_params(deep=False)
    if params.get("class_weight") is not None or not is_softmax(model):
        raise CapabilityError(
            "LogisticRegression with class_weight or one-versus-rest has another objective.",
            fix="leave class_weight out, and use solver='saga' for several classes.",
        )
    scaled = params["solver"] == "liblinear"
    constant = (float(params["intercept_scaling"]) if scaled else 1.0) if params["fit_intercept"] else None
    share, kind = _share(model), "logistic" if len(model.classes_) == 2 else "softmax"
    strength = np.full(np.shape(model.coef_), 1.0 / params["C"])
    # liblinear penalises its intercept like a weight.
    strength = _with(strength, 1.0 / params["C"] if scaled else 0.0, constant)
    weights = _with(np.asarray(model.coef_, dtype=np.float64), model.intercept_, constant)
    linear = Linear(kind, weights, (1.0 - share) * strength, constant, np.asarray(model.classes_))
    return LastLayer(linear, np.asarray, whole=True, l1=share * strength)


def _lasso(model: Lasso | ElasticNet) -> LastLayer:
    params = model.get_params(deep=False)
    if params.get("positive"):
        raise CapabilityError(
            "a minimum under positive=True is no sum over examples.", fix="leave positive out."
        )
    constant = 1.0 if params["fit_intercept"] else None
    # Twice scikit-learn's objective is the mean squared error plus these penalties.
    share = float(params["l1_ratio"]) if type(model) is ElasticNet else 1.0
    coefficients = np.atleast_2d(np.asarray(model.coef_, dtype=np.float64))
    strength = _with(np.full(coefficients.shape, 2.0 * float(params["alpha"])), 0.0, constant)
    weights = _with(coefficients, model.intercept_, constant)
    linear = Linear("squared", weights, (1.0 - share) * strength, constant, None)
    return LastLayer(linear, np.asarray, whole=True, l1=share * strength, averaged=True)


def _with(table: np.ndarray, last: Any, constant: float | None) -> np.ndarray:
    if constant is None:
        return table
    column = np.broadcast_to(np.asarray(last, dtype=np.float64).reshape(-1, 1), (len(table), 1))
    scale = constant if np.shape(last) else 1.0
    return np.concatenate([table, column / scale], axis=1)
