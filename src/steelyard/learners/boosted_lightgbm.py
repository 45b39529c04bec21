"""LightGBM for the learner of boosted trees: ``Booster`` and ``LGBMModel``."""

from collections.abc import Mapping
from typing import Any

import lightgbm
import numpy as np
from lightgbm.basic import LightGBMError
from sklearn.base import clone
from sklearn.utils.class_weight import compute_sample_weight

from steelyard.errors import FitError, ModelError
from steelyard.learners.boosted_columns import Coding, check_names, coding_of
from steelyard.learners.boosted_fitted import BoostedFitted, Rows, Training
from steelyard.records import Examples
from steelyard.trees import lightgbm as layout
from steelyard.trees.forest import Forest
from steelyard.trees.objectives import Custom, Objective

_CLASSES = ("binary", "multiclass", "multiclassova")
_NOT_OF_TRAINING = (
    "num_iterations", "early_stopping_round", "categorical_feature", "data", "valid", "machines", "num_threads", "seed",
    "deterministic", "verbosity", "objective", "force_col_wise", "force_row_wise",
)  # fmt: skip
# A model's text says 0 and 1 where training takes true and false.
_TRUTHS = (
    "bagging_by_query", "extra_trees", "first_metric_only", "xgboost_dart_mode", "uniform_drop", "use_quantized_grad",
    "quant_train_renew_leaf", "stochastic_rounding", "linear_tree", "is_enable_sparse", "enable_bundle", "use_missing",
    "zero_as_missing", "feature_pre_filter", "pre_partition", "two_round", "header", "precise_float_parser",
    "is_unbalance", "boost_from_average", "reg_sqrt", "lambdarank_norm", "gpu_use_dp",
)  # fmt: skip
_OF_ESTIMATORS = (
    "n_estimators",
    "n_jobs",
    "random_state",
    "importance_type",
    "early_stopping_round",
    "class_weight",
)
_FIXED = {"num_threads": 1, "deterministic": True, "force_row_wise": True, "verbosity": -1}


