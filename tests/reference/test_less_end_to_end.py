"""LESS from end to end: against the score where the warm-up is everything, tasks, and what it must not see."""

import numpy as np
import pytest

from steelyard.errors import SettingError
from steelyard.flow.systems import LessEndToEnd
from steelyard.learners import Adam, Torch
from steelyard.learners.small import perceptron
from steelyard.problem import Problem
from steelyard.run import in_memory
from steelyard.score import LESS
from tests.reference.test_untrac import problem

pytestmark = [pytest.mark.reference, pytest.mark.systems]


def adam() -> Problem:
    p = problem(trained=False)
    learner = Torch(perceptron(3, 5, 2).double(), recipe=Adam(lr=0.05, epochs=6, batch_size=8, checkpoints=2))
    tasks = np.array(["near"] * 7 + ["far"] * 3)
    return Problem(learner, p.train, p.query.with_column("task", tasks, "tasks"))


def test_with_everything_as_warm_up_it_keeps_the_best_of_the_score():
    p = adam()
    plan = LessEndToEnd(warmup=1.0)(p, 12, 4, in_memory())
    value = LESS(seed=4)(p).values.mean(axis=1)
    assert set(plan.ids) == set(p.train.ids[np.argsort(-value)[:12]])
    assert plan.provenance.resolved["direction"] == ["adam"] and plan.provenance.resolved["checkpoints"] == 2


def test_an_example_counts_by_the_task_that_it_suits_best():
    p = adam()
    plan = LessEndToEnd(warmup=1.0, column="task")(p, 12, 4, in_memory())
    values = LESS(seed=4)(p).values
    best = np.maximum(values[:, :7].mean(axis=1), values[:, 7:].mean(axis=1))
    assert set(plan.ids) == set(p.train.ids[np.argsort(-best)[:12]])


def test_the_warm_up_is_a_share_and_the_rest_is_scored_by_it():
    p = adam()
    plan = LessEndToEnd(warmup=0.25)(p, 12, 0, in_memory())
    assert plan.provenance.resolved["warm-up examples"] == 12 and plan.weights_for(p.train).sum() == 12
    order = np.random.default_rng(0).permutation(48)
    turned = LessEndToEnd(warmup=0.25)(Problem(p.learner, p.train.take(order), p.query), 12, 0, in_memory())
    assert set(turned.ids) == set(plan.ids)
    with pytest.raises(SettingError, match="no column 'tasks'"):
        LessEndToEnd(column="tasks")(p, 12, 0, in_memory())
    with pytest.raises(SettingError, match="warmup=0"):
        LessEndToEnd(warmup=0)
