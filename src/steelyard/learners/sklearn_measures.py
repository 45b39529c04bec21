"""Losses and query measurements of scikit-learn estimators, one value per example.

| estimator | loss |
|---|---|
| logistic regression | log loss in nats, from the decision function, never clipped |
| other classifier with ``predict_proba`` | log loss in nats, clipped at 2.2e-16 as ``log_loss`` does |
| ``LinearSVC`` | its own hinge or squared hinge, summed over one-versus-rest problems |
| other classifier with ``decision_function`` | hinge: max(0, 1 - margin) |
| regressor | squared error, summed over targets: what ``Ridge`` minimises, without a factor 1/2 |
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped
from scipy.special import log_softmax, logsumexp
from sklearn.base import is_classifier, is_regressor
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from steelyard.errors import CapabilityError, DataError, SettingError
from steelyard.learners.sklearn_inputs import steps
from steelyard.records import Measurement

Named = Literal["loss", "margin", "lead", "log_probability", "accuracy"]
Custom = tuple[Callable[[Any, Any, np.ndarray], np.ndarray], Measurement]

_CLIP = float(np.finfo(np.float64).eps)


def resolve_measurement(estimator: Any, asked: Named | Custom) -> Measurement:
    """Name, unit and direction of the measurement for this estimator.

    Raises:
        SettingError: If there is none of that name, or it has no meaning for the estimator.
    """
    if isinstance(asked, tuple):
        return asked[1]
    if not (is_classifier(estimator) or is_regressor(estimator)):
        raise SettingError(
            f"{type(estimator).__name__} is neither a classifier nor a regressor, so {asked!r} has no "
            "meaning.",
            fix="give a pair: measurement=(function(estimator, inputs, labels) -> [query], "
            "Measurement(...)).",
        )
    if asked == "loss":
        return Measurement("loss", loss_unit(estimator), lower_is_better=True)
    if asked not in ("margin", "lead", "log_probability", "accuracy"):
        raise SettingError(
            f"measurement={asked!r} is not known.",
            fix="use 'loss', 'margin', 'lead', 'log_probability', 'accuracy', or a pair (function, Measurement).",
        )
    if not is_classifier(estimator):
        raise SettingError(
            f"measurement={asked!r} needs classes, which {type(estimator).__name__} does not predict.",
            fix="use measurement='loss' for regressors.",
        )
    if asked == "accuracy":
        return Measurement("accuracy", "accuracy", lower_is_better=False)
    if asked == "margin":
        unit = "logits" if has_probabilities(estimator) else "decision value"
        return Measurement("margin", unit, lower_is_better=False)
    if asked == "lead":
        unit = "nats" if has_probabilities(estimator) else "decision value"
        return Measurement("lead", unit, lower_is_better=False)
    if not has_probabilities(estimator):
        raise SettingError(
            f"measurement='log_probability' needs predict_proba, which {type(estimator).__name__} does not "
            "offer.",
            fix="use measurement='margin', or wrap the estimator in CalibratedClassifierCV.",
        )
    return Measurement("log_probability", "nats", lower_is_better=False)


def has_probabilities(estimator: Any) -> bool:
    """Whether the estimator, with its settings, offers ``predict_proba``."""
    return getattr(estimator, "predict_proba", None) is not None


def loss_unit(estimator: Any) -> str:
    """Unit of :func:`losses`."""
    if not is_classifier(estimator):
        return "squared error"
    if has_probabilities(estimator):
        return "nats"
    return "squared hinge" if _own_hinge(estimator) == "squared_hinge" else "hinge"


def losses(
    estimator: Any, inputs: Any, labels: Shaped[np.ndarray, "example *target"]
) -> Float[np.ndarray, " example"]:
    """Training loss of every example, without regularisation and weights; the module says which.

    Raises:
        DataError: If a label is no number (regressors).
        CapabilityError: If a classifier offers neither probabilities nor a decision function.
    """
    if not is_classifier(estimator):
        predicted = np.asarray(estimator.predict(inputs), dtype=np.float64)
        return np.square(predicted.reshape(len(labels), -1) - numbers(labels)).sum(axis=1)
    if has_probabilities(estimator):
        return -log_probabilities_of(estimator, inputs, labels)
    decisions = _decisions(estimator, inputs)
    hinge = _own_hinge(estimator)
    if hinge is not None:
        gaps = np.maximum(0.0, 1.0 - signs(labels, estimator.classes_) * decisions)
        return (gaps if hinge == "hinge" else np.square(gaps)).sum(axis=1)
    return np.maximum(0.0, 1.0 - _decision_margin(decisions, labels, estimator.classes_))


def measures(
    estimator: Any, inputs: Any, labels: Shaped[np.ndarray, "example *target"], asked: Named | Custom
) -> Float[np.ndarray, " example"]:
    """The query measurement of every example.

    ``"margin"``: log-odds of the correct class, log p - log(1 - p); for classifiers without probabilities the
    decision value of the correct class minus the highest other (two classes: the signed decision value).
    ``"lead"``: that difference for all classifiers, of log-probabilities where there are any: above 0 exactly where
    the prediction is correct.

    Raises:
        DataError: If the user's own function returns another number of values.
    """
    if isinstance(asked, tuple):
        values = np.asarray(asked[0](estimator, inputs, labels), dtype=np.float64)
        if values.shape != (len(labels),):
            raise DataError(
                f"measurement {asked[1].name!r} returned shape {values.shape} for {len(labels)} queries.",
                fix="return one number per query.",
            )
        return values
    if asked == "loss":
        return losses(estimator, inputs, labels)
    if asked == "accuracy":
        return np.asarray(estimator.predict(inputs) == labels, dtype=np.float64)
    if asked == "log_probability":
        return log_probabilities_of(estimator, inputs, labels)
    if not has_probabilities(estimator):
        return _decision_margin(_decisions(estimator, inputs), labels, estimator.classes_)
    logs = log_probabilities(estimator, inputs)
    if asked == "lead":
        return _decision_margin(logs, labels, estimator.classes_)
    own, known = _of_label(logs, labels, estimator.classes_)
    chosen = np.arange(logs.shape[1]) == np.searchsorted(estimator.classes_, labels)[:, None]
    others = np.asarray(logsumexp(np.where(chosen & known[:, None], -np.inf, logs), axis=1))
    return own - np.where(np.isneginf(others), np.log(_CLIP), others)


def log_probabilities(estimator: Any, inputs: Any) -> Float[np.ndarray, "example class"]:
    """Log-probabilities in nats, columns in the order of ``classes_``."""
    last = steps(estimator)[-1]
    if isinstance(last, LogisticRegression) and is_softmax(last):
        decisions = np.asarray(estimator.decision_function(inputs), dtype=np.float64)
        if decisions.ndim == 1:
            # Two classes share one logit; halves keep both log-probabilities exact where one underflows.
            decisions = np.stack([np.zeros_like(decisions), decisions], axis=1)
        return log_softmax(decisions, axis=1)
    return np.log(np.clip(np.asarray(estimator.predict_proba(inputs), dtype=np.float64), _CLIP, 1.0))


def is_softmax(model: LogisticRegression) -> bool:
    """Whether all classes are fitted by one softmax (or one sigmoid), not one-versus-rest."""
    params = model.get_params(deep=False)
    if len(getattr(model, "classes_", ())) <= 2:
        return params.get("multi_class", "auto") in ("auto", "deprecated", "ovr", "warn")
    return params["solver"] != "liblinear" and params.get("multi_class", "auto") != "ovr"


def log_probabilities_of(
    estimator: Any, inputs: Any, labels: Shaped[np.ndarray, " example"]
) -> Float[np.ndarray, " example"]:
    """Log-probability of every example's own label; that of a class the fit has not seen is log(2.2e-16)."""
    return _of_label(log_probabilities(estimator, inputs), labels, estimator.classes_)[0]


