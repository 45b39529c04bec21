"""CatBoost for the learner of boosted trees: ``CatBoost``, ``CatBoostClassifier`` and ``CatBoostRegressor``."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import catboost
import numpy as np

from steelyard.errors import FitError, ModelError
from steelyard.learners.boosted_columns import Coding, check_names, coding_of
from steelyard.learners.boosted_fitted import BoostedFitted, Rows, Training
from steelyard.records import Examples
from steelyard.trees import catboost as layout
from steelyard.trees.forest import Forest
from steelyard.trees.objectives import Custom, Objective

_MISSING = "nan"
_CLASSES = ("Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll")
_BY_CLASS = ("class_weights", "auto_class_weights", "scale_pos_weight")
_NOT_OF_TRAINING = (
    "early_stopping_rounds", "od_wait", "od_type", "od_pval", "use_best_model", "eval_fraction", "iterations",
    "n_estimators", "num_trees", "num_boost_round", "thread_count", "random_seed", "random_state", "verbose",
    "logging_level", "silent", "verbose_eval", "cat_features",
)  # fmt: skip


def training(model: Any, given: Mapping[str, Any] | None, custom: Custom | None) -> Training:
    """All parameters of a trained model, which holds them; those as given of another."""
    if custom is not None:
        raise ModelError(
            "CatBoost's custom objectives are not supported.", fix="use one of its own losses, or LightGBM."
        )
    found = dict(model.get_all_params() if model.is_fitted() else model.get_params())
    rounds = model.tree_count_ if model.is_fitted() else _rounds(found)
    found = {key: value for key, value in found.items() if key not in _NOT_OF_TRAINING}
    if isinstance(model, catboost.CatBoostClassifier) and "loss_function" not in found:
        return Training(type(model)(**found), rounds=rounds)
    return Training(None, found | dict(given or {}), rounds)


def native(model: Any) -> Any:
    """The model itself."""
    return model


def outputs(model: Any) -> tuple[bool, np.ndarray | int | None]:
    """By the classes of a trained model, or the kind of another."""
    if model.is_fitted():
        classes = np.asarray(model.classes_)
        return len(classes) > 0, classes if len(classes) else None
    loss = str(model.get_params().get("loss_function", ""))
    return isinstance(model, catboost.CatBoostClassifier) or loss.partition(":")[0] in _CLASSES, None


def train(training: Training, rows: Rows, seed: int) -> Any:
    """On one thread, without early stopping; categories as text."""
    settings = {"thread_count": 1, "random_seed": seed, "verbose": False, "allow_writing_files": False}
    if training.rounds is not None:
        settings["iterations"] = training.rounds
    try:
        model: Any = catboost.CatBoost({**training.parameters, **settings})
        if training.estimator is not None:
            model = training.estimator.copy().set_params(**settings)
        return model.fit(_pool(rows.table, rows.coding, rows.labels, rows.weights))
    except catboost.CatBoostError as error:
        raise FitError(
            f"CatBoost refused to train on {len(rows.codes)} examples: {error}", fix="read its message above."
        ) from error


def plain(training: Training, classes: int) -> Training | None:
    """The settings without a classifier around them, which only chooses the loss; None where it weighs classes."""
    if training.estimator is None:
        return training
    found = dict(training.estimator.get_params())
    if any(found.get(name) is not None for name in _BY_CLASS):
        return None
    usual = "Logloss" if classes <= 2 else "MultiClass"  # noqa: PLR2004 - two classes are one output
    return Training(None, {"loss_function": usual, **found}, training.rounds)


def coding(model: Any, examples: Examples) -> Coding:
    """CatBoost codes categories itself, by their text."""
    names = check_names(tuple(model.feature_names_), examples, "CatBoost")
    found = coding_of(examples)
    by_text = set(model.get_cat_feature_indices())
    words = {k for k, known in enumerate(found.categories) if known is not None}
    if not words <= by_text:
        raise ModelError(
            f"the CatBoost model reads {names[min(words - by_text)]!r} as a number, and {examples.source} has text "
            "there.",
            fix="give the columns that the model was trained on.",
        )
    return Coding(names, found.categories, frozenset(by_text - words))


def objective(model: Any, training: Training, classes: int) -> Objective:
    """From the model's JSON."""
    several = classes if classes > 2 or _loss(model).startswith("MultiClass") else 1
    return layout.objective_of(_json(model), several)


