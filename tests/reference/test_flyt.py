"""FLYT: the gradient of its weights by finite differences, soft cap sampling by enumeration, planted noise avoided."""

import itertools

import numpy as np
import pytest

from steelyard.act.flyt import FLYT, Lessons, desired, softmax
from steelyard.collect.fits import explained
from steelyard.collect.sandbox import Sandbox
from steelyard.data.sources import digits
from steelyard.errors import SettingError
from steelyard.flow.systems import MFLYT
from steelyard.learners import SGD, Torch
from steelyard.learners.small import perceptron
from steelyard.maths.soft_cap import soft_cap
from steelyard.problem import Problem
from steelyard.run import in_memory
from tests.reference.test_quad import language
from tests.reference.test_untrac import problem

pytestmark = [pytest.mark.reference, pytest.mark.systems]


@pytest.mark.parametrize("measurement", ["loss", "margin"])
def test_the_desire_for_weights_is_the_derivative_of_the_target_after_the_step(measurement):
    p, rate = problem(measurement), 0.7
    box = Sandbox(p, explained(p, in_memory()), in_memory(), method="test")
    batch = p.train.take(np.arange(6))
    shares = softmax(np.arange(6) / 3.0)

    def after(weights: np.ndarray) -> float:
        with box.put_back():
            box.move(box.gradient(batch, weights), -rate)
            sign = 1.0 if measurement == "loss" else -1.0
            return sign * float(box.measured(p.query).mean())

    with box.put_back():
        found = desired(box, batch, p.query, shares, rate)
    eye = 1e-5 * np.eye(6)
    wanted = [(after(shares + e) - after(shares - e)) / 2e-5 for e in eye]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-8)


def test_a_network_with_fused_attention_is_taught_too():
    p = language(16)
    box = Sandbox(p, explained(p, in_memory()), in_memory(), method="test")
    direction = box.target(p.query)
    step = 1e-6
    with box.put_back():
        box.move(direction, step)
        after = box.losses(p.train)
    with box.put_back():
        box.move(direction, -step)
        before = box.losses(p.train)
    np.testing.assert_allclose(
        box.along(p.train, direction), (after - before) / (2 * step), rtol=1e-5, atol=1e-8
    )


def test_soft_cap_sampling_draws_with_the_chances_of_its_definition():
    scores, penalty = np.log([0.5, 0.3, 0.2]), 1.0
    chance: dict[tuple[int, ...], float] = {}
    for first, second in itertools.product(range(3), repeat=2):
        left = scores.copy()
        left[first] -= penalty
        key = tuple(np.bincount([first, second], minlength=3).tolist())
        chance[key] = chance.get(key, 0.0) + float(softmax(scores)[first] * softmax(left)[second])
    draw, many = np.random.default_rng(0), 6000
    seen: dict[tuple[int, ...], int] = {}
    for _ in range(many):
        key = tuple(soft_cap(scores, 2, penalty=penalty, at_once=1, draw=draw).tolist())
        seen[key] = seen.get(key, 0) + 1
    for key, p in chance.items():
        assert abs(seen.get(key, 0) / many - p) < 4 * (p * (1 - p) / many) ** 0.5, key


def test_the_penalty_caps_repetition():
    draw = np.random.default_rng(1)
    scores = np.array([5.0, 0.0, 0.0, 0.0])
    hard = soft_cap(scores, 4, penalty=np.inf, at_once=1, draw=draw)
    assert (
        hard.tolist() == [1, 1, 1, 1] and soft_cap(scores, 9, penalty=np.inf, at_once=2, draw=draw).sum() == 4
    )
    free = soft_cap(scores, 40, penalty=0.0, at_once=1, draw=draw)
    soft = soft_cap(scores, 40, penalty=0.5, at_once=1, draw=draw)
    assert free.sum() == soft.sum() == 40 and free[0] > soft[0] > 10


def noisy() -> tuple[Problem, np.ndarray]:
    data = digits(train=200, query=40, flip=0.3)
    learner = Torch(perceptron(64, 16, 10), recipe=SGD(lr=0.05, momentum=0.9, epochs=20, batch_size=32))
    return Problem(learner, data.train, data.query), np.isin(data.train.ids, data.flipped)


@pytest.mark.parametrize(
    "system",
    [FLYT(steps=25, batch=100), MFLYT(steps=25, batch=100, methods=("loss", "grad_dot"))],
    ids=["flyt", "mflyt"],
)
def test_wrong_labels_are_drawn_less_than_by_chance(system):
    p, wrong = noisy()
    plan = system(p, 60, 0, in_memory())
    weights = plan.weights_for(p.train)
    assert weights.sum() == 60 and np.all(weights == np.round(weights))
    assert weights[wrong].sum() / 60 < 0.2, "30 % of the labels are wrong"
    again = system(p, 60, 0, in_memory())
    assert np.array_equal(again.weights_for(p.train), weights)


def test_scores_that_collapse_are_spread_and_told():
    p, _ = noisy()
    plan = FLYT(steps=25, batch=100, rate=50.0, penalty=0.0)(p, 60, 0, in_memory())
    assert any("amounted to" in note for note in plan.provenance.notes)
    assert plan.provenance.resolved["effective"] > 5


def test_senseless_settings_are_refused():
    with pytest.raises(SettingError, match="batch=1"):
        FLYT(batch=1)
    with pytest.raises(SettingError, match="penalty=-1"):
        Lessons(penalty=-1)