def signs(
    labels: Shaped[np.ndarray, " example"], classes: np.ndarray
) -> Float[np.ndarray, "example problem"]:
    """+1 for the own class and -1 for the others; one column for two classes."""
    if len(classes) == 2:
        return np.where(labels == classes[1], 1.0, -1.0)[:, None]
    return np.where(labels[:, None] == classes[None, :], 1.0, -1.0)


def numbers(labels: Shaped[np.ndarray, "example *target"]) -> Float[np.ndarray, "example target"]:
    """Regression targets, one column per target.

    Raises:
        DataError: If they are no numbers.
    """
    if labels.dtype.kind not in "biuf":
        raise DataError(f"regression targets have type {labels.dtype}.", fix="give numbers as labels.")
    return labels.reshape(len(labels), -1).astype(np.float64)


def _own_hinge(estimator: Any) -> str | None:
    last = steps(estimator)[-1]
    return last.loss if isinstance(last, LinearSVC) and last.multi_class == "ovr" else None


def _decisions(estimator: Any, inputs: Any) -> np.ndarray:
    if getattr(estimator, "decision_function", None) is None:
        raise CapabilityError(
            f"{type(estimator).__name__} offers neither predict_proba nor decision_function.",
            fix="use measurement='accuracy', or wrap the estimator in CalibratedClassifierCV.",
        )
    decisions = np.asarray(estimator.decision_function(inputs), dtype=np.float64)
    return decisions.reshape(len(decisions), -1)


def _decision_margin(decisions: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    if decisions.shape[1] == 1:
        return decisions[:, 0] * signs(labels, classes)[:, 0]
    chosen = labels[:, None] == classes[None, :]
    others = np.where(chosen, -np.inf, decisions).max(axis=1)
    own = np.where(chosen, decisions, 0.0).sum(axis=1)
    # A class that the fit has not seen never wins: its decision value counts as the lowest of all.
    return np.where(chosen.any(axis=1), own, decisions.min(axis=1)) - others


def _of_label(logs: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    column = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    known = classes[column] == labels
    return np.where(known, logs[np.arange(len(labels)), column], np.log(_CLIP)), known
