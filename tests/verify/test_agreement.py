"""Agreement: known answers, chance, and refusal of random scores."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from steelyard.errors import DataError, SettingError
from steelyard.learners import Sklearn
from steelyard.problem import Problem
from steelyard.records import Measurement, Scores
from steelyard.verify import agreement

TOPICS = 5


def problem(train: int = 200, query: int = 40) -> Problem:
    rng = np.random.default_rng(0)

    def side(count: int) -> dict[str, np.ndarray]:
        return {
            "x": rng.normal(size=count),
            "label": rng.normal(size=count),
            "topic": np.arange(count) % TOPICS,
        }

    from steelyard.data import read

    return Problem(
        Sklearn(Ridge()),
        read(side(train), features=["x"], label="label"),
        read(side(query), features=["x"], label="label"),
    )


def scores_of(given: Problem, values: np.ndarray) -> Scores:
    return Scores(
        values=values,
        train_ids=given.train.ids,
        query_ids=given.query.ids,
        method="Test()",
        unit="rank",
        measurement=Measurement("loss", "nats", lower_is_better=True),
        train_checksum=given.train.checksum,
        query_checksum=given.query.checksum,
    )


def same(given: Problem) -> np.ndarray:
    return np.asarray(given.train.column("topic")[:])[:, None] == np.asarray(given.query.column("topic")[:])


def test_scores_that_know_the_topic_are_confirmed():
    given = problem()
    noise = np.random.default_rng(1).normal(size=(200, 40))
    found = agreement(given, scores_of(given, noise + 3 * same(given)), column="topic")
    assert found.verdict == "confirmed"
    assert found.control["estimate"] == pytest.approx(1 / TOPICS)
    assert found.estimate > 0.9
    assert found.interval[0] <= found.estimate <= found.interval[1] <= 1


def test_the_estimate_is_precision_at_top():
    given = problem()
    values = np.zeros((200, 40))
    values[0:5] = [[5.0], [4.0], [3.0], [2.0], [1.0]]  # topics 0 to 4, so that one of five agrees
    found = agreement(given, scores_of(given, values), column="topic", top=5)
    assert found.table["precision"] == pytest.approx([0.2] * 40)


def test_random_scores_are_confirmed_no_more_often_than_by_chance():
    given = problem()
    confirmed = 0
    for seed in range(60):
        values = np.random.default_rng(seed).normal(size=(200, 40))
        confirmed += agreement(given, scores_of(given, values), column="topic").verdict == "confirmed"
    assert confirmed <= 6  # the interval is two-sided at 95 %: 1.5 expected


def test_scores_that_avoid_the_topic_are_refuted():
    given = problem()
    noise = np.random.default_rng(1).normal(size=(200, 40))
    assert agreement(given, scores_of(given, noise - 3 * same(given)), column="topic").verdict == "refuted"


def test_bad_questions_are_refused():
    given = problem()
    scores = scores_of(given, np.zeros((200, 40)))
    with pytest.raises(SettingError, match="top=0"):
        agreement(given, scores, column="topic", top=0)
    with pytest.raises(DataError, match="no column 'author'"):
        agreement(given, scores, column="author")
