"""Linear models of many outcomes on the same features, with penalties chosen on held-out rows for each outcome.

For every outcome the penalty is the one with the smallest squared error on rows that were held out (five folds). How
well the model predicts rows it has not seen is told with the choice itself held out too: in each fold the penalty is
the one that was best in the other folds.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from steelyard.errors import SettingError

FOLDS = 5
_RIDGE_GRID = np.logspace(-6, 4, 21)
_LASSO_GRID = np.logspace(0, -3, 13)
_SWEEPS = 2000

Kind = Literal["ridge", "lasso"]
Paths = Float[np.ndarray, "penalty feature column"]


@dataclass(frozen=True, eq=False)
class LinearModels:
    """One linear model per column of outcomes.

    Attributes:
        weights: ``float["feature column"]``
        intercepts: ``float[" column"]``
        errors: ``float["feature column"]`` Standard errors of the weights under other random rows. They do not contain
            the bias that a penalty brings.
        penalties: ``float[" column"]`` Chosen, relative to the largest useful one (lasso) or to the mean squared
            singular value of the centred features (ridge); 0 is least squares.
        correlation: ``float[" column"]`` Between outcomes and predictions of rows that were held out; NaN where either
            does not vary.
        unconverged: Lasso fits that did not reach their tolerance.
    """

    weights: Float[np.ndarray, "feature column"]
    intercepts: Float[np.ndarray, " column"]
    errors: Float[np.ndarray, "feature column"]
    penalties: Float[np.ndarray, " column"]
    correlation: Float[np.ndarray, " column"]
    unconverged: int = 0


@dataclass(frozen=True, eq=False)
class _Path:
    """Weights for every penalty of a grid, fitted to some rows."""

    weights: Paths
    unconverged: int = 0


def linear_models(
    features: Float[np.ndarray, "row feature"], outcomes: Float[np.ndarray, "row column"], *, kind: Kind
) -> LinearModels:
    """Fit every column of outcomes with its own penalty.

    Cost: ridge: six singular value decompositions for all columns together. Lasso: 78 coordinate descents per column.

    Args:
        features: Independent rows in any order that has nothing to do with the outcomes: row r is in fold r mod 5.
        outcomes: One column per model.
        kind: Penalty on squares (ridge) or on absolute values (lasso). Least squares is among the candidates where
            every fold leaves more rows than features.

    Raises:
        SettingError: If there are fewer than ten rows.
    """
    rows = len(features)
    if rows < 2 * FOLDS:
        raise SettingError(f"{rows} rows are too few to choose a penalty.", fix=f"give at least {2 * FOLDS}.")
    fold = np.arange(rows) % FOLDS
    with_zero = rows - -(-rows // FOLDS) > features.shape[1] + 1
    path = {"ridge": _ridge_path, "lasso": _lasso_path}[kind]
    parts = [
        _held_out(path, features, outcomes, fold == number, with_zero=with_zero) for number in range(FOLDS)
    ]
    losses = np.stack([np.square(outcomes[fold == n] - p.predicted).sum(axis=1) for n, p in enumerate(parts)])
    chosen = losses.sum(axis=0).argmin(axis=0)
    whole = path(features - features.mean(0), outcomes - outcomes.mean(0), with_zero=with_zero)
    weights = _pick(whole.weights, chosen)
    grid = _grid(kind, with_zero=with_zero)
    errors = (
        _ridge_errors(features, outcomes, grid[chosen])
        if kind == "ridge"
        else _jackknife(np.stack([_pick(part.weights, chosen) for part in parts]))
    )
    return LinearModels(
        weights=weights,
        intercepts=outcomes.mean(0) - features.mean(0) @ weights,
        errors=errors,
        penalties=grid[chosen],
        correlation=_correlation(outcomes, parts, losses, fold),
        unconverged=whole.unconverged + sum(part.unconverged for part in parts),
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """One fold: what was fitted without it, and predictions for it."""

    weights: Paths
    predicted: Float[np.ndarray, "penalty row column"]
    unconverged: int


def _held_out(
    path: Callable[..., _Path],
    features: np.ndarray,
    outcomes: np.ndarray,
    out: np.ndarray,
    *,
    with_zero: bool,
) -> _Part:
    x, y = features[~out], outcomes[~out]
    found = path(x - x.mean(0), y - y.mean(0), with_zero=with_zero)
    return _Part(found.weights, y.mean(0) + (features[out] - x.mean(0)) @ found.weights, found.unconverged)


def _grid(kind: Kind, *, with_zero: bool) -> Float[np.ndarray, " penalty"]:
    grid = _RIDGE_GRID if kind == "ridge" else _LASSO_GRID
    return np.append(grid, 0.0) if with_zero else grid


def _ridge_path(features: np.ndarray, outcomes: np.ndarray, *, with_zero: bool) -> _Path:
    left, values, right = _decomposed(features)
    turned = left.T @ outcomes
    level = np.square(values).mean()
    shrunk = [values / (np.square(values) + p * level) for p in _grid("ridge", with_zero=with_zero)]
    return _Path(np.stack([right.T @ (factor[:, None] * turned) for factor in shrunk]))


def _decomposed(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Singular value decomposition without directions in which the features do not vary."""
    left, values, right = scipy.linalg.svd(features, full_matrices=False)
    kept = values > values[0] * max(features.shape) * np.finfo(np.float64).eps if len(values) else values > 0
    return left[:, kept], values[kept], right[kept]


