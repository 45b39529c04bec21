"""The learner of boosted trees: fits, weights, leaves and measurements, for every library alike."""

import numpy as np
import pytest

import steelyard as sy
from steelyard.errors import CapabilityError, SettingError
from steelyard.learners.boosted_measures import measured, slopes
from steelyard.problem import HasLeaves, HasPredictions, HasState, HasVariants
from steelyard.trees.forest import raw_scores
from tests.learners.boosted_cases import LIBRARIES, TASKS, estimator, examples, learner
from tests.trees.recomputing import recomputed

pytestmark = pytest.mark.trees

ALL = [(library, task) for library in LIBRARIES for task in TASKS]


@pytest.fixture(params=ALL, ids=lambda pair: "-".join(pair))
def case(request):
    library, task = request.param
    return library, task, learner(library, task), examples(task, plain=library == "plain")


def test_leaves_give_the_librarys_predictions_and_values(case):
    library, task, boosted, train = case
    fitted = boosted.explained(train)
    forest, numbers = boosted.forest(fitted), boosted.leaves(fitted, train)
    tolerance = 1e-5 if forest.single else 1e-6
    raw = fitted.raw(fitted.coding.table(train))
    assert np.abs(raw_scores(forest, numbers) - raw).max() <= tolerance * max(1.0, np.abs(raw).max())
    values = recomputed(forest, numbers, boosted.targets(fitted, train), boosted.leaf_weights(fitted, train))
    assert np.abs(values - forest.values).max() <= 2e-5 * np.abs(forest.values).max()
    assert forest.rounds <= 8 and forest.trees == len(forest.output)


def test_a_fit_repeats_itself_and_absence_is_weight_zero(case):
    _, _, boosted, train = case
    kept = np.ones(len(train))
    kept[::5] = 0.0
    first, second = (boosted.measure(boosted.fit(train, kept), train) for _ in range(2))
    assert np.array_equal(first, second)
    without = boosted.fit(train.take(np.flatnonzero(kept)))
    assert np.array_equal(boosted.measure(without, train), first)
    assert not np.array_equal(boosted.measure(boosted.fit(train), train), first)


def test_what_is_kept_answers_alike(case):
    library, _, boosted, train = case
    fitted = boosted.explained(train)
    back = boosted.restore(boosted.dump(fitted))
    assert np.abs(boosted.measure(back, train) - boosted.measure(fitted, train)).max() < 1e-9
    assert np.array_equal(boosted.leaves(back, train), boosted.leaves(fitted, train))
    assert np.array_equal(boosted.leaf_weights(back, train), boosted.leaf_weights(fitted, train))
    assert all(array.dtype.kind != "O" for array in boosted.dump(fitted).values())


def test_the_users_own_model_is_explained(case):
    library, task, boosted, train = case
    fitted = boosted.explained(train)
    own = boosted.explaining(fitted)
    again = own.explained(train)
    assert own.trained and np.array_equal(own.measure(again, train), boosted.measure(fitted, train))
    assert np.array_equal(own.leaves(again, train), boosted.leaves(fitted, train))
    assert own.fingerprint() != boosted.fingerprint()
    # Trained again, it is the same model: parameters, rounds and coding were read from it.
    retrained = own.fit(train)
    gap = np.abs(own.measure(retrained, train) - boosted.measure(fitted, train)).max()
    assert gap < 1e-6 * max(1.0, np.abs(own.measure(again, train)).max())


@pytest.mark.parametrize("measurement", ["loss", "margin", "lead", "log_probability"])
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_slopes_are_derivatives(task, measurement):
    boosted, train = learner("hist", task, measurement=measurement), examples(task)
    fitted = boosted.explained(train)
    raw = fitted.raw(fitted.coding.table(train))[:20]
    labels, found = boosted.targets(fitted, train)[:20], np.zeros_like(raw)
    for output in range(raw.shape[1]):
        step = 1e-4 * (np.arange(raw.shape[1]) == output)
        up, down = (measured(fitted.objective, raw + s * step, labels, measurement) for s in (1, -1))
        found[:, output] = (up - down) / 2e-4
    assert np.abs(slopes(fitted.objective, raw, labels, measurement) - found).max() < 1e-6
    assert np.array_equal(
        boosted.measure(fitted, train)[:20], measured(fitted.objective, raw, labels, measurement)
    )


def test_measurements_agree_with_one_another():
    boosted, train = learner("hist", "binary"), examples("binary")
    fitted = boosted.explained(train)
    logs, lead, right = (
        boosted.measuring(name).measure(fitted, train) for name in ("log_probability", "lead", "accuracy")
    )
    assert np.allclose(logs, -boosted.measure(fitted, train))
    assert np.array_equal(lead > 0, right == 1.0)
    chances = boosted.probabilities(fitted, train)
    assert np.allclose(chances, fitted.model.predict_proba(fitted.coding.texts(fitted.coding.table(train))))
    with pytest.raises(CapabilityError, match="jumps"):
        boosted.measuring("accuracy").sensitivity(fitted, train, np.zeros((len(train), 1)))
    with pytest.raises(SettingError, match="needs classes"):
        learner("hist", "regression").measuring("margin")


def test_the_learner_offers_what_methods_ask_for():
    boosted = learner("hist", "binary")
    assert all(isinstance(boosted, kind) for kind in (HasLeaves, HasPredictions, HasState, HasVariants))


def test_text_labels_and_class_weights():
    train = examples("binary", weighted=False)
    words = np.array(["bad", "good"], dtype=object)[train.labels()]
    named = train.with_column("label", words, checksum="named")
    boosted = sy.learners.Boosted(estimator("hist", "binary", class_weight="balanced"))
    fitted = boosted.explained(named)
    weights = boosted.leaf_weights(fitted, named)
    assert np.array_equal(fitted.classes, ["bad", "good"])
    assert np.isclose(weights[words == "bad"].sum(), weights[words == "good"].sum())
    values = recomputed(fitted.forest, boosted.leaves(fitted, named), boosted.targets(fitted, named), weights)
    assert np.abs(values - fitted.forest.values).max() < 1e-6


@pytest.mark.parametrize(
    ("library", "settings"),
    [
        ("lightgbm", {"scale_pos_weight": 3.0}),
        ("lightgbm", {"class_weight": "balanced"}),
        ("lightgbm", {"is_unbalance": True}),
        ("xgboost", {"scale_pos_weight": 3.0}),
        ("catboost", {"auto_class_weights": "Balanced"}),
        ("catboost", {"class_weights": [1.0, 4.0]}),
    ],
)
def test_class_weights_of_every_library(library, settings):
    boosted, train = learner(library, "binary", **settings), examples("binary", weighted=False)
    fitted = boosted.explained(train)
    weights = boosted.leaf_weights(fitted, train)
    values = recomputed(fitted.forest, boosted.leaves(fitted, train), boosted.targets(fitted, train), weights)
    assert len(np.unique(weights)) == 2
    assert np.abs(values - fitted.forest.values).max() < 1e-5


def test_a_refit_without_the_last_example_of_a_category_still_answers():
    boosted, train = learner("hist", "regression"), examples("regression")
    rest = np.asarray(train.column("tree")[:]) != "fir"
    fitted = boosted.fit(train, rest.astype(np.float64))
    assert np.isfinite(boosted.measure(fitted, train)).all()
