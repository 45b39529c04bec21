"""Recipes: schedules are torch's, checkpoints are where they should be, nonsense is refused."""

import math

import numpy as np
import pytest
import torch

from steelyard.errors import SettingError
from steelyard.learners.recipes import SGD, Adam, AdamW, checkpoint_steps, learning_rates, recipe_settings


def torch_rates(steps: int, lr: float, make) -> np.ndarray:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = make(optimiser)
    rates = []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return np.array(rates)


def test_cosine_is_cosine_annealing_stepped_once_per_batch():
    expected = torch_rates(40, 0.3, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=40))
    np.testing.assert_allclose(
        learning_rates(SGD(lr=0.3, epochs=1, schedule="cosine"), 40), expected, atol=1e-12
    )


@pytest.mark.parametrize(
    ("schedule", "after"),
    [
        ("constant", lambda t: 1.0),
        ("linear", lambda t: 1 - (t - 8) / 32),
        ("cosine", lambda t: 0.5 * (1 + math.cos(math.pi * (t - 8) / 32))),
        ("inverse_sqrt", lambda t: math.sqrt(8 / t)),
    ],
)
def test_schedules_with_warmup_equal_torch_lambda_schedules(schedule, after):
    recipe = SGD(lr=0.3, epochs=1, schedule=schedule, warmup=8)
    expected = torch_rates(
        40,
        0.3,
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: (t + 1) / 9 if t < 8 else after(t)),
    )
    np.testing.assert_allclose(learning_rates(recipe, 40), expected, atol=1e-12)


def test_warmup_below_one_is_a_fraction_of_the_steps():
    few, many = SGD(lr=1.0, epochs=1, warmup=0.25), SGD(lr=1.0, epochs=1, warmup=10)
    np.testing.assert_array_equal(learning_rates(few, 40), learning_rates(many, 40))
    assert learning_rates(few, 40)[9] < 1.0 == learning_rates(few, 40)[10]


def test_warmup_longer_than_the_training_still_leaves_a_full_step():
    assert learning_rates(SGD(lr=1.0, epochs=1, warmup=100), 5)[-1] == 1.0


def test_inverse_sqrt_without_warmup_starts_at_the_peak():
    rates = learning_rates(Adam(lr=2.0, epochs=1, schedule="inverse_sqrt"), 4)
    np.testing.assert_allclose(rates, 2.0 / np.sqrt([1, 2, 3, 4]))


def test_checkpoints_are_evenly_spaced_and_end_with_the_training():
    assert checkpoint_steps(SGD(lr=1.0, epochs=4, checkpoints=4), 4, 5) == (5, 10, 15, 20)
    assert checkpoint_steps(SGD(lr=1.0, epochs=4, checkpoints=3), 4, 5) == (7, 13, 20)
    assert checkpoint_steps(SGD(lr=1.0, epochs=4), 4, 5) == ()


def test_checkpoints_more_than_steps_are_one_per_step():
    assert checkpoint_steps(SGD(lr=1.0, epochs=2, checkpoints=99), 2, 2) == (1, 2, 3, 4)


def test_checkpoints_can_name_epochs_and_the_end_is_added():
    assert checkpoint_steps(SGD(lr=1.0, epochs=4, checkpoints=(1, 2)), 4, 5) == (5, 10, 20)


def test_settings_tell_the_recipe_apart():
    assert recipe_settings(AdamW(epochs=3))["recipe"] == "AdamW"
    assert recipe_settings(AdamW(epochs=3))["weight_decay"] == 0.01


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: SGD(lr=0.0, epochs=1), "lr=0.0"),
        (lambda: SGD(lr=float("nan"), epochs=1), "lr=nan"),
        (lambda: SGD(lr=0.1, epochs=0), "epochs=0"),
        (lambda: SGD(lr=0.1, epochs=1, batch_size=0), "batch_size=0"),
        (lambda: SGD(lr=0.1, epochs=1, momentum=1.0), "momentum=1.0"),
        (lambda: SGD(lr=0.1, epochs=1, nesterov=True), "nesterov=True with momentum=0"),
        (lambda: SGD(lr=0.1, epochs=1, weight_decay=-1.0), "weight_decay=-1.0"),
        (lambda: SGD(lr=0.1, epochs=1, schedule="sudden"), "'sudden'"),
        (lambda: SGD(lr=0.1, epochs=1, warmup=-1), "warmup=-1"),
        (lambda: SGD(lr=0.1, epochs=1, checkpoints=-1), "checkpoints=-1"),
        (lambda: SGD(lr=0.1, epochs=2, checkpoints=(3,)), "epochs 1 to 2"),
        (lambda: Adam(epochs=1, betas=(0.9, 1.0)), "betas=1.0"),
        (lambda: Adam(epochs=1, eps=0.0), "eps=0.0"),
        (lambda: AdamW(epochs=-1), "epochs=-1"),
    ],
)
def test_settings_without_meaning_are_refused_by_name(make, named):
    with pytest.raises(SettingError) as caught:
        make()
    assert named in caught.value.problem
    assert caught.value.fix
