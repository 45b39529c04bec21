"""InfFeed: votes of influencers by brute force, labels that come back, and a queue of silver labels."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import steelyard as sy
from steelyard.collect.folds import deal
from steelyard.errors import CapabilityError, DataError, SettingError
from steelyard.learners import Sklearn
from steelyard.run import in_memory

pytestmark = [pytest.mark.reference, pytest.mark.systems]


def noisy(count: int = 240, wrong: int = 36) -> tuple[sy.Problem, np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    keep = np.flatnonzero(y < 4)[: count + 60]
    x, y = x[keep] / 16, y[keep]
    flipped = np.random.default_rng(7).choice(count, wrong, replace=False)
    given = y[:count].copy()
    given[flipped] = (given[flipped] + 1) % 4
    train = sy.read({"input": x[:count], "label": given, "silver": np.arange(count) % 2})
    train = sy.read(train, features=["input"], label="label")
    learner = Sklearn(LogisticRegression(C=0.1, max_iter=500))
    return sy.Problem(learner, train, (x[count:], y[count:])), flipped, y[:count]


def test_votes_are_those_of_the_largest_influences_from_other_folds() -> None:
    p, _, _ = noisy(60, 6)
    method = sy.score.InfFeed(base="gauss_newton", influencers=4, folds=3)
    found = method.votes(p, in_memory())
    fold = deal(p, 3)
    labels = p.train.labels()
    for k in range(3):
        rest = p.train.take(np.flatnonzero(fold != k))
        model = LogisticRegression(C=0.1, max_iter=500).fit(np.asarray(rest.input()[:]), rest.labels())
        held = p.train.take(np.flatnonzero(fold == k))
        influence = sy.attribute(model, rest, held, method="gauss_newton").values
        for column, row in enumerate(np.flatnonzero(fold == k)):
            top = np.argsort(-np.abs(influence[:, column]))[:4]
            tally = np.zeros(4)
            for i in top:
                tally[rest.labels()[i]] += 1
            np.testing.assert_allclose(found[row], tally / 4, atol=1e-9)
    own = found[np.arange(60), labels]
    other = np.where(np.eye(4)[labels] > 0, -1, found).max(axis=1)
    np.testing.assert_allclose(method(p).values[:, 0], own - other, atol=1e-12)


def test_wrong_labels_are_found_and_the_right_ones_proposed() -> None:
    p, flipped, truth = noisy()
    report = sy.clean(p, method=sy.score.InfFeed(), fraction=0.15)
    auc = sy.verify.mislabel_auc(report.scores[0], p.train.ids[flipped])
    assert auc.estimate > 0.9
    plan = next(plan for plan in report.plans if plan.action == "relabel")
    rows = p.train.positions(plan.ids)
    assert (plan.labels == truth[rows]).mean() > 0.8
    assert "influence it most" in plan.reasons[0]


def test_silver_labels_that_harm_wait_for_review() -> None:
    p, flipped, _ = noisy()
    report = sy.clean(p, method=sy.score.InfFeed(silver="silver"), fraction=0.1)
    queue = next(plan for plan in report.plans if plan.provenance.given.get("by") == "review")
    rows = p.train.positions(queue.ids)
    assert (rows % 2 == 1).all() and len(rows) > 3
    harmful = np.isin(rows, flipped).mean()
    assert harmful > 2 * np.isin(np.arange(1, 240, 2), flipped).mean()
    influence = sy.attribute(p, method="gauss_newton").values.mean(axis=1)
    assert (influence[rows] < 0).all()
    assert set(rows) == set(np.flatnonzero((influence < 0) & (np.arange(240) % 2 == 1)))


def test_bad_input_says_what_is_wrong() -> None:
    p, _, _ = noisy(60, 6)
    scores = sy.attribute(p, method="gauss_newton")
    with pytest.raises(DataError, match="no column 'gold'"):
        sy.act.review(scores, p.train, silver="gold")
    none = p.train.with_column("silver", np.zeros(60), "none")
    with pytest.raises(DataError, match="marks no label"):
        sy.act.review(
            sy.attribute(sy.Problem(p.learner, none, p.query), method="gauss_newton"), none, silver="silver"
        )
    with pytest.raises(SettingError, match="by themselves"):
        sy.act.review(sy.score.Loss()(p), p.train, silver="silver")
    with pytest.raises(SettingError, match="trusted"):
        sy.clean(p.learner, p.train, method=sy.score.InfFeed(silver="silver"))
    with pytest.raises(CapabilityError, match="pairs"):
        sy.score.InfFeed(base="loss")(p)
    with pytest.raises(SettingError, match="folds"):
        sy.score.InfFeed(folds=1)
