"""Whether two fits of a scikit-learn estimator with one seed agree, found on a few examples."""

import warnings
from typing import Any

import numpy as np
from sklearn.base import is_classifier

from steelyard.errors import FitError
from steelyard.learners.sklearn_objectives import LINEAR
from steelyard.problem import Learner
from steelyard.records import Examples

_PROBE_ROWS = 200
_PROBE_QUERIES = 50


def repeatability(learner: Learner, estimator: Any, train: Examples, query: Examples) -> tuple[str, ...]:
    """A note where two fits with the same seed differ, or where that could not be tested; else nothing.

    Cost: two fits on at most 200 examples; none for linear models, which are deterministic.
    """
    if type(estimator) in LINEAR:
        return ()
    rows = _spread_rows(train.labels(), classes=is_classifier(estimator))
    some, asked = train.take(rows), query.take(slice(0, _PROBE_QUERIES))
    name = type(estimator).__name__
    try:
        with warnings.catch_warnings():
            # About the probe, not about the user's fit, whose warnings are shown.
            warnings.simplefilter("ignore")
            first, second = (learner.measure(learner.fit(some, seed=0), asked) for _ in range(2))
    except FitError as error:
        return (f"whether two fits of {name} with one seed agree could not be tested: {error.problem}",)
    gap = float(np.max(np.abs(first - second)))
    if gap <= 1e-9 * max(1.0, float(np.max(np.abs(first)))):
        return ()
    return (
        f"two fits of {name} with the same seed differ by up to {gap:.3g} {learner.measurement.unit} on a "
        f"query ({len(some)} training examples): its fit is random in ways that no random_state controls",
    )


def _spread_rows(labels: np.ndarray, *, classes: bool) -> np.ndarray:
    if not classes or labels.ndim != 1:
        return np.arange(min(len(labels), _PROBE_ROWS))
    # One of each class in turn, so that a small sample has all of them.
    _, codes = np.unique(labels, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], codes[order])
    turn = np.empty(len(codes), dtype=np.int64)
    turn[order] = np.arange(len(codes)) - starts
    return np.sort(np.argsort(turn, kind="stable")[:_PROBE_ROWS])
