"""XGBoost for the learner of boosted trees: ``Booster`` and ``XGBModel``.

A saved XGBoost model does not hold its training parameters. Learning rate and L2, which the leaves follow by, are read
off the model itself (``trees/xgboost.py``); to train it again the others have to be given.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xgboost
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from xgboost.core import XGBoostError

from steelyard.errors import FitError
from steelyard.learners.boosted_columns import Coding, check_names, coding_of
from steelyard.learners.boosted_fitted import BoostedFitted, Rows, Training
from steelyard.records import Examples
from steelyard.trees import xgboost as layout
from steelyard.trees.forest import Forest
from steelyard.trees.objectives import Custom, Objective

_CLASSES = ("binary:logistic", "binary:logitraw", "multi:softmax", "multi:softprob")
_FIXED = {"nthread": 1, "verbosity": 0}
_OF_ESTIMATORS = ("n_jobs", "random_state", "verbosity", "eval_metric")
_ALIASES = {"learning_rate": "eta", "reg_lambda": "lambda", "reg_alpha": "alpha", "min_split_loss": "gamma"}


def training(model: Any, given: Mapping[str, Any] | None, custom: Custom | None) -> Training:
    """Parameters as given, else those that the booster was trained by in this process."""
    if isinstance(model, xgboost.XGBModel):
        rounds = _best(model.get_booster()) if _is_fitted(model) else None
        return Training(model, rounds=rounds, custom=custom)
    learner = json.loads(model.save_config())["learner"]
    found = dict(learner["gradient_booster"].get("tree_train_param", {}))
    found |= {"objective": learner["learner_train_param"]["objective"], **_options(learner["objective"])}
    count = int(learner["learner_model_param"]["num_class"])
    if count:
        found["num_class"] = count
    asked = {_ALIASES.get(name, name): value for name, value in (given or {}).items()}
    rounds = int(asked.pop("num_boost_round", _best(model) or model.num_boosted_rounds()))
    return Training(None, _settable(found) | asked, rounds, custom)


def native(model: Any) -> Any:
    """The booster, cut at its best iteration where it stopped early."""
    booster = model.get_booster() if isinstance(model, xgboost.XGBModel) else model
    best = _best(booster)
    return booster if best is None or best == booster.num_boosted_rounds() else booster[:best]


def outputs(model: Any) -> tuple[bool, np.ndarray | int | None]:
    """By the estimator's kind, or by the booster's objective."""
    if isinstance(model, xgboost.XGBModel):
        if not isinstance(model, xgboost.XGBClassifier):
            return False, None
        return True, np.asarray(model.classes_) if _is_fitted(model) else None
    learner = json.loads(model.save_config())["learner"]
    name = learner["objective"]["name"]
    return name in _CLASSES, max(
        2, int(learner["learner_model_param"]["num_class"])
    ) if name in _CLASSES else None


def train(training: Training, rows: Rows, seed: int) -> Any:
    """On one thread, without early stopping; features keep their codes."""
    kinds = ["c" if k in rows.coding.categorical else "q" for k in range(rows.table.shape[1])]
    try:
        if training.estimator is not None:
            settings: dict[str, Any] = {"n_jobs": 1, "random_state": seed, "early_stopping_rounds": None}
            settings |= {"enable_categorical": True, "feature_types": kinds}
            if training.rounds is not None:
                settings["n_estimators"] = training.rounds
            copy: Any = clone(training.estimator)
            copy.set_params(**settings)
            return copy.fit(rows.table, rows.codes, sample_weight=rows.weights).get_booster()
        about: dict[str, Any] = {"weight": rows.weights, "feature_types": kinds, "enable_categorical": True}
        settings = {**training.parameters, **_FIXED, "seed": seed}
        if training.binned:
            return _updated(training, settings, rows, about)
        data = xgboost.DMatrix(rows.table, rows.codes, **about, nthread=1)
        if training.custom is None:
            return xgboost.train(settings, data, num_boost_round=training.rounds or 10)
        settings.pop("objective", None)
        return xgboost.train(
            settings, data, num_boost_round=training.rounds or 10, obj=_function(training.custom)
        )
    except (XGBoostError, ValueError) as error:
        raise FitError(
            f"XGBoost refused to train on {len(rows.codes)} examples: {error}", fix="read its message above."
        ) from error


def _updated(training: Training, settings: dict[str, Any], rows: Rows, about: Mapping[str, Any]) -> Any:
    """One of many fits on rows that are binned as they are read, as the estimators do.

    Without what ``xgboost.train`` does around the rounds: an eighth of the time.
    """
    bins = training.parameters.get("max_bin")
    data = xgboost.QuantileDMatrix(rows.table, rows.codes, **about, max_bin=bins, nthread=1)
    booster = xgboost.Booster(settings, [data])
    for number in range(training.rounds or 100):
        booster.update(data, number)
    return booster


def plain(training: Training, classes: int) -> Training | None:
    """The estimator's settings for ``train``; None with its own objective, missing value or callbacks."""
    if training.estimator is None:
        return None
    found = dict(training.estimator.get_xgb_params())
    rest = training.estimator.get_params()
    missing = rest.get("missing")
    own = training.custom is not None or callable(rest.get("objective")) or rest.get("callbacks")
    if own or not (missing is None or np.isnan(missing)) or found.get("booster") == "gblinear":
        return None
    settings = {key: value for key, value in found.items() if value is not None and key not in _OF_ESTIMATORS}
    if classes > 2:
        if settings.get("objective") != "multi:softmax":
            settings["objective"] = "multi:softprob"
        settings["num_class"] = classes
    rounds = training.rounds or training.estimator.get_num_boosting_rounds()
    return Training(None, settings, rounds, binned=found.get("tree_method") in (None, "auto", "hist"))


