"""Small tables with categories, missing values and weights, and a model of every library trained on them."""

import functools
import importlib

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits

import steelyard as sy

LIBRARIES = ("lightgbm", "xgboost", "catboost", "hist", "plain")
TASKS = ("regression", "binary", "multiclass")
ROUNDS = 8
_PACKAGES = {"lightgbm": "lightgbm", "xgboost": "xgboost", "catboost": "catboost"}


def need(library):
    """The library's package, or a skip."""
    if library in _PACKAGES:
        return pytest.importorskip(_PACKAGES[library], reason=f"{library} is not installed: steelyard[trees]")
    return importlib.import_module("sklearn.ensemble")


@functools.cache
def table(task, *, plain=False, rows=240):
    """Features, labels and weights; the last column holds one of six words (numbers where plain)."""
    load = {"regression": load_diabetes, "binary": load_breast_cancer, "multiclass": load_digits}[task]
    x, y = load(return_X_y=True)
    if task == "multiclass":
        x, y = x[y < 3, 10:30], y[y < 3]
    x, y = x[:rows, :8].copy(), y[:rows].astype(np.float64 if task == "regression" else np.int64)
    draw = np.random.default_rng(7)
    words = np.array(["ash", "birch", "cedar", "elm", "fir", "oak"])[draw.integers(0, 6, len(y))]
    if task == "regression":
        y = y + 60.0 * np.isin(words, ["birch", "oak"])
    if not plain:
        x[draw.random(x.shape) < 0.05] = np.nan
    return x, words, y, draw.choice([0.5, 1.0, 2.0], len(y))


def examples(task, *, plain=False, weighted=True, words=None):
    """The table as examples."""
    x, found, y, weights = table(task, plain=plain)
    columns = {f"n{k}": x[:, k] for k in range(x.shape[1])}
    if not plain:
        columns["tree"] = (found if words is None else words).astype(object)
    columns |= {"label": y}
    if weighted:
        columns |= {"weight": weights}
    features = [name for name in columns if name not in ("label", "weight")]
    return sy.read(columns, features=features, missing=True)


def estimator(library, task, **settings):
    """An unfitted estimator of a library."""
    module = need(library)
    kind = "Regressor" if task == "regression" else "Classifier"
    if library == "lightgbm":
        usual = {
            "n_estimators": ROUNDS,
            "num_leaves": 6,
            "verbosity": -1,
            "min_child_samples": 5,
            "n_jobs": 1,
        }
        return getattr(module, f"LGBM{kind}")(**{**usual, "min_data_per_group": 5, **settings})
    if library == "xgboost":
        usual = {"n_estimators": ROUNDS, "max_depth": 3, "n_jobs": 1, "learning_rate": 0.2, "reg_lambda": 2.0}
        return getattr(module, f"XGB{kind}")(**{**usual, **settings})
    if library == "catboost":
        usual = {
            "iterations": ROUNDS,
            "depth": 3,
            "one_hot_max_size": 10,
            "verbose": False,
            "thread_count": 1,
        }
        return getattr(module, f"CatBoost{kind}")(**{**usual, "allow_writing_files": False, **settings})
    if library == "hist":
        return getattr(module, f"HistGradientBoosting{kind}")(
            **{"max_iter": ROUNDS, "max_leaf_nodes": 6, **settings}
        )
    return getattr(module, f"GradientBoosting{kind}")(**{"n_estimators": ROUNDS, "max_depth": 3, **settings})


def learner(library, task, *, measurement="loss", **settings):
    """The learner of an unfitted estimator."""
    return sy.learners.Boosted(estimator(library, task, **settings), measurement=measurement)
