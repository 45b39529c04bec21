"""Models as people train them: stopped early, by an objective of their own, on named categories, of several outputs."""

import numpy as np
import pytest

import steelyard as sy
from steelyard.errors import CapabilityError, DataError, ModelError
from steelyard.trees.forest import raw_scores
from steelyard.trees.objectives import Custom
from tests.learners.boosted_cases import need, table
from tests.trees.recomputing import recomputed

pytestmark = pytest.mark.trees


def split(task="binary"):
    """Training and held-out rows of numbers."""
    x, _, y, _ = table(task, plain=True)
    return x[:160], y[:160], x[160:], y[160:]


def check(boosted, train, raw, rounds):
    """The layout gives the library's raw scores after so many rounds, and its leaves follow from the rows."""
    fitted = boosted.explained(train)
    numbers = boosted.leaves(fitted, train)
    assert fitted.forest.rounds == rounds
    assert np.abs(raw_scores(fitted.forest, numbers) - raw.reshape(len(train), -1)).max() < 1e-5
    weights = boosted.leaf_weights(fitted, train)
    values = recomputed(fitted.forest, numbers, boosted.targets(fitted, train), weights)
    assert np.abs(values - fitted.forest.values).max() <= 2e-5 * np.abs(fitted.forest.values).max()
    return fitted


def test_lightgbm_stopped_early_keeps_its_best_round():
    lightgbm = need("lightgbm")
    x, y, held, answers = split()
    rows, settings = lightgbm.Dataset(x, y), {"objective": "binary", "learning_rate": 0.5, "num_leaves": 6}
    model = lightgbm.train(
        {**settings, "verbosity": -1, "num_threads": 1},
        rows,
        200,
        valid_sets=[rows.create_valid(held, answers)],
        callbacks=[lightgbm.early_stopping(3, verbose=False)],
        keep_training_booster=True,  # with the rounds behind the best one
    )
    assert 0 < model.best_iteration < model.current_iteration()
    boosted, train = sy.learners.Boosted(model), sy.read((x, y))
    fitted = check(boosted, train, model.predict(x, raw_score=True), model.best_iteration)
    # Trained again without the held-out rows, it stops where the model did.
    again = boosted.fit(train)
    assert np.abs(boosted.measure(again, train) - boosted.measure(fitted, train)).max() < 1e-6


def test_xgboost_stopped_early_keeps_its_best_round():
    xgboost = need("xgboost")
    x, y, held, answers = split()
    model = xgboost.XGBClassifier(
        n_estimators=200, learning_rate=0.7, n_jobs=1, early_stopping_rounds=3, max_depth=3
    )
    model.fit(x, y, eval_set=[(held, answers)], verbose=False)
    rounds = model.best_iteration + 1
    assert rounds < model.get_booster().num_boosted_rounds()
    boosted, train = sy.learners.Boosted(model, trained=True), sy.read((x, y))
    fitted = check(boosted, train, model.predict(x, output_margin=True), rounds)
    again = boosted.fit(train)
    assert np.abs(boosted.measure(again, train) - boosted.measure(fitted, train)).max() < 1e-6


def _asymmetric(raw, labels):
    """Squared error, three times as dear where the prediction is too low."""
    residual = raw - labels[:, None]
    return residual, np.where(residual < 0, 3.0, 1.0)


OWN = Custom(
    gradient=lambda raw, labels: np.prod(_asymmetric(raw, labels), axis=0),
    hessian=lambda raw, labels: _asymmetric(raw, labels)[1],
    loss=lambda raw, labels: (_asymmetric(raw, labels)[1] * _asymmetric(raw, labels)[0] ** 2 / 2)[:, 0],
)


def _given(raw, labels):
    return OWN.gradient(raw[:, None], labels)[:, 0], OWN.hessian(raw[:, None], labels)[:, 0]