def _ridge_errors(features: np.ndarray, outcomes: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """Standard errors of ridge weights: noise variance times the diagonal of A X'X A, A the penalised inverse.

    The noise variance is the residual sum of squares over the residual degrees of freedom, n - 1 - tr(2H - HH).
    """
    centred = outcomes - outcomes.mean(0)
    left, values, right = _decomposed(features - features.mean(0))
    turned, level = left.T @ centred, np.square(values).mean()
    errors = np.empty((features.shape[1], outcomes.shape[1]))
    for penalty in np.unique(penalties):
        columns = penalties == penalty
        kept = np.square(values) / (np.square(values) + penalty * level)
        residual = centred[:, columns] - left @ (kept[:, None] * turned[:, columns])
        freedom = max(1.0, len(features) - 1 - float(np.sum(2 * kept - np.square(kept))))
        noise = np.square(residual).sum(axis=0) / freedom
        errors[:, columns] = np.sqrt(np.square(right).T @ np.square(kept / values)[:, None] * noise[None])
    return errors


def _lasso_path(features: np.ndarray, outcomes: np.ndarray, *, with_zero: bool) -> _Path:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lasso_path

    fit: Any = lasso_path  # its annotations do not know that a Gram matrix can be given
    features = np.asfortranarray(features)
    gram, products = features.T @ features, features.T @ outcomes
    largest = np.abs(products).max(axis=0) / len(features)
    weights = np.zeros((len(_LASSO_GRID) + with_zero, features.shape[1], outcomes.shape[1]))
    unconverged = 0
    for column in np.flatnonzero(largest > 0):
        with warnings.catch_warnings(record=True) as caught:
            # Counted and told, once for all columns, instead of one line for each.
            warnings.simplefilter("always", ConvergenceWarning)
            _, found, _ = fit(
                features,
                outcomes[:, column],
                alphas=largest[column] * _LASSO_GRID,
                precompute=gram,
                Xy=products[:, column],
                max_iter=_SWEEPS,
            )
        unconverged += len(caught)
        weights[: len(_LASSO_GRID), :, column] = found.T
    if with_zero:
        weights[-1] = _ridge_path(features, outcomes, with_zero=True).weights[-1]
    return _Path(weights, unconverged)


def _jackknife(weights: Float[np.ndarray, "fold feature column"]) -> Float[np.ndarray, "feature column"]:
    """Standard errors from leaving out one fold at a time."""
    spread = np.square(weights - weights.mean(axis=0)).sum(axis=0)
    return np.sqrt(spread * (len(weights) - 1) / len(weights))


def _correlation(
    outcomes: np.ndarray,
    parts: list[_Part],
    losses: Float[np.ndarray, "fold penalty column"],
    fold: np.ndarray,
) -> Float[np.ndarray, " column"]:
    predicted = np.empty_like(outcomes)
    for number, part in enumerate(parts):
        best = (losses.sum(axis=0) - losses[number]).argmin(axis=0)
        predicted[fold == number] = _pick(part.predicted, best)
    x, y = predicted - predicted.mean(0), outcomes - outcomes.mean(0)
    scale = np.sqrt(np.square(x).sum(0) * np.square(y).sum(0))
    return np.divide((x * y).sum(0), scale, out=np.full(len(scale), np.nan), where=scale > 0)


def _pick(paths: np.ndarray, chosen: Int[np.ndarray, " column"]) -> np.ndarray:
    """For every column, the slice of its penalty."""
    return np.take_along_axis(paths, chosen[None, None, :], axis=0)[0]
