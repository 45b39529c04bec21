"""HINT: influence of inputs by retraining on changed ones, and a defence that beats random noise on digits."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import steelyard as sy
from steelyard.collect.input_influence import input_influence
from steelyard.errors import CapabilityError, SettingError
from steelyard.learners import SGD, Sklearn, Torch
from steelyard.run import in_memory

pytestmark = [pytest.mark.reference, pytest.mark.systems]


def convex() -> tuple[sy.Problem, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(34, 3))
    y = (x[:, 0] + 0.5 * rng.normal(size=34) > 0).astype(np.int64)
    recipe = SGD(lr=1.0, epochs=300, batch_size=30, weight_decay=0.05)
    learner = Torch(nn.Linear(3, 2).double(), recipe=recipe)
    return sy.Problem(learner, (x[:30], y[:30]), (x[30:], y[30:])), x, y


def test_the_influence_of_an_input_is_the_derivative_of_the_trained_loss() -> None:
    p, x, y = convex()
    found = input_influence(p, in_memory(), method="test", damping=0.0)
    step = 1e-3
    for row, column in ((4, 0), (11, 2)):
        means = []
        for sign in (1, -1):
            moved = x[:30].copy()
            moved[row, column] += sign * step
            train = sy.read({"input": moved, "label": y[:30], "id": np.asarray(p.train.ids)})
            fitted = p.learner.explained(train)
            means.append(p.learner.measure(fitted, p.query).mean())
        np.testing.assert_allclose((means[0] - means[1]) / (2 * step), found.inputs[row, column], rtol=2e-2)
    removal = sy.score.GaussNewton(damping=0.0)(p).values.mean(axis=1)
    np.testing.assert_allclose(found.examples, removal, rtol=1e-3, atol=1e-7)


def test_inputs_move_within_their_bounds_and_only_the_influential_ones() -> None:
    p, x, _ = convex()
    system = sy.act.Harden(fraction=0.2, step=0.05, limit=0.08, rounds=2)
    hardened = system(p)
    moved = np.asarray(hardened.input()[:])
    marked = np.asarray(hardened.column("hardened")[:]) == 1
    wide = x[:30].max() - x[:30].min()
    assert marked.sum() == 6 and np.abs(moved - x[:30])[~marked].max() == 0
    assert 0 < np.abs(moved - x[:30])[marked].max() <= 0.08 * wide + 1e-12
    influence = np.abs(input_influence(p, in_memory(), method="test", damping="auto").examples)
    assert set(np.flatnonzero(marked)) == set(np.argsort(-influence)[:6])
    before, after = (
        p.learner.measure(p.learner.explained(train), p.query).mean() for train in (p.train, hardened)
    )
    assert after < before
    np.testing.assert_array_equal(np.asarray(p.train.input()[:]), x[:30])  # nothing in place


def test_what_cannot_be_hardened_says_so() -> None:
    p, x, y = convex()
    with pytest.raises(CapabilityError, match="real numbers"):
        sy.act.Harden()(
            sy.Problem(
                p.learner, ((x[:30] * 2).astype(np.int64), y[:30]), ((x[30:] * 2).astype(np.int64), y[30:])
            )
        )
    with pytest.raises(CapabilityError, match="network"):
        sy.act.Harden()(sy.Problem(Sklearn(LogisticRegression()), p.train, p.query))
    with pytest.raises(SettingError, match="no way to harden"):
        sy.act.Harden(step=0.2, limit=0.1)


def test_hardening_helps_poisoned_digits_more_than_random_noise() -> None:
    from benchmarks.explained import defended

    found = defended("untargeted", draw=0, reduced=True)
    assert found["hint"] < found["poisoned"]
    assert found["hint"] < found["random noise"]
    assert torch.is_grad_enabled()
