"""scikit-learn's ``GradientBoosting…`` and ``HistGradientBoosting…`` for the learner of boosted trees."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.utils.class_weight import compute_sample_weight

from steelyard.errors import FitError, ModelError
from steelyard.learners.boosted_columns import Coding, check_names, coding_of
from steelyard.learners.boosted_fitted import BoostedFitted, Rows, Training
from steelyard.learners.sklearn_fit import seeded
from steelyard.records import Examples
from steelyard.trees import sklearn as layout
from steelyard.trees.forest import Forest
from steelyard.trees.objectives import Custom, Objective


def training(model: Any, given: Mapping[str, Any] | None, custom: Custom | None) -> Training:
    """A copy of the estimator; a fitted one is trained for as many rounds as it has, without early stopping."""
    if custom is not None:
        raise ModelError(
            "scikit-learn's estimators take no custom objective.", fix="use LightGBM or XGBoost for one."
        )
    copy: Any = clone(model)
    if given:
        copy.set_params(**given)
    histogram = isinstance(model, layout.HISTOGRAM)
    rounds = (model.n_iter_ if histogram else model.n_estimators_) if _is_fitted(model) else None
    if rounds is not None:
        stop = (
            {"early_stopping": False, "max_iter": rounds}
            if histogram
            else {"n_iter_no_change": None, "n_estimators": rounds}
        )
        copy.set_params(**stop)
    return Training(copy, rounds=rounds)


def native(model: Any) -> Any:
    """The estimator itself."""
    return model


def outputs(model: Any) -> tuple[bool, np.ndarray | int | None]:
    """By the estimator's kind and its classes."""
    return is_classifier(model), np.asarray(model.classes_) if is_classifier(model) and _is_fitted(
        model
    ) else None


def train(training: Training, rows: Rows, seed: int) -> Any:
    """A seeded copy, fitted; categories as text, which HistGradientBoosting codes itself."""
    copy = seeded(training.estimator, seed)
    words = [k for k, known in enumerate(rows.coding.categories) if known is not None]
    features: Any = rows.table
    if words:
        if not isinstance(copy, layout.HISTOGRAM):
            raise FitError(
                f"{type(copy).__name__} reads numbers, and {rows.coding.names[words[0]]!r} is text.",
                fix="use HistGradientBoosting…, which reads categories, or encode them first.",
            )
        features = rows.coding.texts(rows.table)
        copy.set_params(categorical_features=np.isin(np.arange(features.shape[1]), words))
    try:
        return copy.fit(features, rows.labels, sample_weight=rows.weights)
    except ValueError as error:
        raise FitError(
            f"{type(copy).__name__} refused to train on {len(rows.codes)} examples: {error}",
            fix="read its message above.",
        ) from error


def coding(model: Any, examples: Examples) -> Coding:
    """Categories as the estimator's own encoder lists them."""
    given = getattr(model, "feature_names_in_", None)
    names = check_names(None if given is None else tuple(given.tolist()), examples, "scikit-learn")
    if len(names) != model.n_features_in_:
        check_names(tuple(str(k) for k in range(model.n_features_in_)), examples, "scikit-learn")
    mask = _categorical(model)
    if mask is None:
        return Coding(names, (None,) * len(names))
    encoder = model._preprocessor.named_transformers_["encoder"]  # noqa: SLF001 - see trees/sklearn.py
    lists = dict(zip(np.flatnonzero(mask).tolist(), encoder.categories_, strict=True))
    known = {
        k: tuple(value for value in found.tolist() if not _is_nothing(value)) for k, found in lists.items()
    }
    if len(coding_of(examples).names) != len(names):
        return Coding(names, (None,) * len(names))
    return Coding(names, tuple(known.get(k) for k in range(len(names))))


def objective(model: Any, training: Training, classes: int) -> Objective:
    """From the estimator's loss."""
    return layout.objective_of(model, classes)


def class_weights(model: Any, training: Training, rows: Rows) -> np.ndarray | None:
    """``class_weight``, where the estimator has one."""
    balance = model.get_params(deep=False).get("class_weight")
    if rows.classes is None or balance is None:
        return None
    weighed = compute_sample_weight(balance, rows.labels)
    return np.array([weighed[np.argmax(rows.codes == k)] for k in range(len(rows.classes))])


def start(model: Any, objective: Objective, rows: Rows, weights: np.ndarray) -> np.ndarray | None:
    """The estimator holds it."""
    return None


def forest(fitted: BoostedFitted) -> Forest:
    """The layout, from the estimator's arrays."""
    return layout.forest_of(fitted.model, fitted.objective)


def table(fitted: BoostedFitted, features: np.ndarray) -> np.ndarray:
    """HistGradientBoosting moves categories before numbers."""
    words = fitted.coding.categorical
    if not words:
        return features
    rest = [k for k in range(features.shape[1]) if k not in words]
    moved = features.copy()
    for k in words:  # a category that training did not see is a missing value to its encoder
        moved[features[:, k] == len(fitted.coding.categories[k] or ()), k] = np.nan
    return moved[:, [*words, *rest]]


def raw(fitted: BoostedFitted, features: np.ndarray) -> np.ndarray:
    """What the estimator sums up before its link."""
    model = fitted.model
    if not isinstance(model, layout.HISTOGRAM):
        return model._raw_predict(np.ascontiguousarray(features, dtype=np.float32))  # noqa: SLF001
    if not fitted.coding.categorical:
        return model._raw_predict(_as_read(model, features))  # noqa: SLF001
    return model._raw_predict(_as_read(model, fitted.coding.texts(features)))  # noqa: SLF001


def dump(model: Any) -> bytes | None:
    """scikit-learn has no format of its own that is safe to open: the layout is kept instead."""
    return None


def load(content: bytes) -> Any:
    """Never asked: nothing is dumped."""
    raise ModelError("scikit-learn models are kept as arrays.", fix="restore the layout.")


def _as_read(model: Any, cells: np.ndarray) -> Any:
    """With the names that the model was fitted with, if any: without them scikit-learn warns."""
    if getattr(model, "feature_names_in_", None) is None:
        return cells
    import polars

    columns = {name: cells[:, k].tolist() for k, name in enumerate(model.feature_names_in_)}
    return polars.DataFrame(columns, strict=False)


def _categorical(model: Any) -> np.ndarray | None:
    return getattr(model, "is_categorical_", None)


def _is_fitted(model: Any) -> bool:
    fitted = "n_iter_" if isinstance(model, layout.HISTOGRAM) else "estimators_"
    return getattr(model, fitted, None) is not None


def _is_nothing(value: Any) -> bool:
    return value is None or value != value
