"""What boosted trees cannot be explained by, each with an error that says what to do."""

import json
import re

import numpy as np
import pytest

import steelyard as sy
from steelyard.cli.model import DataOptions, load_problem
from steelyard.errors import CapabilityError, DataError, FitError, ModelError, SettingError, ShapeError
from tests.learners.boosted_cases import LIBRARIES, estimator, examples, learner, need

pytestmark = pytest.mark.trees

LINEAR = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7"]


def numeric(task="binary", *, order=None, rows=slice(None)):
    train = examples(task, plain=True, weighted=False)
    names = order or LINEAR
    columns = {name: np.asarray(train.column(name)[:])[rows] for name in names}
    return sy.read({**columns, "label": train.labels()[rows]}, features=list(names))


def named_booster(library="lightgbm", **settings):
    """A booster that knows the names of its columns."""
    module, train = need(library), numeric()
    x = np.stack([np.asarray(train.column(name)[:]) for name in LINEAR], axis=1)
    if library == "lightgbm":
        usual = {"objective": "binary", "verbosity": -1, "num_threads": 1, "num_leaves": 6, **settings}
        return module.train(usual, module.Dataset(x, train.labels(), feature_name=LINEAR), 6)
    usual = {
        "objective": "binary:logistic",
        "nthread": 1,
        "max_depth": 3,
        "eta": 0.1,
        "lambda": 4.0,
        **settings,
    }
    usual = {name: value for name, value in usual.items() if value is not None}
    return module.train(usual, module.DMatrix(x, train.labels(), feature_names=LINEAR), 6)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_other_columns_or_another_order(library):
    boosted = sy.learners.Boosted(named_booster(library))
    swapped = numeric(order=["n1", "n0", *LINEAR[2:]])
    with pytest.raises(ModelError, match="another order: feature 0 is 'n0' there and 'n1' here"):
        boosted.check(swapped, swapped)
    fewer = numeric(order=LINEAR[:7])
    with pytest.raises(ModelError, match="also reads 'n7'"):
        boosted.check(fewer, fewer)
    arrays = sy.read((np.zeros((4, 5)), np.array([0, 1, 0, 1])))
    with pytest.raises(ShapeError, match="has 5 features, the .* model reads 8"):
        boosted.check(arrays, arrays)


@pytest.mark.parametrize("library", ["catboost", "hist", "plain"])
def test_other_columns_or_another_order_of_estimators(library):
    frame = pytest.importorskip("pandas").DataFrame
    train = numeric()
    x = frame({name: np.asarray(train.column(name)[:]) for name in LINEAR})
    boosted = sy.learners.Boosted(estimator(library, "binary").fit(x, train.labels()), trained=True)
    boosted.explained(train)
    with pytest.raises(ModelError, match="another order: feature 0 is 'n0' there and 'n1' here"):
        boosted.explained(numeric(order=["n1", "n0", *LINEAR[2:]]))
    with pytest.raises(ModelError, match="also reads 'n7'"):
        boosted.explained(numeric(order=LINEAR[:7]))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_training_set_that_the_model_has_not_seen(library):
    boosted = learner(library, "binary")
    train = numeric()
    fitted = boosted.fit(train)
    own = boosted.explaining(fitted)
    own.explained(train)
    other = numeric(rows=slice(0, 200))
    with pytest.raises(ModelError, match="was not trained on arrays"):
        own.explained(other)


def test_rows_drawn_at_random_are_no_other_training_set():
    boosted = sy.learners.Boosted(named_booster(bagging_fraction=0.5, bagging_freq=1, seed=3))
    fitted = boosted.explained(numeric())
    assert "drawn at random" in " ".join(boosted.leaf_notes(fitted))
    with pytest.raises(ModelError, match="was not trained on"):
        boosted.explained(numeric(rows=slice(0, 90)))


