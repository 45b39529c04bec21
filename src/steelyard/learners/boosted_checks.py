"""What is checked about boosted trees: labels and features, the layout's predictions, and what trees were grown on."""

from typing import Any

import numpy as np
from jaxtyping import Float

from steelyard.data import check_classes
from steelyard.errors import DataError, FitError, ModelError
from steelyard.learners.boosted_columns import Coding
from steelyard.learners.boosted_fitted import BoostedFitted
from steelyard.records import Examples
from steelyard.trees.forest import Forest, raw_scores

_DOUBLE, _SINGLE = 1e-6, 1e-5
_MOVED = 1e-3
"""Share of a forest's rows that may lie in another leaf than when it was grown, for rounding at thresholds."""
_DRAWN = 0.05
"""How far the share of rows drawn may be from the setting, and above all rows by rounding."""


def check_trained(model: Any) -> None:
    """Refuse an estimator that is not fitted.

    Raises:
        ModelError: If so.
    """
    marks = ("booster_", "get_booster", "is_fitted", "estimators_", "n_iter_")
    if type(model).__name__ == "Booster":
        return
    if getattr(model, "is_fitted", None) is not None:
        fitted = bool(model.is_fitted())
    elif getattr(model, "__sklearn_is_fitted__", None) is not None:
        fitted = bool(model.__sklearn_is_fitted__())
    else:
        fitted = any(getattr(model, mark, None) is not None for mark in marks)
    if not fitted:
        raise ModelError(
            f"trained=True, but this {type(model).__name__} is not fitted.",
            fix="fit it on the training examples first, or leave trained out to have it fitted here.",
        )


def check_labels(train: Examples, query: Examples, *, classes: bool) -> None:
    """Refuse labels that no fit could use.

    Raises:
        DataError: Labels missing, NaN, no numbers (regression), or a query's class that training does not have.
    """
    for examples in (train, query):
        labels = examples.labels()
        if labels.ndim != 1:
            raise DataError(
                f"{examples.source}: labels have shape {labels.shape}.", fix="give one label per example."
            )
        bad = np.flatnonzero(~np.isfinite(labels)) if labels.dtype.kind == "f" else []
        if len(bad):
            raise DataError(
                f"{examples.source}: the label of example {str(examples.ids[bad[0]])!r} is {labels[bad[0]]}.",
                fix="leave out examples without a label.",
            )
        if not classes and labels.dtype.kind not in "biuf":
            raise DataError(
                f"{examples.source}: column {examples.label!r} holds text, and the model is a regression.",
                fix="name the column of targets with --label (label=), or use a classifier.",
            )
    if classes:
        known = check_classes(train)
        unseen = np.flatnonzero(~np.isin(query.labels(), known))
        if len(unseen):
            raise DataError(
                f"{query.source}: query {str(query.ids[unseen[0]])!r} has the label {query.labels()[unseen[0]]!r}, "
                f"which no training example has ({len(unseen)} such queries).",
                fix="leave out these queries, or map both sides to the same labels.",
            )


def check_features(coding: Coding, examples: Examples) -> None:
    """Refuse infinite features; missing values are the libraries' own business.

    Raises:
        DataError: Names example and column.
    """
    rows, columns = np.nonzero(np.isinf(coding.table(examples)))
    if len(rows):
        raise DataError(
            f"{examples.source}: column {coding.names[columns[0]]!r} of example {str(examples.ids[rows[0]])!r} is "
            "infinite.",
            fix="leave the example out, or put a missing value there.",
        )


def class_values(known: np.ndarray | int | None, labels: np.ndarray) -> np.ndarray:
    """The label of every code.

    Args:
        known: Classes of the model, or how many; None before a fit.
        labels: Of the training examples.

    Raises:
        ModelError: If the model knows other classes.
        FitError: If it knows more than the labels have.
    """
    found = np.unique(labels)
    if known is None:
        return found
    if isinstance(known, np.ndarray):
        same_kind = (known.dtype.kind in "biuf") == (found.dtype.kind in "biuf")
        if same_kind and bool(np.isin(found, known).all()):
            return known.astype(found.dtype) if known.dtype.kind in "biuf" else known
        if known.dtype.kind not in "biuf" or not np.array_equal(known, np.arange(len(known))):
            missing = found[~np.isin(found.astype(str), known.astype(str))]
            raise ModelError(
                f"the model does not know {missing[0] if len(missing) else found[0]!r}, a label of the training "
                f"examples; it knows {len(known)} classes such as {known[0]!r}.",
                fix="give the examples that it was trained on.",
            )
    count = known if isinstance(known, int) else len(known)
    if found.dtype.kind in "biuf" and bool(np.isin(found, np.arange(count)).all()):
        return np.arange(count)
    if len(found) > count:
        raise ModelError(
            f"the model has {count} classes, the training examples {len(found)}.",
            fix="give the examples that it was trained on.",
        )
    if len(found) < count:
        raise FitError(
            f"the model has {count} classes, these examples only {len(found)}: a class is missing.",
            fix="give at least one example of every class.",
        )
    return found


def codes_of(labels: np.ndarray, classes: np.ndarray | None) -> Float[np.ndarray, " example"]:
    """Labels as numbers: targets, or codes of classes.

    Raises:
        FitError: If a label is a class that the fit has not seen.
    """
    if classes is None:
        return labels.astype(np.float64)
    places = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    unseen = np.flatnonzero(classes[places] != labels)
    if len(unseen):
        raise FitError(
            f"the fit has not seen the class {labels[unseen[0]]!r}.",
            fix="leave an example of every class in.",
        )
    return places.astype(np.float64)


