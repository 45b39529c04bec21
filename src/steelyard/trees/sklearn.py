"""scikit-learn's ``GradientBoosting…`` and ``HistGradientBoosting…`` to a forest.

Both keep their trees as arrays under names that are not public; ``tests/trees`` holds them against the estimators' own
predictions on every supported release. ``GradientBoosting…`` compares in single precision, ``Hist…`` in double.
"""

from typing import Any

import numpy as np
import sklearn
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)

from steelyard.errors import ModelError
from steelyard.trees.assembling import Tree, assembled, numbered
from steelyard.trees.forest import NAN_MISSING, Forest
from steelyard.trees.objectives import Objective

PLAIN = (GradientBoostingClassifier, GradientBoostingRegressor)
HISTOGRAM = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)


def objective_of(estimator: Any, classes: int) -> Objective:
    """What the estimator's training minimises, for so many classes (0 for a regression).

    Raises:
        ModelError: For losses that have no layout here.
    """
    histogram = isinstance(estimator, HISTOGRAM)
    settings = estimator.get_params(deep=False)
    loss = settings["loss"]
    if loss == "log_loss" and classes == 2:
        return Objective("logistic")
    if loss == "log_loss":
        return Objective("softmax", classes, scale=1.0 if histogram else classes / (classes - 1))
    if loss == "quantile":
        return Objective("quantile", parameter=float(settings["quantile" if histogram else "alpha"]))
    simple: dict[str, Any] = {"squared_error": "squared", "absolute_error": "absolute"}
    if histogram:
        simple |= {"poisson": "poisson", "gamma": "gamma"}
    if loss in simple:
        return Objective(simple[loss])
    reason = {
        "huber": "its threshold is another one in every round",
        "exponential": "it is that of AdaBoost",
    }
    raise ModelError(
        f"the loss {loss!r} of {type(estimator).__name__} is not supported: "
        f"{reason.get(str(loss), 'it is not known')}.",
        fix=f"use {', '.join(map(repr, simple))}, 'quantile' or 'log_loss'.",
    )


def forest_of(estimator: Any, objective: Objective) -> Forest:
    """The forest of a fitted estimator.

    Raises:
        ModelError: If it starts from another estimator's predictions, which differ from row to row.
    """
    return (
        _histogram(estimator, objective) if isinstance(estimator, HISTOGRAM) else _plain(estimator, objective)
    )


def _plain(estimator: Any, objective: Objective) -> Forest:
    if estimator.init not in (None, "zero"):
        raise ModelError(
            f"{type(estimator).__name__} starts from init={estimator.init!r}, which is not supported.",
            fix="train with init=None or 'zero'.",
        )
    rate = float(estimator.learning_rate)
    trees = []
    for number, row in enumerate(estimator.estimators_):
        for output, regressor in enumerate(row):
            tree = regressor.tree_
            left = np.asarray(tree.children_left, dtype=np.int64)
            leaf = numbered(left)
            ends = leaf >= 0
            trees.append(
                Tree(
                    # On Linux its type is C's long long, another one than int64 to those who compare types.
                    feature=np.where(ends, -1, tree.feature.astype(np.int64)),
                    threshold=np.asarray(tree.threshold, dtype=np.float64),
                    left=left,
                    right=np.asarray(tree.children_right, dtype=np.int64),
                    missing=np.full(len(left), NAN_MISSING),
                    missing_left=np.zeros(len(left), dtype=bool),
                    category=np.full(len(left), -1),
                    leaf=leaf,
                    values=rate * np.asarray(tree.value, dtype=np.float64)[ends, 0, 0],
                    covers=np.asarray(tree.n_node_samples, dtype=np.float64)[ends],
                    l2=np.zeros(int(ends.sum())),
                    output=output,
                    round=number,
                    # Softmax: the factor (K - 1) / K of its leaves is that of the Hessian's scale.
                    shrinkage=rate,
                )
            )
    start = estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_)))  # noqa: SLF001 - see the module
    return assembled(
        trees,
        base=np.asarray(start, dtype=np.float64)[0],
        objective=objective,
        l1=0.0,
        max_delta_step=0.0,
        leaf_rule="renewed" if objective.kind in ("absolute", "quantile") else "newton",
        leaf_steps=1,
        cover_kind="rows",
        single=True,
        row_share=float(estimator.subsample),
        column_share=_share(estimator.max_features, estimator.n_features_in_),
        library=f"scikit-learn {sklearn.__version__}",
    )


