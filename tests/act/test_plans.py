"""Plans: what they name, in which order, why, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest

from steelyard.act import drop, keep, relabel
from steelyard.errors import DataError, NumericsError, SettingError, ShapeError
from steelyard.problem import Problem
from steelyard.records import Examples, Plan, Scores
from tests.problems import additive_problem, ridge_problem, scores_of


def ten() -> tuple[Problem, Scores]:
    problem = ridge_problem(train=10, query=2)
    values = np.array([3, -1, 0, 2, -1, 5, -4, 1, 0, 0], dtype=np.float64)
    return problem, scores_of(problem, np.stack([values, values], axis=1))


def test_drop_names_the_most_harmful_first_and_breaks_ties_by_id():
    problem, scores = ten()
    plan = drop(scores, count=3)
    assert plan.ids.tolist() == ["t0006", "t0001", "t0004"]
    assert plan.apply(problem.train).ids.tolist() == [f"t{i:04d}" for i in (0, 2, 3, 5, 7, 8, 9)]
    rows = np.random.default_rng(0).permutation(10)
    shuffled = replace(scores, values=scores.values[rows], train_ids=scores.train_ids[rows])
    assert drop(shuffled, count=3).ids.tolist() == plan.ids.tolist()


def test_keep_is_the_complement_of_drop():
    problem, scores = ten()
    for count in range(1, 10):
        kept = keep(scores, count=count).apply(problem.train)
        dropped = drop(scores, count=10 - count).apply(problem.train)
        assert kept.ids.tolist() == dropped.ids.tolist()
    assert keep(scores, count=2).ids.tolist() == ["t0005", "t0000"]


def test_fractions_round_and_name_at_least_one():
    _, scores = ten()
    assert [len(drop(scores, fraction=f)) for f in (0.01, 0.2, 0.34, 0.9)] == [1, 2, 3, 9]
    assert drop(scores, fraction=0.2).provenance.given == {"by": "drop", "fraction": 0.2, "count": None}


@pytest.mark.parametrize("make", [drop, keep])
@pytest.mark.parametrize(
    "settings",
    [{}, {"fraction": 0.1, "count": 1}, {"fraction": 0.0}, {"fraction": 1.0}, {"fraction": 0.99}]
    + [
        {"fraction": -0.1},
        {"fraction": float("nan")},
        {"count": 0},
        {"count": 10},
        {"count": 11},
        {"count": -1},
    ],
)
def test_sizes_that_make_no_sense_are_refused(make, settings):
    with pytest.raises(SettingError):
        make(ten()[1], **settings)


def test_reasons_say_in_words_what_the_numbers_say():
    _, scores = ten()
    assert drop(scores, count=1).reasons == (
        "raises the squared error of 2 queries by 4 squared units on average; rank 1 of 10 by harm",
    )
    assert keep(scores, count=1).reasons[0].startswith("lowers the squared error of 2 queries by 5")
    game = additive_problem()
    payoff = scores_of(game, np.tile(np.linspace(-1, 1, 60)[:, None], (1, 5)))
    assert drop(payoff, count=1).reasons[0].startswith("lowers the payoff of 5 queries by 1 points")
    ranks = replace(scores, unit="rank")
    assert drop(ranks, count=1).reasons[0].startswith("mean rank -1.000 over 2 queries")
    own = replace(
        scores, values=scores.values[:, :1], query_ids=np.array(["self"]), axis="example", suspect="high"
    )
    assert drop(own, count=1).reasons[0].startswith("Given is 5 squared units (higher = more suspect)")
    assert drop(own, count=1).ids.tolist() == ["t0005"]


def test_scores_that_are_not_finite_make_no_plan():
    _, scores = ten()
    values = scores.values.copy()
    values[4, 1] = np.nan
    with pytest.raises(NumericsError, match="t0004"):
        drop(replace(scores, values=values), count=1)


def labelled(labels: np.ndarray) -> tuple[Examples, Scores]:
    problem, scores = ten()
    train = problem.train.with_column("label", labels, "labelled")
    return train, replace(scores, train_checksum="labelled")


def test_relabel_proposes_where_the_prediction_differs():
    labels = np.array(["cat", "dog"] * 5)
    train, scores = labelled(labels)
    probabilities = np.tile([0.9, 0.1], (10, 1))
    plan = relabel(
        scores,
        train,
        probabilities=probabilities,
        predicted_by="models that did not see the example",
        count=3,
    )
    # The three most harmful are 6 (a cat, rightly), 1 (a dog) and 4 (a cat).
    assert plan.ids.tolist() == ["t0001"]
    assert (plan.labels.tolist(), plan.previous.tolist()) == (["cat"], ["dog"])
    assert "probability 0.10 of its label, 0.90 of the proposed one" in plan.reasons[0]
    assert "models that did not see the example" in plan.reasons[0]
    assert plan.provenance.notes == (
        "1 of the 3 most suspicious examples are predicted to be of another class",
    )
    changed = plan.apply(train)
    assert changed.labels().tolist() == ["cat", "cat", *labels[2:]]
    assert plan.inverse(train).apply(changed).labels().tolist() == labels.tolist()


def test_relabel_may_have_nothing_to_propose():
    train, scores = labelled(np.zeros(10, dtype=np.int64))
    plan = relabel(
        scores,
        train,
        probabilities=np.tile([0.8, 0.2], (10, 1)),
        predicted_by="the model that learned it",
        fraction=0.5,
    )
    assert len(plan) == 0
    assert isinstance(plan, Plan)


def test_relabel_refuses_what_does_not_fit():
    train, scores = labelled(np.array(["cat", "dog"] * 5))
    by = "the model that learned it"
    with pytest.raises(ShapeError, match="3 classes"):
        relabel(scores, train, probabilities=np.full((10, 3), 1 / 3), predicted_by=by, count=3)
    with pytest.raises(ShapeError, match="9 examples"):
        relabel(scores, train, probabilities=np.full((9, 2), 0.5), predicted_by=by, count=3)
    with pytest.raises(DataError, match="checksum"):
        relabel(
            replace(scores, train_checksum="x"),
            train,
            probabilities=np.ones((10, 2)),
            predicted_by=by,
            count=3,
        )
    numbers, scores = labelled(np.linspace(0, 1, 10))
    with pytest.raises(SettingError, match="not classes"):
        relabel(scores, numbers, probabilities=np.ones((10, 2)), predicted_by=by, count=3)
