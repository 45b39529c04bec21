"""A scikit-learn training seen epoch by epoch, or tree by tree: what ``partial_fit`` and ``warm_start`` allow."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning

from steelyard.errors import CapabilityError
from steelyard.learners import sklearn_fit


def follow(estimator: Any, inputs: Any, labels: np.ndarray, watch: Callable[[int, Any], None]) -> Any:
    """Train an unfitted estimator stage by stage and show it after every one.

    ``partial_fit`` (perceptrons, linear models by SGD, naive Bayes): one pass over the data is a stage, and there
    are ``max_iter`` of them, without early stopping. ``warm_start`` (gradient boosting): one tree per class is a
    stage. The estimator that is shown is the one in training: it changes after the call.

    Args:
        estimator: Unfitted, with its seeds set; trained in place.
        inputs: What it reads.
        labels: Of all examples.
        watch: Given the number of the stage, from 1, and the estimator.

    Returns:
        The trained estimator.

    Raises:
        CapabilityError: If it can be trained in neither way.
        FitError: If scikit-learn refuses.
    """
    params = estimator.get_params(deep=False)
    if getattr(estimator, "partial_fit", None) is not None and is_classifier(estimator):
        return _by_passes(estimator, inputs, labels, watch, passes=int(params.get("max_iter", 1)))
    stages = "n_estimators" if "n_estimators" in params else "max_iter"
    if "warm_start" in params and "learning_rate" in params and "max_depth" in params:
        return _by_trees(estimator, inputs, labels, watch, stages=stages)
    raise CapabilityError(
        f"{type(estimator).__name__} cannot be watched while it is trained: it has no partial_fit and no stages.",
        fix="use self_confidence or knn_label, or an MLPClassifier, SGDClassifier or gradient boosting.",
    )


def _by_passes(
    estimator: Any, inputs: Any, labels: np.ndarray, watch: Callable[[int, Any], None], *, passes: int
) -> Any:
    classes = np.unique(labels)
    for number in range(1, passes + 1):
        try:
            estimator.partial_fit(inputs, labels, classes=classes)
        except sklearn_fit.FAILURES as error:
            raise sklearn_fit.failed(estimator, len(labels), error) from error
        watch(number, estimator)
    return estimator


def _by_trees(
    estimator: Any, inputs: Any, labels: np.ndarray, watch: Callable[[int, Any], None], *, stages: str
) -> Any:
    total = int(estimator.get_params()[stages])
    estimator.set_params(warm_start=True)
    for number in range(1, total + 1):
        estimator.set_params(**{stages: number})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is asked to stop after every stage
            sklearn_fit.fit(estimator, inputs, labels, None)
        watch(number, estimator)
    return estimator