def _histogram(estimator: Any, objective: Objective) -> Forest:
    known = _known_categories(estimator)
    rate, l2 = float(estimator.learning_rate), float(estimator.l2_regularization)
    trees = [
        _predictor(predictor, known, (output, number), (rate, l2))
        for number, row in enumerate(estimator._predictors)  # noqa: SLF001
        for output, predictor in enumerate(row)
    ]
    constrained = estimator.monotonic_cst is not None
    renewed = objective.kind in ("absolute", "quantile")
    return assembled(
        trees,
        base=np.ravel(np.asarray(estimator._baseline_prediction, dtype=np.float64)),  # noqa: SLF001
        objective=objective,
        l1=0.0,
        max_delta_step=0.0,
        leaf_rule="renewed" if renewed else "unknown" if constrained else "newton",
        leaf_steps=1,
        cover_kind="rows",
        single=False,
        row_share=1.0,
        column_share=float(estimator.max_features),
        library=f"scikit-learn {sklearn.__version__}",
    )


def _predictor(
    predictor: Any, known: dict[int, np.ndarray], place: tuple[int, int], fit: tuple[float, float]
) -> Tree:
    nodes = predictor.nodes
    ends = nodes["is_leaf"].astype(bool)
    by_set = nodes["is_categorical"].astype(bool) & ~ends
    missing_left = nodes["missing_go_to_left"].astype(bool)
    category, sets = np.full(len(nodes), -1), []
    for node in np.flatnonzero(by_set):
        words = predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]]
        bits = np.unpackbits(np.asarray(words, dtype="<u4").view(np.uint8), bitorder="little").astype(bool)
        seen = np.zeros(len(bits), dtype=bool)
        seen[known[int(nodes["feature_idx"][node])].astype(np.int64)] = True
        category[node] = len(sets)
        # Categories that training did not see go where missing values go.
        sets.append(np.append(np.where(seen, bits, missing_left[node]), missing_left[node]))
    return Tree(
        feature=np.where(ends, -1, nodes["feature_idx"].astype(np.int64)),
        threshold=np.where(by_set, 0.0, nodes["num_threshold"]),
        left=np.where(ends, -1, nodes["left"].astype(np.int64)),
        right=np.where(ends, -1, nodes["right"].astype(np.int64)),
        missing=np.full(len(nodes), NAN_MISSING),
        missing_left=missing_left,
        category=category,
        leaf=numbered(np.where(ends, -1, 0)),
        values=nodes["value"][ends].astype(np.float64),
        covers=nodes["count"][ends].astype(np.float64),
        l2=np.full(int(ends.sum()), fit[1]),
        output=place[0],
        round=place[1],
        shrinkage=fit[0],
        sets=sets,
    )


def _known_categories(estimator: Any) -> dict[int, np.ndarray]:
    """Codes of the categories that training saw, by column."""
    mapper = estimator._bin_mapper  # noqa: SLF001
    if mapper.is_categorical_ is None:
        return {}
    return {
        int(column): np.asarray(mapper.bin_thresholds_[column])
        for column in np.flatnonzero(mapper.is_categorical_)
    }


def _share(max_features: Any, columns: int) -> float:
    if max_features is None:
        return 1.0
    if isinstance(max_features, str):
        return {"sqrt": columns**-0.5, "log2": float(np.log2(columns)) / columns}[max_features]
    return float(max_features) if isinstance(max_features, float) else max_features / columns