def test_lightgbm_with_an_objective_of_ones_own():
    lightgbm = need("lightgbm")
    x, y, *_ = split("regression")
    y = y / 100
    usual = {"verbosity": -1, "num_threads": 1, "num_leaves": 6}
    booster = lightgbm.train(
        {**usual, "objective": lambda raw, data: _given(raw, data.get_label())}, lightgbm.Dataset(x, y), 5
    )
    train = sy.read((x, y))
    boosted = sy.learners.Boosted(booster, objective=OWN)
    fitted = check(boosted, train, booster.predict(x), 5)
    assert np.allclose(boosted.measure(fitted, train), OWN.loss(booster.predict(x)[:, None], y))
    without = sy.learners.Boosted(booster, objective=Custom(OWN.gradient, OWN.hessian))
    with pytest.raises(CapabilityError, match="without its loss"):
        without.measure(without.explained(train), train)


def test_xgboost_with_an_objective_of_ones_own():
    xgboost = need("xgboost")
    x, y, *_ = split("regression")
    y = y / 100
    data = xgboost.DMatrix(x, y, nthread=1)
    booster = xgboost.train(
        {"nthread": 1, "max_depth": 3, "base_score": 0.5},
        data,
        5,
        obj=lambda raw, rows: _given(raw, rows.get_label()),
    )
    train = sy.read((x, y))
    boosted = sy.learners.Boosted(booster, objective=OWN)
    fitted = check(boosted, train, booster.predict(data, output_margin=True), 5)
    raw = booster.predict(data, output_margin=True).astype(np.float64)[:, None]
    assert np.allclose(boosted.measure(fitted, train), OWN.loss(raw, y), atol=1e-5)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_named_categories_of_pandas(library):
    pandas = pytest.importorskip("pandas")
    module = need(library)
    x, words, y, _ = table("binary")
    # In an order of their own: codes are places in it, not in the alphabet.
    order = ["oak", "ash", "fir", "elm", "cedar", "birch"]
    y = np.where(np.isin(words, ["oak", "elm"]), 1 - y, y)
    frame = pandas.DataFrame({"n0": x[:, 0], "tree": pandas.Categorical(words, order), "n1": x[:, 1]})
    settings = {"n_estimators": 6, "n_jobs": 1}
    if library == "lightgbm":
        few = {"min_data_per_group": 5, "min_child_samples": 5, "verbosity": -1, "num_leaves": 8}
        model = module.LGBMClassifier(**settings, **few).fit(frame, y)
        raw = model.predict(frame, raw_score=True)
    else:
        model = module.XGBClassifier(**settings, max_depth=3, enable_categorical=True).fit(frame, y)
        raw = model.predict(frame, output_margin=True)
    columns = {"n0": x[:, 0], "tree": words.astype(object), "n1": x[:, 1], "label": y}
    train = sy.read(columns, features=["n0", "tree", "n1"], missing=True)
    boosted = sy.learners.Boosted(model, trained=True)
    if library == "xgboost" and tuple(map(int, module.__version__.split(".")[:2])) < (3, 1):
        # Such a model has codes and no names: which word had which code cannot be known.
        with pytest.raises(DataError, match="'tree' holds text, and the model reads it as a number"):
            boosted.explained(train)
        codes = np.array([order.index(word) for word in words])
        train = train.with_column("tree", codes, checksum="codes")
    fitted = check(boosted, train, raw, 6)
    assert (fitted.forest.category >= 0).any()


@pytest.mark.parametrize("task", ["regression", "multiclass"])
def test_xgboosts_trees_of_several_outputs_are_refused(task):
    xgboost = need("xgboost")
    x, y, *_ = split(task)
    settings = {"nthread": 1, "multi_strategy": "multi_output_tree", "tree_method": "hist", "max_depth": 2}
    if task == "multiclass":
        settings |= {"objective": "multi:softprob", "num_class": 3}
    several = np.stack([y, -y], axis=1) if task == "regression" else y
    booster = xgboost.train(settings, xgboost.DMatrix(x, several, nthread=1), 3)
    with pytest.raises(ModelError, match="several (targets|outputs)"):
        sy.learners.Boosted(booster).explained(sy.read((x, y)))