@pytest.mark.parametrize(
    ("library", "settings", "rows"),
    [
        ("lightgbm", {"subsample": 0.7, "subsample_freq": 1, "colsample_bytree": 0.5}, "grown on 70%"),
        ("xgboost", {"subsample": 0.7, "colsample_bytree": 0.5}, "grown on 70%"),
        ("catboost", {"bootstrap_type": "Bernoulli", "subsample": 0.7, "rsm": 0.5}, "found on 70%"),
        ("hist", {"max_features": 0.5}, ""),
        ("plain", {"subsample": 0.7, "max_features": 0.5}, "grown on 70%"),
    ],
)
def test_drawn_rows_and_columns_are_recorded_and_told(library, settings, rows):
    train = numeric(rows=slice(0, 160)) if library != "plain" else examples("binary", plain=True)
    problem = sy.Problem(learner(library, "binary", **settings), train, train.take(np.arange(4)))
    forest = problem.learner.forest(problem.learner.explained(train))
    assert np.allclose((forest.row_share, forest.column_share), (0.7 if rows else 1.0, 0.5))
    notes = " ".join(sy.score.TreeSim()(problem).provenance.notes)
    assert rows in notes and "columns were drawn at random" in notes and "as few as 50%" in notes


def test_labels_that_are_missing_or_of_another_kind():
    boosted, train = learner("hist", "regression"), examples("regression")
    labels = train.labels().copy()
    labels[3] = np.nan
    with pytest.raises(DataError, match="the label of example .* is nan"):
        boosted.check(train.with_column("label", labels, checksum="x"), train)
    words = train.with_column("label", np.array(["a"] * len(train), dtype=object), checksum="y")
    with pytest.raises(DataError, match="holds text, and the model is a regression"):
        boosted.check(words, words)
    classes = examples("binary")
    unseen = classes.with_column("label", np.full(len(classes), 7), checksum="z")
    with pytest.raises(DataError, match="has the label"):
        learner("hist", "binary").check(classes, unseen)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost", "hist"])
def test_categories_that_training_has_not_seen(library):
    boosted, train = learner(library, "binary"), examples("binary")
    words = np.asarray(train.column("tree")[:]).copy()
    words[5] = "baobab"
    query = train.with_column("tree", words, checksum="q")
    with pytest.raises(DataError, match="'baobab' in column 'tree', a category that training"):
        boosted.check(train, query)


def test_files_of_newer_releases_and_of_other_kinds(tmp_path):
    need("lightgbm")
    path = tmp_path / "m.txt"
    path.write_text(named_booster().model_to_string().replace("version=v4", "version=v9", 1))
    with pytest.raises(ModelError, match="version 'v9'"):
        sy.learners.Boosted(path)
    path.write_text("hello")
    with pytest.raises(ModelError, match="not in LightGBM's text format"):
        sy.learners.Boosted(path)
    need("xgboost")
    content = json.loads(bytes(named_booster("xgboost").save_raw("json")).decode())
    content["version"] = [9, 0, 0]
    path = tmp_path / "m.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"written by XGBoost 9\.0\.0"):
        sy.learners.Boosted(path)
    path.write_text("{}")
    with pytest.raises(ModelError, match="no XGBoost model"):
        sy.learners.Boosted(path)
    need("catboost")
    path = tmp_path / "m.cbm"
    path.write_bytes(b"CBM1 nothing of the kind")
    with pytest.raises(ModelError, match="cannot read"):
        sy.learners.Boosted(path)
    with pytest.raises(DataError, match="not a file"):
        sy.learners.Boosted(tmp_path / "none.txt")


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_a_booster_is_trained_again_by_its_own_parameters(library):
    boosted, train = sy.learners.Boosted(named_booster(library)), numeric()
    fitted = boosted.explained(train)
    assert np.abs(boosted.measure(boosted.fit(train), train) - boosted.measure(fitted, train)).max() < 1e-6


def test_weights_of_zero():
    boosted, train = learner("hist", "binary"), examples("binary", weighted=False)
    with pytest.raises(FitError, match="all weights are 0"):
        boosted.fit(train, np.zeros(len(train)))
    with pytest.raises(SettingError, match="negative"):
        boosted.fit(train, np.full(len(train), -1.0))
    with pytest.raises(FitError, match="has not seen the class"):
        fitted = boosted.fit(train, (train.labels() == 1).astype(float))
        boosted.measure(fitted, train)


@pytest.mark.parametrize("library", LIBRARIES)
def test_examples_of_weight_zero_are_absent(library):
    rows = examples("binary", plain=library == "plain", weighted=False).take(slice(0, 120))
    weights = np.ones(len(rows))
    weights[::4] = 0.0
    train = rows.with_column("weight", weights, checksum="w")
    boosted = learner(library, "binary")
    problem = sy.Problem(boosted, train, rows.take(np.arange(5)))
    for method in (sy.score.BoostIn(), sy.score.LeafInfluence(), sy.score.TreeSim()):
        found = method(problem).values
        assert not found[::4].any() and found[1::4].any()
    without = boosted.fit(rows.take(np.flatnonzero(weights)))
    assert np.array_equal(boosted.measure(boosted.explained(train), rows), boosted.measure(without, rows))


