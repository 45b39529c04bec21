"""ASWA by hand, NASWA's filter, and what they are for: models that depend less on their seed."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

from steelyard.errors import CapabilityError, SettingError
from steelyard.learners import SGD, Torch
from steelyard.learners.small import perceptron
from steelyard.learners.torch_averaging import averaged
from steelyard.problem import Problem


def data(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(count, 5)).astype(np.float32)
    return x, (x[:, 0] + 0.7 * draw.normal(size=count) > 0).astype(int)


def problem(learner: Torch) -> Problem:
    return Problem(learner, data(60), data(30, 1))


def test_one_epoch_of_aswa_is_the_mean_of_the_weights_after_every_step():
    net = perceptron(5, 4, 2)
    plain = Torch(net, recipe=SGD(lr=0.2, epochs=1, batch_size=20, checkpoints=3))
    given = problem(plain)
    states = [point.parameters for point in plain.fit(given.train, seed=3).checkpoints]
    found = Torch(net, recipe=averaged(plain)).fit(given.train, seed=3).parameters
    for name, value in found.items():
        expected = torch.stack([state[name] for state in states]).mean(dim=0)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_averaging_that_begins_after_the_last_step_changes_nothing():
    net = perceptron(5, 4, 2)
    plain = Torch(net, recipe=SGD(lr=0.2, epochs=2, batch_size=20))
    given = problem(plain)
    late = Torch(net, recipe=averaged(plain, first=100)).fit(given.train, seed=1).parameters
    for name, value in plain.fit(given.train, seed=1).parameters.items():
        torch.testing.assert_close(late[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("filtered", [False, True])
def test_averaged_models_differ_less_between_batch_orders(filtered):
    net = perceptron(5, 8, 2)
    plain = Torch(net, recipe=SGD(lr=0.5, epochs=6, batch_size=5), start="given")
    steady = Torch(net, recipe=averaged(plain, filtered=filtered), start="given")
    given = problem(plain)

    def spread(learner: Torch) -> float:
        found = [learner.measure(learner.fit(given.train, seed=s), given.query) for s in range(6)]
        return float(np.std(found, axis=0).mean())

    assert spread(steady) < 0.8 * spread(plain)


def test_weights_of_zero_leave_out_and_bad_settings_are_refused():
    net = perceptron(5, 4, 2)
    plain = Torch(net, recipe=SGD(lr=0.2, epochs=1, batch_size=20))
    steady, given = Torch(net, recipe=averaged(plain)), problem(plain)
    mask = (np.arange(60) < 40).astype(float)
    left, right = (
        steady.fit(given.train, weights=mask, seed=0).parameters,
        steady.fit(given.train.take(slice(0, 40)), seed=0).parameters,
    )
    assert all(torch.equal(left[name], right[name]) for name in left)
    with pytest.raises(SettingError, match="first=-1"):
        averaged(plain, first=-1)
    trained = Torch(net, trained=True)
    with pytest.raises(CapabilityError):
        averaged(trained)(given.train, np.ones(60), 0)