def training(model: Any, given: Mapping[str, Any] | None, custom: Custom | None) -> Training:
    """Parameters from the model's own text, which holds all of them."""
    if isinstance(model, lightgbm.LGBMModel):
        rounds = model.best_iteration_ if _is_fitted(model) and model.best_iteration_ else None
        return Training(model, rounds=rounds, custom=custom)
    text = layout.parsed(_text(model))
    if not text.parameters and given is None:
        raise ModelError(
            "the LightGBM model does not hold its training parameters.",
            fix="give them: Boosted(model, parameters={...}) (on the command line: --parameter NAME=VALUE).",
        )
    found: dict[str, Any] = {
        key: value == "1" if key in _TRUTHS else value
        for key, value in text.parameters.items()
        if value and key not in _NOT_OF_TRAINING
    }
    found |= {"objective": text.header.get("objective", "none").split(" ")[0]}
    count = int(text.header["num_tree_per_iteration"])
    return Training(None, found | dict(given or {}), len(text.trees) // count, custom)


def native(model: Any) -> Any:
    """The booster."""
    return model.booster_ if isinstance(model, lightgbm.LGBMModel) else model


def outputs(model: Any) -> tuple[bool, np.ndarray | int | None]:
    """By the estimator's kind, or by the booster's objective."""
    if isinstance(model, lightgbm.LGBMModel):
        if not isinstance(model, lightgbm.LGBMClassifier):
            return False, None
        return True, np.asarray(model.classes_) if _is_fitted(model) else None
    text = layout.parsed(_text(model))
    name = text.header.get("objective", "custom").split(" ")[0]
    return name in _CLASSES, max(2, int(text.header["num_class"])) if name in _CLASSES else None


def train(training: Training, rows: Rows, seed: int) -> Any:
    """On one thread, without early stopping; features keep their codes."""
    categorical = rows.coding.categorical
    try:
        if training.estimator is not None:
            settings = {"n_jobs": 1, "random_state": seed, "deterministic": True, "verbosity": -1}
            if training.rounds is not None:
                settings |= {"n_estimators": training.rounds}
            copy: Any = clone(training.estimator)
            copy.set_params(**settings, early_stopping_round=None)
            return copy.fit(
                rows.table, rows.codes, sample_weight=rows.weights, categorical_feature=categorical or "auto"
            ).booster_
        data = lightgbm.Dataset(
            rows.table,
            rows.codes,
            weight=rows.weights,
            categorical_feature=categorical or "auto",
            free_raw_data=True,
        )
        settings = {**training.parameters, **_FIXED, "seed": seed}
        if training.custom is not None:
            settings["objective"] = _function(training.custom, int(settings.get("num_class", 1)))
        return lightgbm.train(
            settings, data, num_boost_round=training.rounds or 100, keep_training_booster=True
        )
    except (LightGBMError, ValueError) as error:
        raise FitError(
            f"LightGBM refused to train on {len(rows.codes)} examples: {error}", fix="read its message above."
        ) from error


def plain(training: Training, classes: int) -> Training | None:
    """The estimator's settings for ``train``; None with its own class weights or objective."""
    if training.estimator is None:
        return None
    found = dict(training.estimator.get_params())
    if (
        training.custom is not None
        or found.get("class_weight") is not None
        or callable(found.get("objective"))
    ):
        return None
    rounds = training.rounds or found["n_estimators"]
    usual = "regression" if not classes else "binary" if classes == 2 else "multiclass"
    settings = {key: value for key, value in found.items() if value is not None and key not in _OF_ESTIMATORS}
    settings = {"objective": usual, **settings}
    if classes > 2:
        settings["num_class"] = classes
    return Training(None, settings, rounds)


def coding(model: Any, examples: Examples) -> Coding:
    """Categories of a frame by its list; otherwise the numbers are the codes."""
    text = layout.parsed(_text(model))
    names = check_names(tuple(text.header["feature_names"].split(" ")), examples, "LightGBM")
    listed, by_code = text.pandas_categorical, frozenset(layout.categorical_columns(text))
    if not listed:
        return Coding(names, (None,) * len(names), by_code)
    words = [k for k, known in enumerate(coding_of(examples).categories) if known is not None]
    columns = words if len(words) == len(listed) else sorted(by_code)
    if len(columns) != len(listed):
        raise ModelError(
            f"the LightGBM model was trained on a frame with {len(listed)} categorical columns, and {examples.source} "
            f"has {len(words)} columns of text.",
            fix="give the frame as it was, with its categories as text.",
        )
    places = dict(zip(columns, listed, strict=True))
    return Coding(names, tuple(tuple(places[k]) if k in places else None for k in range(len(names))))


def objective(model: Any, training: Training, classes: int) -> Objective:
    """From the header of the text."""
    return layout.objective_of(_facts(model), training.custom)


def class_weights(model: Any, training: Training, rows: Rows) -> np.ndarray | None:
    """``class_weight`` of the estimator, times ``scale_pos_weight`` or ``is_unbalance``."""
    if rows.classes is None:
        return None
    factors = np.ones(len(rows.classes))
    balance = None if training.estimator is None else training.estimator.get_params().get("class_weight")
    if balance is not None:
        weighed = compute_sample_weight(balance, rows.labels)
        factors = np.array([weighed[np.argmax(rows.codes == k)] for k in range(len(factors))])
    return factors * _of_objective(model, rows)


def start(model: Any, objective: Objective, rows: Rows, weights: np.ndarray) -> np.ndarray | None:
    """LightGBM's averages of the labels, which leave out what its binary objective weighs classes by."""
    if rows.classes is not None:
        weights = weights / _of_objective(model, rows)[rows.codes.astype(np.int64)]
    return layout.start_of(_facts(model), objective, rows.codes, weights)


def forest(fitted: BoostedFitted) -> Forest:
    """The layout, from the model's text."""
    return layout.forest_of(layout.parsed(_text(fitted.model)), fitted.objective, fitted.start)


def table(fitted: BoostedFitted, features: np.ndarray) -> np.ndarray:
    """The features as they are."""
    return features


def raw(fitted: BoostedFitted, features: np.ndarray) -> np.ndarray:
    """Of the best iteration where training stopped early."""
    return np.asarray(fitted.model.predict(features, raw_score=True, num_threads=1))


def dump(model: Any) -> bytes:
    """LightGBM's text."""
    return _text(model).encode()


def load(content: bytes) -> Any:
    """A booster from its text."""
    return lightgbm.Booster(model_str=content.decode())


def _of_objective(model: Any, rows: Rows) -> np.ndarray:
    """What the binary objective itself weighs classes by: ``scale_pos_weight`` and ``is_unbalance``."""
    factors = np.ones(0 if rows.classes is None else len(rows.classes))
    if len(factors) != 2:
        return factors
    parameters = _facts(model).parameters
    if parameters.get("is_unbalance", "0") == "1":
        counts = np.bincount(rows.codes.astype(np.int64), minlength=2)
        factors *= counts.max() / counts
    factors[1] *= float(parameters.get("scale_pos_weight", 1))
    return factors


def _is_fitted(model: Any) -> bool:
    return bool(model.__sklearn_is_fitted__())


def _text(model: Any) -> str:
    """The model up to its best iteration, which is what it predicts with."""
    booster = native(model)
    return booster.model_to_string(
        num_iteration=booster.best_iteration if booster.best_iteration > 0 else None
    )


def _facts(model: Any) -> layout.Text:
    """Header and parameters, with the first round only: refits ask for them, and all trees take a while to write."""
    return layout.parsed(native(model).model_to_string(num_iteration=1))


def _function(custom: Custom, outputs: int) -> Any:
    def gradients(raw: np.ndarray, data: Any) -> tuple[np.ndarray, np.ndarray]:
        scores = np.reshape(raw, (-1, outputs), order="F")
        labels, weights = np.asarray(data.get_label(), dtype=np.float64), data.get_weight()
        factor = 1.0 if weights is None else np.asarray(weights)[:, None]
        parts = (np.reshape(f(scores, labels), scores.shape) for f in (custom.gradient, custom.hessian))
        first, second = (np.ravel(part * factor, order="F") for part in parts)
        return first, second

    return gradients