def class_weights(model: Any, training: Training, rows: Rows) -> np.ndarray | None:
    """``class_weights`` or ``auto_class_weights``."""
    parameters = model.get_all_params()
    if rows.classes is None:
        return None
    given = parameters.get("class_weights") or None
    sums = np.bincount(rows.codes.astype(np.int64), rows.ones(), minlength=len(rows.classes))
    automatic = parameters.get("auto_class_weights", "None")
    if given is not None:
        return np.asarray(list(given.values()) if isinstance(given, dict) else given, dtype=np.float64)
    if automatic == "Balanced":
        return sums.max() / sums
    return np.sqrt(sums.max() / sums) if automatic == "SqrtBalanced" else None


def start(model: Any, objective: Objective, rows: Rows, weights: np.ndarray) -> np.ndarray | None:
    """The model holds it."""
    return None


def forest(fitted: BoostedFitted) -> Forest:
    """The layout, from the model's JSON."""
    return layout.forest_of(_json(fitted.model), fitted.objective, fitted.mean_weight)


def table(fitted: BoostedFitted, features: np.ndarray) -> np.ndarray:
    """The numeric features, and behind them whether each split on categories is true."""
    columns = layout.columns_of(_json(fitted.model))
    numeric = features[:, list(columns.numeric)]
    if not columns.bits:
        return numeric
    numbers = np.asarray(
        fitted.model.calc_leaf_indexes(_pool(features, fitted.coding)),
        dtype=np.int64,  # given as uint32
    )
    return np.concatenate([numeric, layout.split_bits(columns, numbers)], axis=1)


def raw(fitted: BoostedFitted, features: np.ndarray) -> np.ndarray:
    """Raw scores of all rounds that the model keeps."""
    return fitted.model.predict(
        _pool(features, fitted.coding), prediction_type="RawFormulaVal", thread_count=1
    )


def uses_statistics(model: Any) -> bool:
    """Whether splits ask for statistics of the target by category, which training computes row by row."""
    return any(
        split["split_type"] not in ("FloatFeature", "OneHotFeature")
        for tree in _json(model).get("oblivious_trees", [])
        for split in tree.get("splits") or []
    )


def dump(model: Any) -> bytes:
    """CatBoost's own binary format."""
    return _saved(model, "cbm")


def load(content: bytes) -> Any:
    """A model from CatBoost's binary format."""
    return catboost.CatBoost().load_model(blob=content)


def _pool(
    table: np.ndarray, coding: Coding, labels: np.ndarray | None = None, weights: np.ndarray | None = None
) -> Any:
    categorical = coding.categorical
    cells: Any = table
    if categorical:
        cells = coding.texts(table)
        for k in categorical:
            cells[:, k] = [_text(value) for value in cells[:, k]]
    return catboost.Pool(
        cells,
        labels,
        weight=weights,
        cat_features=categorical or None,
        feature_names=list(coding.names),
        thread_count=1,
    )


def _text(value: Any) -> str:
    if value is None:
        return _MISSING
    return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)


def _rounds(parameters: Mapping[str, Any]) -> int | None:
    names = ("iterations", "n_estimators", "num_trees", "num_boost_round")
    return next((int(parameters[name]) for name in names if parameters.get(name)), None)


def _loss(model: Any) -> str:
    return str(model.get_all_params()["loss_function"])


def _json(model: Any) -> dict[str, Any]:
    return json.loads(_saved(model, "json"))


def _saved(model: Any, kind: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        model.save_model(str(path), format=kind)
        return path.read_bytes()
