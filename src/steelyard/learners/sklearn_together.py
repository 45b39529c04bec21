"""Many fits of one scikit-learn estimator at once, where a shorter way leads to exactly the same model.

- ``Ridge`` in closed form, by the update of Sherman, Morrison and Woodbury where few examples are left out.
- ``LogisticRegression`` by Newton's method from the fit of all examples, to the minimum that scikit-learn's solvers
  approach up to their ``tol``.
- ``KNeighborsClassifier`` and ``KNeighborsRegressor`` without any fit: from one sorted list per query.

Only these very classes, bare and with settings under which the way is exact; everything else is fitted one by one.
So is a single fit in which it would not be exact: a class is missing, Newton does not converge, or many queries have
neighbours that are tied.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from steelyard.learners.sklearn_measures import Custom, Named, measures, numbers
from steelyard.learners.sklearn_nearest import nearest
from steelyard.learners.sklearn_objectives import as_linear, refusal
from steelyard.maths.many_logistic import Logistic, logistic_fits
from steelyard.maths.many_ridge import ridge_fits

_MOST = 512
_BYTES = 128 * 2**20
_COLUMNS = 2000
_PENALTY = 1e-9  # of the mean of the Gram matrix's diagonal; below, normal equations lose the digits promised

Ask = Callable[[np.ndarray, np.ndarray], tuple[Any, np.ndarray]]
"""Weightings and inputs of queries -> an estimator that answers for all fits in turn, and which fits are good."""


@dataclass(frozen=True, eq=False)
class Shortcut:
    """A shorter way to many fits.

    Attributes:
        most: How many at once.
        note: What it is, for the record.
        ask: What the fits answer.
    """

    most: int
    note: str
    ask: Ask


def shortcut(
    fitted: Any,
    inputs: Float[np.ndarray, "example feature"],
    labels: Shaped[np.ndarray, "example *target"],
    weights: Float[np.ndarray, " example"],
) -> Shortcut | None:
    """The shorter way for this estimator; None if there is none.

    Args:
        fitted: The estimator, fitted to all examples.
        inputs: Of the training examples.
        labels: Of the training examples.
        weights: Their own weights.
    """
    if type(fitted) is Ridge:
        return _ridge(fitted, inputs, labels, weights)
    if type(fitted) is LogisticRegression:
        return _logistic(fitted, inputs, labels, weights)
    if type(fitted) in (KNeighborsClassifier, KNeighborsRegressor):
        return _neighbours(fitted, inputs, labels, weights)
    return None


def possible(estimator: Any, asked: Named | Custom) -> bool:
    """Whether it is worth fitting the estimator to all examples to find a shorter way."""
    kinds = (Ridge, LogisticRegression, KNeighborsClassifier, KNeighborsRegressor)
    return type(estimator) in kinds and not isinstance(asked, tuple)


def measured(
    found: Shortcut,
    weightings: Float[np.ndarray, "fit example"],
    inputs: Float[np.ndarray, "query feature"],
    labels: Shaped[np.ndarray, "query *target"],
    asked: Named | Custom,
) -> Float[np.ndarray, "fit query"]:
    """The measurement of every query after every fit; NaN where a fit is to be made by itself."""
    able = weightings.any(axis=1)
    values = np.full((len(weightings), len(labels)), np.nan)
    if able.any():
        stand_in, good = found.ask(weightings[able], inputs)
        many = np.concatenate([labels] * int(able.sum()))
        answers = measures(stand_in, None, many, asked).reshape(-1, len(labels))
        values[able] = np.where(good[:, None], answers, np.nan)
    return values


def _ridge(fitted: Ridge, inputs: np.ndarray, labels: np.ndarray, own: np.ndarray) -> Shortcut | None:
    params = fitted.get_params(deep=False)
    exact = params["solver"] in ("auto", "svd", "cholesky") and not params["positive"]
    if not exact or np.size(params["alpha"]) != 1 or inputs.shape[1] > _COLUMNS:
        return None
    alpha = float(np.ravel(params["alpha"])[0])
    if not alpha > _PENALTY * float(np.square(inputs).sum(axis=0).mean()):
        return None
    constant = bool(params["fit_intercept"])
    penalty = np.full(inputs.shape[1] + constant, alpha)
    penalty[inputs.shape[1] :] = 0.0
    columns, targets = _with_constant(inputs, constant=constant), numbers(labels)

    def ask(weightings: np.ndarray, queries: np.ndarray) -> tuple[Any, np.ndarray]:
        theta, good = ridge_fits(columns, targets, weightings * own, penalty)
        predicted = _with_constant(queries, constant=constant) @ theta.transpose(0, 2, 1)
        return _standing_in(fitted, {"predict": predicted.reshape(-1, targets.shape[1])}), good

    note = "Ridge was fitted in closed form: the fits equal scikit-learn's up to rounding"
    return Shortcut(_most(inputs, targets.shape[1]), note, ask)


def _logistic(
    fitted: LogisticRegression, inputs: np.ndarray, labels: np.ndarray, own: np.ndarray
) -> Shortcut | None:
    if refusal(fitted) is not None or inputs.shape[1] > _COLUMNS:
        return None
    if int(np.max(fitted.n_iter_)) >= fitted.get_params(deep=False)["max_iter"]:
        return None  # stopped early: the minimum is not what the user's fits are
    model = as_linear(fitted)
    penalty = model.penalty[0]
    if not bool((penalty[: inputs.shape[1]] > 0).all()):
        return None
    columns = np.asarray(model.columns(inputs))
    codes = np.searchsorted(fitted.classes_, labels)
    data = Logistic(columns, codes, len(fitted.classes_), penalty)
    full, good = logistic_fits(data, own[None], model.weights)
    if not good[0]:
        return None
    members = np.eye(data.classes)[codes]

    def ask(weightings: np.ndarray, queries: np.ndarray) -> tuple[Any, np.ndarray]:
        weights = weightings * own
        theta, reached = logistic_fits(data, weights, full[0])
        decisions = (np.asarray(model.columns(queries)) @ theta.transpose(0, 2, 1)).reshape(-1, data.outputs)
        whole = ((weights != 0) @ members > 0).all(axis=1)
        return _deciding(fitted, decisions), reached & whole

    note = (
        "LogisticRegression was fitted by Newton's method from the fit of all examples, to the minimum of its "
        f"objective (eight digits of its gradient); scikit-learn's own fits stop within tol={fitted.tol:g} of it"
    )
    return Shortcut(_most(inputs, 4 * data.outputs), note, ask)


def _neighbours(
    fitted: KNeighborsClassifier | KNeighborsRegressor,
    inputs: np.ndarray,
    labels: np.ndarray,
    own: np.ndarray,
) -> Shortcut | None:
    params = fitted.get_params(deep=False)
    if (
        params["weights"] not in ("uniform", "distance")
        or bool((own != 1.0).any())
        or params["metric"] == "precomputed"
    ):
        return None
    classifies = isinstance(fitted, KNeighborsClassifier)
    if classifies and labels.ndim != 1:
        return None
    codes = np.searchsorted(fitted.classes_, labels) if isinstance(fitted, KNeighborsClassifier) else None
    targets = numbers(labels) if codes is None else np.eye(int(codes.max()) + 1)[codes]

    def ask(weightings: np.ndarray, queries: np.ndarray) -> tuple[Any, np.ndarray]:
        present = weightings != 0
        rows, distances, good = nearest(fitted, inputs, queries, present, codes)
        means = _means(targets, rows, distances, params["weights"]).reshape(-1, targets.shape[1])
        good &= np.isin(weightings, (0.0, 1.0)).all(axis=1)
        if not classifies:
            return _standing_in(fitted, {"predict": means}), good
        good &= (present @ targets > 0).all(axis=1)
        chosen = fitted.classes_[means.argmax(axis=1)]
        return _standing_in(fitted, {"predict": chosen, "predict_proba": means}), good

    note = f"{type(fitted).__name__} was not fitted anew: a subset's neighbours come from one sorted list per query"
    return Shortcut(_most(inputs, 1), note, ask)


def _means(
    targets: np.ndarray, rows: np.ndarray, distances: np.ndarray, kind: str
) -> Float[np.ndarray, "fit query target"]:
    """Of the neighbours' targets, as equals or by distance; where one lies on the query, only such ones count."""
    k = rows.shape[2]
    if kind == "uniform":
        found = targets.take(rows[:, :, 0], axis=0)
        for place in range(1, k):
            found += targets.take(rows[:, :, place], axis=0)
        return found / k
    zero = distances == 0
    inverse = np.where(zero.any(axis=2, keepdims=True), zero, 1.0 / np.where(zero, 1.0, distances))
    pull = inverse / inverse.sum(axis=2, keepdims=True)
    return np.einsum("fqk,fqkt->fqt", pull, targets[rows])