def coding(model: Any, examples: Examples) -> Coding:
    """Categories by the names that the model holds since XGBoost 3.1; before, the numbers are the codes."""
    booster = native(model)
    given = booster.feature_names
    names = check_names(None if given is None else tuple(given), examples, "XGBoost")
    types = booster.feature_types or []
    by_code = frozenset(k for k, kind in enumerate(types) if kind == "c")
    listed = layout.category_names(_json(booster))
    listed += [None] * (len(names) - len(listed))
    words = coding_of(examples).categories
    categories = tuple(
        tuple(listed[k] or ()) if words[k] is not None and listed[k] else None for k in range(len(names))
    )
    return Coding(names, categories, by_code)


def objective(model: Any, training: Training, classes: int) -> Objective:
    """From the model's JSON."""
    return layout.objective_of(_json(model)["learner"], training.parameters, training.custom)


def class_weights(model: Any, training: Training, rows: Rows) -> np.ndarray | None:
    """``scale_pos_weight``."""
    if rows.classes is None or len(rows.classes) != 2:
        return None
    options = _options(_json(model)["learner"]["objective"])
    return np.array([1.0, float(options.get("scale_pos_weight", 1))])


def start(model: Any, objective: Objective, rows: Rows, weights: np.ndarray) -> np.ndarray | None:
    """The model holds it."""
    return None


def forest(fitted: BoostedFitted) -> Forest:
    """The layout, from the model's JSON; learning rate and penalties as the training had them."""
    content = _json(fitted.model)
    known = json.loads(fitted.model.save_config())["learner"]["gradient_booster"].get("tree_train_param", {})
    settings = {**known, **fitted.training.parameters}
    if (
        fitted.training.estimator is None
        or fitted.training.estimator.get_params().get("learning_rate") is None
    ):
        settings |= layout.penalties_of(content, settings)
    return layout.forest_of(content, settings, fitted.objective)


def table(fitted: BoostedFitted, features: np.ndarray) -> np.ndarray:
    """The features as they are."""
    return features


def raw(fitted: BoostedFitted, features: np.ndarray) -> np.ndarray:
    """Margins of all rounds that the model keeps."""
    kinds = fitted.model.feature_types or ["q"] * features.shape[1]
    data = xgboost.DMatrix(
        features,
        feature_names=fitted.model.feature_names,
        feature_types=kinds,
        enable_categorical=True,
        nthread=1,
    )
    return fitted.model.predict(data, output_margin=True)


def dump(model: Any) -> bytes:
    """XGBoost's JSON."""
    return bytes(native(model).save_raw("json"))


def load(content: bytes) -> Any:
    """A booster from its JSON, on one thread."""
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(content))
    return booster


def _is_fitted(model: Any) -> bool:
    try:
        model.get_booster()
    except NotFittedError:
        return False
    return True


def _best(booster: Any) -> int | None:
    best = booster.attr("best_iteration")
    return None if best is None else int(best) + 1


def _json(model: Any) -> dict[str, Any]:
    return json.loads(dump(model).decode())


def _options(objective: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value for part in objective.values() if isinstance(part, dict) for key, value in part.items()
    }


def _settable(found: Mapping[str, Any]) -> dict[str, Any]:
    """Without empty settings and those that have a second name."""
    return {
        key: value for key, value in found.items() if value not in ("", "()", None) and key not in _ALIASES
    }


def _function(custom: Custom) -> Any:
    def gradients(raw: np.ndarray, data: Any) -> tuple[np.ndarray, np.ndarray]:
        labels, weights = data.get_label().astype(np.float64), data.get_weight()
        scores = np.asarray(raw, dtype=np.float64).reshape(len(labels), -1)
        factor = weights[:, None] if len(weights) else 1.0
        first, second = (
            np.reshape(f(scores, labels), scores.shape) * factor for f in (custom.gradient, custom.hessian)
        )
        return first, second

    return gradients