def check_layout(
    fitted: BoostedFitted, examples: Examples, weights: Float[np.ndarray, " example"]
) -> tuple[str, ...]:
    """Hold the layout against the library's own predictions, and the leaves against what they held in training.

    Returns:
        Notes about the model.

    Raises:
        ModelError: If either differs.
    """
    features = fitted.coding.table(examples)
    forest, numbers = fitted.forest, fitted.numbers(features)
    mine, theirs = raw_scores(forest, numbers), fitted.raw(features)
    scale = max(1.0, float(np.abs(theirs).max(initial=0.0)))
    gap = float(np.abs(mine - theirs).max(initial=0.0)) / scale
    if not gap <= (_SINGLE if forest.single else _DOUBLE):
        raise ModelError(
            f"the trees read from the {forest.library} model predict otherwise than the model, by up to {gap:.3g} of "
            f"{scale:.3g}: it uses something that the layout does not have.",
            fix="use leave_one_out or knn_shapley, which need no leaves, and report the model's settings.",
        )
    notes = list(_check_covers(fitted, numbers, examples, weights))
    if forest.row_share < 1 and forest.cover_kind == "weight":
        notes.append(
            f"the shape of every tree was found on {forest.row_share:.0%} of the rows drawn at random, its leaves on "
            "all of them"
        )
    elif forest.row_share < 1:
        notes.append(
            f"every round was grown on {forest.row_share:.0%} of the rows drawn at random, and the model does not say "
            "which: leaves are explained as if all rows had been there"
        )
    if forest.column_share < 1:
        notes.append(
            f"columns were drawn at random for trees, levels or splits, as few as {forest.column_share:.0%} of them: "
            "the shape of the trees is taken as it came out"
        )
    if forest.leaf_rule == "unknown":
        notes.append(
            "leaves follow no rule that could be taken back (constraints, smoothing or quantised gradients)"
        )
    return tuple(notes)


def _check_covers(
    fitted: BoostedFitted, numbers: np.ndarray, examples: Examples, weights: np.ndarray
) -> tuple[str, ...]:
    forest = fitted.forest
    if forest.cover_kind == "unknown":
        return ()
    if fitted.coding.categorical and forest.library == "CatBoost" and _uses_statistics(fitted):
        return (
            "CatBoost computed statistics of the target row by row in training: examples may have lain in other "
            "leaves then than now, so scores that follow leaf values are approximate",
        )
    labels = codes_of(examples.labels(), fitted.classes)
    present = _covers(forest, numbers, labels, weights)
    if forest.cover_kind == "rows" and not weights.all():
        # Libraries count rows of weight 0 too, if they were given any.
        everyone = _covers(forest, numbers, labels, np.ones_like(weights))
        if _moved(forest, everyone) < _moved(forest, present):
            present = everyone
    moved = _moved(forest, present)
    if moved > _MOVED:
        excess = np.abs(present - forest.covers)
        leaf = int(np.argmax(excess))
        tree = int(np.searchsorted(forest.leaf_starts, leaf, side="right")) - 1
        what = {"rows": "examples", "weight": "of weight", "hessian": "of summed Hessian"}[forest.cover_kind]
        raise ModelError(
            f"the {forest.library} model was not trained on {examples.source}: leaf {leaf - forest.leaf_starts[tree]} "
            f"of tree {tree} held {forest.covers[leaf]:.6g} {what} then and {present[leaf]:.6g} now ({moved:.1%} of "
            "all moved).",
            fix="give exactly its training examples, with their weights in a column 'weight'.",
        )
    return ()


def _covers(forest: Forest, numbers: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What lies in every leaf, in the library's way of counting."""
    parts = []
    hessian, known = np.zeros((0, 0)), -1
    for tree in range(forest.trees):
        if forest.cover_kind == "hessian" and forest.round[tree] != known:
            known = int(forest.round[tree])
            hessian = forest.objective.hessian(raw_scores(forest, numbers, rounds=known), labels)
        counted = (weights > 0).astype(np.float64) if forest.cover_kind == "rows" else weights
        if forest.cover_kind == "hessian":
            counted = weights * hessian[:, forest.output[tree]]
        size = int(forest.leaf_starts[tree + 1] - forest.leaf_starts[tree])
        parts.append(np.bincount(numbers[:, tree], counted, minlength=size))
    return np.concatenate(parts)


def _moved(forest: Forest, found: np.ndarray) -> float:
    """Share of the forest's rows that lie elsewhere than when it was grown; with drawn rows, only those too many."""
    total = max(float(forest.covers.sum()), 1e-300)
    if forest.row_share >= 1 or forest.cover_kind == "weight":
        return float(np.abs(found - forest.covers).sum()) / (2 * total)
    if abs(total / (forest.row_share * max(float(found.sum()), 1e-300)) - 1) > _DRAWN * (
        1 / forest.row_share
    ):
        return 1.0
    return float(np.maximum(forest.covers - found * (1 + _MOVED), 0).sum()) / total


def _uses_statistics(fitted: BoostedFitted) -> bool:
    from steelyard.learners.boosted_catboost import uses_statistics

    return uses_statistics(fitted.model)