def test_a_leaf_that_no_example_reaches():
    catboost = need("catboost")
    draw = np.random.default_rng(0)
    x = draw.normal(size=(40, 2))
    train = sy.read((x, (x[:, 0] + x[:, 1] > 0).astype(np.int64)))
    model = catboost.CatBoostClassifier(
        iterations=6, depth=4, verbose=False, thread_count=1, allow_writing_files=False
    )
    boosted = sy.learners.Boosted(model)
    fitted = boosted.explained(train)
    empty = fitted.forest.covers == 0
    assert empty.any() and not fitted.forest.values[empty].any()


@pytest.mark.parametrize(
    ("library", "settings", "message"),
    [
        ("lightgbm", {"boosting": "dart"}, "boosting='dart' is not supported"),
        ("lightgbm", {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "boosting='rf' is not"),
        ("lightgbm", {"linear_tree": True}, "linear trees are not supported"),
        ("xgboost", {"booster": "dart"}, "booster 'dart' is not supported"),
        ("xgboost", {"booster": "gblinear", "max_depth": None}, "booster 'gblinear' is not supported"),
        ("xgboost", {"num_parallel_tree": 3}, "random forests"),
    ],
)
def test_models_that_have_no_layout(library, settings, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        boosted = sy.learners.Boosted(named_booster(library, **settings))
        boosted.explained(numeric())


def test_rankings_are_refused():
    lightgbm = need("lightgbm")
    x = np.random.default_rng(0).normal(size=(60, 3))
    data = lightgbm.Dataset(x, np.arange(60) % 3, group=[20, 20, 20])
    booster = lightgbm.train({"objective": "lambdarank", "verbosity": -1, "num_threads": 1}, data, 2)
    train = sy.read((x, np.arange(60) % 3))
    with pytest.raises(ModelError, match="'lambdarank' is not supported. It ranks"):
        sy.learners.Boosted(booster).explained(train)


def test_an_xgboost_file_is_explained_but_not_trained_again_without_parameters(tmp_path):
    need("xgboost")
    path, train = tmp_path / "m.json", numeric()
    booster = named_booster("xgboost")
    booster.save_model(path)
    boosted = sy.learners.Boosted(path)
    fitted = boosted.explained(train)
    # Neither is in the file: both are read off the trees.
    assert np.allclose(fitted.forest.shrinkage, 0.1, rtol=1e-3)
    assert np.allclose(fitted.forest.l2, 4.0, rtol=1e-2)
    with pytest.raises(CapabilityError, match="does not hold its training parameters"):
        boosted.fit(train)
    again = sy.learners.Boosted(path, parameters={"eta": 0.1, "lambda": 4.0, "max_depth": 3})
    gap = again.measure(again.fit(train), train) - boosted.measure(fitted, train)
    assert np.abs(gap).max() < 1e-6


def test_the_command_line_says_what_is_wrong_with_columns(tmp_path):
    need("lightgbm")
    booster, train = named_booster(), numeric()
    booster.save_model(tmp_path / "m.txt")
    rows = [",".join([*LINEAR, "answer"])]
    rows += [",".join(str(train.column(name)[k]) for name in [*LINEAR, "label"]) for k in range(len(train))]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    path, model = str(tmp_path / "rows.csv"), str(tmp_path / "m.txt")
    good = load_problem(model, DataOptions(path, path, label="answer"), seed=0, trust=False)
    assert good.learner.check(good.train, good.query) == ()
    few = load_problem(model, DataOptions(path, path, label="answer", features="n1,n0"), seed=0, trust=False)
    with pytest.raises(ModelError, match="other columns .* also reads 'n2'"):
        few.learner.check(few.train, few.query)
    with pytest.raises(SettingError, match="no file of boosted trees, and --parameter"):
        load_problem("m.py:build", DataOptions(parameters=["eta=1"]), seed=0, trust=False)


def test_unfitted_and_foreign_models():
    with pytest.raises(ModelError, match="is not fitted"):
        sy.learners.Boosted(estimator("hist", "binary"), trained=True)
    with pytest.raises(ModelError, match="no model of boosted trees"):
        sy.learners.Boosted(object())
