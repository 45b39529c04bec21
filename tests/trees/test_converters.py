"""Every objective of every library: the layout predicts what the library does, and its leaves follow by its rule."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from steelyard.trees import catboost as catboost_layout
from steelyard.trees import lightgbm as lightgbm_layout
from steelyard.trees import sklearn as sklearn_layout
from steelyard.trees import xgboost as xgboost_layout
from steelyard.trees.forest import leaves, raw_scores
from tests.learners.boosted_cases import need
from tests.trees.recomputing import recomputed

pytestmark = [pytest.mark.trees, pytest.mark.reference]

ROUNDS = 5


def data(task, *, positive=False):
    """Numbers with holes and zeros, a column of codes, targets and weights."""
    draw = np.random.default_rng(3)
    x = draw.normal(size=(200, 5))
    x[draw.random(x.shape) < 0.1] = np.nan
    x[draw.random(x.shape) < 0.1] = 0.0
    codes = draw.integers(0, 8, len(x)).astype(float)
    signal = np.nan_to_num(x[:, 0]) - np.nan_to_num(x[:, 1]) ** 2 + 2.0 * np.isin(codes, [1, 4, 6])
    signal += 0.3 * draw.normal(size=len(x))
    labels = {"binary": signal > 0, "multiclass": np.digitize(signal, [-0.5, 0.5, 1.5])}.get(task, signal)
    labels = np.asarray(labels, dtype=np.float64)
    return np.c_[x, codes], np.exp(labels / 2) if positive else labels, draw.uniform(0.5, 2, len(x))


def agree(forest, table, labels, weights, raw):
    numbers = leaves(forest, table)
    scale = max(1.0, np.abs(raw).max())
    tolerance = 1e-5 if forest.single else 1e-6
    assert np.abs(raw_scores(forest, numbers) - raw.reshape(len(labels), -1)).max() <= tolerance * scale
    if forest.leaf_rule != "renewed":
        values = recomputed(forest, numbers, labels, weights)
        assert np.abs(values - forest.values).max() <= 1e-5 * np.abs(forest.values).max()


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        *[
            ("regression", {"objective": name})
            for name in ("regression", "regression_l1", "huber", "quantile")
        ],
        *[("positive", {"objective": name}) for name in ("poisson", "gamma", "tweedie")],
        ("regression", {"objective": "regression", "lambda_l1": 3, "lambda_l2": 2, "max_delta_step": 0.3}),
        ("regression", {"objective": "regression", "zero_as_missing": True}),
        ("regression", {"objective": "regression", "use_missing": False}),
        ("regression", {"objective": "regression", "learning_rate": 1.0}),
        ("regression", {"objective": "regression", "boost_from_average": False}),
        ("binary", {"objective": "binary", "sigmoid": 2.0}),
        ("binary", {"objective": "cross_entropy"}),
        ("multiclass", {"objective": "multiclass", "num_class": 4}),
        ("multiclass", {"objective": "multiclassova", "num_class": 4}),
    ],
    ids=str,
)
def test_lightgbm(task, settings):
    lightgbm = need("lightgbm")
    x, y, w = data(task, positive=task == "positive")
    usual = {
        "verbosity": -1,
        "num_threads": 1,
        "num_leaves": 6,
        "min_data_in_leaf": 5,
        "min_data_per_group": 5,
    }
    rows = lightgbm.Dataset(x, y, weight=w, categorical_feature=[5])
    booster = lightgbm.train({**usual, "cat_smooth": 1, **settings}, rows, ROUNDS)
    text = lightgbm_layout.parsed(booster.model_to_string())
    objective = lightgbm_layout.objective_of(text)
    forest = lightgbm_layout.forest_of(text, objective, lightgbm_layout.start_of(text, objective, y, w))
    agree(forest, x, y, w, booster.predict(x, raw_score=True))
    assert np.array_equal(leaves(forest, x), booster.predict(x, pred_leaf=True).reshape(len(y), -1))


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        (
            "regression",
            {"objective": "reg:squarederror", "reg_alpha": 1, "max_delta_step": 0.5, "base_score": 0.7},
        ),
        ("regression", {"objective": "reg:squarederror", "max_cat_to_onehot": 1, "max_cat_threshold": 3}),
        ("regression", {"objective": "reg:absoluteerror"}),
        ("regression", {"objective": "reg:pseudohubererror", "huber_slope": 2}),
        ("regression", {"objective": "reg:quantileerror", "quantile_alpha": 0.3}),
        *[("positive", {"objective": name}) for name in ("count:poisson", "reg:gamma", "reg:tweedie")],
        ("binary", {"objective": "binary:logistic"}),
        ("binary", {"objective": "binary:logitraw", "base_score": 0.3}),
        ("multiclass", {"objective": "multi:softprob", "num_class": 4}),
    ],
    ids=str,
)
def test_xgboost(task, settings):
    xgboost = need("xgboost")
    x, y, w = data(task, positive=task == "positive")
    rows = xgboost.DMatrix(
        x, y, weight=w, feature_types=["q"] * 5 + ["c"], enable_categorical=True, nthread=1
    )
    booster = xgboost.train({"nthread": 1, "max_depth": 3, "lambda": 1.5, **settings}, rows, ROUNDS)
    model = json.loads(bytes(booster.save_raw("json")).decode())
    config = json.loads(booster.save_config())["learner"]["gradient_booster"]["tree_train_param"]
    forest = xgboost_layout.forest_of(model, config, xgboost_layout.objective_of(model["learner"], {}))
    agree(forest, x, y, w, booster.predict(rows, output_margin=True))


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        *[
            ("regression", {"loss_function": name})
            for name in ("RMSE", "MAE", "Huber:delta=0.5", "Quantile:alpha=0.3")
        ],
        *[("positive", {"loss_function": name}) for name in ("Poisson", "Tweedie:variance_power=1.5")],
        ("regression", {"loss_function": "RMSE", "grow_policy": "Lossguide"}),
        ("regression", {"loss_function": "RMSE", "grow_policy": "Depthwise"}),
        ("binary", {"loss_function": "Logloss"}),
        ("binary", {"loss_function": "Logloss", "leaf_estimation_method": "Gradient"}),
        ("multiclass", {"loss_function": "MultiClass"}),
        ("multiclass", {"loss_function": "MultiClassOneVsAll", "leaf_estimation_iterations": 1}),
    ],
    ids=str,
)
def test_catboost(task, settings):
    catboost = need("catboost")
    x, y, w = data(task, positive=task == "positive")
    usual = {
        "depth": 3,
        "verbose": False,
        "thread_count": 1,
        "allow_writing_files": False,
        "iterations": ROUNDS,
    }
    model = catboost.CatBoost({**usual, **settings}).fit(catboost.Pool(x, y, weight=w, thread_count=1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.json"
        model.save_model(str(path), format="json")
        content = json.loads(path.read_text())
    raw = np.asarray(model.predict(x, prediction_type="RawFormulaVal")).reshape(len(y), -1)
    objective = catboost_layout.objective_of(content, raw.shape[1])
    columns = catboost_layout.columns_of(content)
    forest = catboost_layout.forest_of(content, objective, float(w.mean()))
    agree(forest, x[:, list(columns.numeric)], y, w, raw)


@pytest.mark.parametrize(
    ("name", "task", "settings"),
    [
        *[
            ("GradientBoosting", "regression", {"loss": name})
            for name in ("squared_error", "absolute_error", "quantile")
        ],
        ("GradientBoosting", "binary", {}),
        ("GradientBoosting", "multiclass", {}),
        *[
            ("HistGradientBoosting", "regression", {"loss": name})
            for name in ("squared_error", "absolute_error")
        ],
        *[("HistGradientBoosting", "positive", {"loss": name}) for name in ("poisson", "gamma")],
        ("HistGradientBoosting", "regression", {"loss": "quantile", "quantile": 0.3}),
        ("HistGradientBoosting", "binary", {"l2_regularization": 2.0}),
        ("HistGradientBoosting", "multiclass", {}),
    ],
    ids=str,
)
def test_sklearn(name, task, settings):
    histogram = name.startswith("Hist")
    x, y, w = data(task, positive=task == "positive")
    x = x if histogram else np.nan_to_num(x).astype(np.float32)
    kind = "Classifier" if task in ("binary", "multiclass") else "Regressor"
    usual = {"max_iter": ROUNDS, "categorical_features": [5]} if histogram else {"n_estimators": ROUNDS}
    model = getattr(need("hist"), name + kind)(**{**usual, **settings}).fit(x, y, sample_weight=w)
    objective = sklearn_layout.objective_of(model, len(getattr(model, "classes_", ())))
    table = model._preprocess_X(x, reset=False) if histogram else x.astype(np.float64)
    agree(sklearn_layout.forest_of(model, objective), table, y, w, model._raw_predict(x))


@pytest.mark.parametrize(("eta", "l2"), [(0.1, 7.0), (0.3, 0.0), (1.0, 1.0)])
def test_learning_rate_and_l2_are_read_off_xgboosts_trees(eta, l2):
    xgboost = need("xgboost")
    x, y, w = data("binary")
    rows = xgboost.DMatrix(x[:, :5], y, weight=w, nthread=1)
    settings = {"objective": "binary:logistic", "nthread": 1, "eta": eta, "lambda": l2, "subsample": 0.7}
    booster = xgboost.train(settings, rows, ROUNDS)
    model = json.loads(bytes(booster.save_raw("json")).decode())
    found = xgboost_layout.penalties_of(model, {})
    assert np.isclose(found["eta"], eta, rtol=1e-3) and np.isclose(found["lambda"], l2, atol=5e-3)
    with_l1 = xgboost.train({**settings, "alpha": 2.0}, rows, ROUNDS)
    assert xgboost_layout.penalties_of(json.loads(bytes(with_l1.save_raw("json")).decode()), {}) == {}