def _deciding(fitted: LogisticRegression, decisions: np.ndarray) -> Any:
    if decisions.shape[1] == 1:
        flat = decisions[:, 0]
        chances = np.stack([1.0 / (1.0 + np.exp(flat)), 1.0 / (1.0 + np.exp(-flat))], axis=1)
        chosen = fitted.classes_[(flat > 0).astype(np.int64)]
        return _standing_in(fitted, {"predict": chosen, "predict_proba": chances, "decision_function": flat})
    chances, chosen = softmax(decisions, axis=1), fitted.classes_[decisions.argmax(axis=1)]
    return _standing_in(fitted, {"predict": chosen, "predict_proba": chances, "decision_function": decisions})


def _standing_in(fitted: Any, answers: Mapping[str, np.ndarray]) -> Any:
    """The fitted estimator with other answers, known beforehand: to whoever asks, these are its predictions."""
    stand_in = copy.copy(fitted)
    for name, values in answers.items():
        setattr(stand_in, name, lambda inputs, values=values: values)
    return stand_in


def _with_constant(inputs: np.ndarray, *, constant: bool) -> np.ndarray:
    return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1) if constant else inputs


def _most(inputs: np.ndarray, numbers_per_example: int) -> int:
    return int(np.clip(_BYTES // (8 * len(inputs) * numbers_per_example), 2, _MOST))
