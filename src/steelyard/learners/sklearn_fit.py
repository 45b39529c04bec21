"""Fitting a scikit-learn estimator: copies, seeds, weights, and what a fit depends on, as one checksum."""

import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

import joblib
import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline

from steelyard.errors import FitError, SettingError, ShapeError
from steelyard.records import Examples
from steelyard.run.seeds import stream

FAILURES = (ValueError, ArithmeticError, np.linalg.LinAlgError)
"""What scikit-learn raises when data and estimator do not go together."""


def seeded(estimator: BaseEstimator, seed: int) -> Any:
    """An unfitted copy in which every ``random_state``, also of inner estimators, comes from the seed.

    Each gets its own stream, named by its parameter, whatever value the user gave: several fits that differ
    in the seed only are what tells noise from effect.
    """
    copy: Any = clone(estimator)
    seeds = {name: stream(seed, "sklearn", name) % 2**32 for name in random_states(estimator)}
    return copy.set_params(**seeds) if seeds else copy


def random_states(estimator: BaseEstimator) -> list[str]:
    """Names of all parameters that seed something, in a fixed order."""
    names = estimator.get_params(deep=True)
    return sorted(name for name in names if name.rpartition("__")[2] == "random_state")


def weight_parameter(estimator: Any) -> str | None:
    """The argument of ``fit`` that takes weights: ``sample_weight`` or ``STEP__sample_weight``, or None."""
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        inner = None if last in (None, "passthrough") else weight_parameter(last)
        return None if inner is None else f"{name}__{inner}"
    if isinstance(estimator, GridSearchCV | RandomizedSearchCV):
        # The search would weigh the fits but not the folds' scores, and cut weights by position of the fold.
        return None
    return "sample_weight" if "sample_weight" in inspect.signature(estimator.fit).parameters else None


def combined_weights(
    examples: Examples, weights: Float[np.ndarray, " fit"] | None, estimator: Any
) -> Float[np.ndarray, " example"] | None:
    """Weights of this fit times the examples' own, or None where all are 1.

    Raises:
        ShapeError: If there is not one per example.
        SettingError: If one is negative, NaN or infinite, or all are 0; or one is no whole number and the
            estimator takes no weights.
    """
    own = examples.weights()
    weights = np.ones(len(own)) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != own.shape:
        raise ShapeError(f"{weights.shape} weights for {len(own)} examples.", fix="give one per example.")
    if not bool(np.all(np.isfinite(weights) & (weights >= 0))):
        raise SettingError(
            "a weight is negative, NaN or infinite.", fix="weights are 0 (absent) or positive."
        )
    weights = weights * own
    if not weights.any():
        raise SettingError(
            "all weights are 0, so there is nothing to fit.", fix="leave at least one example in."
        )
    if weight_parameter(estimator) is None and bool((weights != np.round(weights)).any()):
        raise SettingError(
            f"{type(estimator).__name__}.fit takes no sample_weight, so weights must be whole numbers "
            f"(repeated rows); one is {weights[weights != np.round(weights)][0]}.",
            fix="use whole numbers, or an estimator with sample_weight (LogisticRegression, Ridge, "
            "LinearSVC, RandomForestClassifier, HistGradientBoostingClassifier, …).",
        )
    return None if bool((weights == 1.0).all()) else weights


def fit(estimator: Any, inputs: Any, labels: np.ndarray, weights: np.ndarray | None) -> Any:
    """Fit in place and give back; weights where ``fit`` takes them.

    Raises:
        FitError: If scikit-learn refuses the data or the numbers break down.
    """
    name = weight_parameter(estimator)
    extra = {} if weights is None or name is None else {name: weights}
    try:
        return estimator.fit(inputs, labels, **extra)
    except FAILURES as error:
        raise failed(estimator, len(labels), error) from error


def failed(estimator: Any, count: int, error: Exception) -> FitError:
    """The error of a fit on ``count`` examples that scikit-learn refused."""
    return FitError(
        f"{type(estimator).__name__}.fit failed on {count} examples: {error}",
        fix="read scikit-learn's message above; a subset may lack a class or be smaller than a fold.",
    )


def repeated(weights: Float[np.ndarray, " example"]) -> np.ndarray:
    """``int64[" row"]`` Every position as often as its whole weight says."""
    return np.repeat(np.arange(len(weights)), np.round(weights).astype(np.int64))


def describe(estimator: BaseEstimator) -> dict[str, Any]:
    """Class and parameters as plain values, inner estimators by class name beside their own parameters."""
    params = {name: _plain(value) for name, value in sorted(estimator.get_params(deep=True).items())}
    return {"estimator": _qualified(type(estimator)), "params": params}


def digest(estimator: BaseEstimator, *facts: object, trained: bool) -> str:
    """Checksum of class, parameters and facts, and of the fitted state where there is one."""
    content = hashlib.sha256(repr((describe(estimator), facts)).encode())
    if trained:
        content.update(str(joblib.hash(estimator, hash_name="sha1")).encode())
    return content.hexdigest()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"array {value.dtype}{list(value.shape)} {content}"
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    # Neither addresses in memory nor default reprs: they would change from run to run.
    return _qualified(value) if isinstance(value, type) or callable(value) else _qualified(type(value))


def _qualified(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"
