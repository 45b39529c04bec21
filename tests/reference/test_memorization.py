"""Memorisation against loops over fits, in a linear game, and on planted causes."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from steelyard.data import read
from steelyard.errors import DataError, FitError, SettingError
from steelyard.learners import Sklearn
from steelyard.maths.subset_effects import own_effects, subset_effects
from steelyard.problem import Problem
from steelyard.run import in_memory, open_run, stream
from steelyard.score.leave_one_out import LeaveOneOut
from steelyard.score.memorization import Memorization, memorized_parts, subset_outcomes
from tests.problems import additive_problem, additive_truth, ridge_problem

pytestmark = pytest.mark.reference


def test_effects_are_differences_of_means():
    draw = np.random.default_rng(0)
    masks = draw.random((40, 6)) < 0.6
    outcomes = draw.normal(size=(40, 6)) + 1e6
    outcomes[3, 2] = np.nan
    rows = np.arange(40) != 3
    found, own = subset_effects(masks, outcomes), own_effects(masks, outcomes)
    for i in range(6):
        for q in range(6):
            inside, outside = outcomes[rows & masks[:, i], q], outcomes[rows & ~masks[:, i], q]
            error = np.sqrt(inside.var(ddof=1) / len(inside) + outside.var(ddof=1) / len(outside))
            assert found.values[i, q] == pytest.approx(inside.mean() - outside.mean(), abs=1e-8)
            assert found.errors[i, q] == pytest.approx(error, rel=1e-6)
        assert own.values[i, 0] == pytest.approx(found.values[i, i], abs=1e-9)
        assert own.errors[i, 0] == pytest.approx(found.errors[i, i], rel=1e-6)
    assert found.fits == 39 and found.seen.tolist() == masks[rows].sum(0).tolist()


@pytest.mark.parametrize("of", ["self", "queries"])
def test_scores_are_those_of_a_loop_over_fits(of):
    p = ridge_problem(20, 3)
    found = Memorization(of, fits=30)(p)
    queries = p.train if of == "self" else p.query
    asked = Problem(p.learner, p.train, queries)
    masks, _ = subset_outcomes(asked, in_memory(), fits=30, fraction=0.7)
    assert (masks.sum(1) == 14).all()
    values = []
    for number, mask in enumerate(masks):
        fitted = p.learner.fit(p.train.take(np.flatnonzero(mask)), seed=stream(0, "scoring", number))
        values.append(p.learner.measure(fitted, queries))
    values = np.array(values)
    for i in range(20):
        for column in range(found.values.shape[1]):
            q = i if of == "self" else column
            # A squared error is better when lower: positive if those without the example do worse.
            expected = values[~masks[:, i], q].mean() - values[masks[:, i], q].mean()
            assert found.values[i, column] == pytest.approx(expected)
    assert found.suspect == ("high" if of == "self" else "low")
    assert found.provenance.cost.fits == 30


def test_intervals_hold_the_truth_of_a_linear_game():
    p = additive_problem(20, 4)
    found = Memorization("queries", fits=400, fraction=0.5)(p)
    assert found.uncertainty is not None
    # A fixed number of others is in: leaving one out of n puts in 1/(n-1) more of each other one.
    x = additive_truth(p)
    expected = x - (x.sum(0) - x) / 19
    z = (found.values - expected) / found.uncertainty.pairs
    assert np.abs(z).max() < 4.5
    assert 0.88 < (np.abs(z) < 1.96).mean() <= 1.0


def test_a_larger_budget_goes_on_from_a_smaller_one(tmp_path):
    p = ridge_problem(12, 2)
    with open_run(tmp_path / "run", {}) as run:
        Memorization(fits=10)(p, run)
        found = Memorization(fits=16)(p, run)
        assert found.provenance.cost.fits == 6
    np.testing.assert_array_equal(found.values, Memorization(fits=16)(p).values)


def test_memorisation_is_what_leaving_out_does_to_oneself():
    p = ridge_problem(40, 3, flip=4)
    found = Memorization(fits=300)(p)
    alone = LeaveOneOut()(Problem(p.learner, p.train, p.train)).values.diagonal()
    assert np.corrcoef(found.values[:, 0], alone)[0, 1] > 0.9
    assert np.argmax(found.values) == np.argmax(alone)


def test_failed_fits_are_left_out_and_a_missing_side_is_refused():
    p = ridge_problem(12, 2, needs=("t0003",))
    with pytest.raises(FitError, match="'t0003' was in"):
        Memorization(fits=20)(p)
    with pytest.raises(SettingError, match="fits=2"):
        Memorization(fits=2)


def words() -> Problem:
    """Reviews where one text carries a rare word and the wrong label: only that word can have taught it."""
    draw = np.random.default_rng(1)
    good, bad = ["fine", "great", "lovely"], ["dull", "poor", "weak"]
    texts = [" ".join(draw.choice(good if i % 2 else bad, 3)) for i in range(40)]
    labels = np.arange(40) % 2
    texts[7], labels[7] = "fine great xylophone lovely", 0
    rows = [
        {"id": f"r{i:02d}", "text": t, "label": int(y)}
        for i, (t, y) in enumerate(zip(texts, labels, strict=True))
    ]
    learner = Sklearn(
        make_pipeline(CountVectorizer(), LogisticRegression(C=10.0)), measurement="log_probability"
    )
    return Problem(learner, read(rows), read(rows[:1]))


def test_parts_of_a_text_sum_to_its_memorisation():
    p = words()
    method = Memorization(fits=60)
    found = memorized_parts(p, "r07", method=method)
    assert found.parts == ("fine", "great", "xylophone", "lovely")
    assert found.parts[int(np.argmax(found.values))] == "xylophone"
    assert found.values.sum() + found.empty == pytest.approx(found.whole)
    assert found.whole == pytest.approx(method(p).values[7, 0])


def test_parts_of_numbers_are_exact_in_a_linear_game():
    p = additive_problem(12, 2)
    found = memorized_parts(p, "t0004", method=Memorization(fits=40, fraction=0.5), parts=3, orders=2)
    x = np.asarray(p.train.input()[:])
    masks, _ = subset_outcomes(Problem(p.learner, p.train, p.train), in_memory(), fits=40, fraction=0.5)
    theta = masks @ x
    difference = theta[masks[:, 4]].mean(0) - theta[~masks[:, 4]].mean(0)
    # The payoff is a product with the model, so every feature is worth its own term.
    np.testing.assert_allclose(found.values, (x[4] - x.mean(0)) * difference)
    assert found.parts == ("0", "1", "2")
    with pytest.raises(DataError):
        memorized_parts(p, "nobody")
