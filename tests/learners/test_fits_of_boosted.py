"""Fits of boosted trees made in blocks: each is the plain fit to the last bit."""

import numpy as np
import pytest

from steelyard.learners.sklearn_fit import seeded
from steelyard.run.seeds import stream
from tests.learners.boosted_cases import TASKS, examples, learner, table

pytestmark = pytest.mark.trees


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost"])
@pytest.mark.parametrize("threads", ["1", "4"])
def test_fits_in_blocks_equal_plain_fits(library, task, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr("steelyard.run.pool.cores", lambda: 4)
    boosted, train = learner(library, task), examples(task)
    assert boosted.together(train) > 1
    queries = train.take(np.arange(10))
    draw = np.random.default_rng(0)
    weightings = (draw.random((6, len(train))) < 0.8).astype(float)
    weightings[5] *= draw.uniform(0.5, 2.0, len(train))
    found = boosted.measure_together(train, weightings, [3, 4, 5, 6, 7, 8], queries)
    for k, weights in enumerate(weightings):
        plain = boosted.measure(boosted.fit(train, weights, seed=3 + k), queries)
        assert np.array_equal(found[k], plain)
    assert np.ptp(found, axis=0).max() > 1e-3


def test_a_fit_without_a_class_or_without_examples_is_left_to_be_made_by_itself():
    boosted, train = learner("lightgbm", "binary"), examples("binary")
    labels = train.labels()
    weightings = np.stack([labels == labels[0], np.zeros(len(train)), np.ones(len(train))]).astype(float)
    found = boosted.measure_together(train, weightings, [0, 0, 0], train)
    assert np.isfinite(found).all(axis=1).tolist() == [False, False, True]


def test_libraries_without_a_way_of_their_own_are_fitted_one_by_one():
    boosted, train = learner("hist", "binary"), examples("binary")
    assert boosted.together(train) == 1


def test_gradient_boosting_is_scikit_learns_own_fit_with_the_same_random_state():
    # It looks at the features in an order drawn from random_state, so that a loop without one gives other trees.
    boosted, train = learner("plain", "binary"), examples("binary", plain=True)
    weights = np.ones(len(train))
    weights[3] = 0.0
    kept = np.flatnonzero(weights)
    fitted = boosted.fit(train, weights, seed=7)
    own = seeded(fitted.model, stream(7, "boosted") % 2**31)
    inputs = table("binary", plain=True)[0]
    own.fit(inputs[kept], train.labels()[kept], sample_weight=train.weights()[kept])
    chances = own.predict_proba(inputs)
    assert np.array_equal(fitted.model.predict_proba(inputs), chances)
    assert not np.array_equal(
        seeded(own, 1).fit(inputs[kept], train.labels()[kept]).predict_proba(inputs), chances
    )
