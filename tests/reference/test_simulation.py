"""The simulator on courses that follow its own law, against a loop, and on real trainings with unseen orders."""

import numpy as np
import pytest
import torch
from torch import nn

from steelyard.collect.simulation import recorded_run
from steelyard.data import read
from steelyard.errors import CapabilityError, SettingError
from steelyard.learners import SGD, Torch
from steelyard.maths.simulation import Course, additive_run, best_factor, errors_of, fit_simulator
from steelyard.problem import Problem
from steelyard.run import in_memory, open_run
from steelyard.score.gptfluence import GPTfluence

pytestmark = pytest.mark.reference


def network(*, given: bool = True, measurement: str = "loss") -> Problem:
    draw = np.random.default_rng(0)
    y = np.arange(100) % 3
    x = (np.eye(3)[y] * 1.5 + draw.normal(size=(100, 3))).astype(np.float32)
    data = read({"input": x, "label": y, "id": np.array([f"r{i:02d}" for i in range(100)])})
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    recipe = SGD(lr=0.2, epochs=4, batch_size=10, checkpoints=4)
    learner = Torch(net, recipe=recipe, measurement=measurement, start="given" if given else "fresh")
    return Problem(learner, data.take(slice(0, 80)), data.take(slice(80, 100)))


def lawful(count: int, draw: np.random.Generator) -> tuple[list[Course], np.ndarray, np.ndarray]:
    """Courses by the recurrence itself, with known factors."""
    train = np.column_stack([np.ones(20), draw.normal(size=(20, 2))])
    query = np.column_stack([np.ones(5), draw.normal(size=(5, 1))])
    times, plus = 0.1 * draw.normal(size=(3, 2)), 0.1 * draw.normal(size=(3, 2))
    courses = []
    for _ in range(count):
        batches = tuple(draw.choice(20, 4, replace=False) for _ in range(15))
        rates = 0.5 + draw.random(15)
        values = [draw.random(5) + 1]
        for rows, rate in zip(batches, rates, strict=True):
            mean = train[rows].mean(0)
            values.append(values[-1] + rate * ((mean @ times @ query.T) * values[-1] + mean @ plus @ query.T))
        courses.append(Course(batches, rates, np.stack(values)))
    return courses, train, query


def test_a_lawful_course_is_learned_exactly():
    courses, train, query = lawful(6, np.random.default_rng(1))
    found = fit_simulator(courses[:5], train, query)
    inside = np.clip(courses[5].measured, found.low, found.high)
    np.testing.assert_allclose(found.run(courses[5]), inside, atol=0.02)
    with pytest.raises(SettingError, match="at least 2"):
        fit_simulator(courses[:1], train, query)


def test_leaving_an_example_out_is_a_course_without_it():
    courses, train, query = lawful(3, np.random.default_rng(2))
    found = fit_simulator(courses, train, query)
    course = courses[0]
    everyone = found.without(course)
    for i in (0, 7):
        kept = [(rows[rows != i], rate) for rows, rate in zip(course.batches, course.rates, strict=True)]
        alone = Course(tuple(rows for rows, _ in kept), course.rates, course.measured)
        np.testing.assert_allclose(everyone[i], found.run(alone)[-1])
    single = Course((np.array([3]), np.array([4])), np.ones(2), course.measured[:3])
    skipped = Course((np.array([4]),), np.ones(1), course.measured[:2])
    np.testing.assert_allclose(found.without(single)[3], found.run(skipped)[-1])


def test_an_additive_course_has_the_factor_that_made_it():
    draw = np.random.default_rng(3)
    gains = draw.normal(size=(20, 5))
    empty = Course(tuple(draw.choice(20, 4) for _ in range(10)), np.full(10, 0.1), np.ones((11, 5)))
    made = additive_run(empty, gains, 2.5)
    course = Course(empty.batches, empty.rates, made)
    assert best_factor([course], gains) == pytest.approx(2.5)
    total = sum(gains[rows].mean(0) for rows in empty.batches)
    np.testing.assert_allclose(made[-1], 1 - 0.25 * total)
    assert errors_of([made + 0.1], [course])["all_steps_mse"] == pytest.approx(0.01)


def test_a_record_is_what_the_training_does():
    p = network()
    course = recorded_run(p, in_memory(), seed=3, method="test")
    assert len(course.batches) == 32 and all(len(rows) == 10 for rows in course.batches)
    fitted = p.learner.fit(p.train, seed=3)
    np.testing.assert_allclose(course.measured[-1], p.learner.measure(fitted, p.query), rtol=1e-9)
    for epoch in range(4):
        seen = np.concatenate(course.batches[8 * epoch : 8 * epoch + 8])
        assert sorted(seen.tolist()) == list(range(80))
        point = list(p.learner.checkpoints(fitted))[epoch][0]
        np.testing.assert_allclose(
            course.measured[8 * epoch + 8], p.learner.measure(point, p.query), rtol=1e-9
        )


@pytest.mark.parametrize("measurement", ["loss", "margin"])
def test_unseen_orders_are_simulated_better_than_by_tracin(measurement):
    p = network(measurement=measurement)
    found = GPTfluence(runs=4, tested=2, components=4)(p)
    told = found.provenance.resolved["unseen_orders"]
    assert (
        told["simulator"]["all_steps_mse"]
        < told["tracin_cp"]["all_steps_mse"]
        < told["no_change"]["all_steps_mse"]
    )
    assert told["simulator"]["final_spearman"] > 0.9
    assert found.provenance.cost.fits >= 6


def test_the_effect_of_leaving_out_agrees_with_real_removals():
    p = network()
    found = GPTfluence(runs=6, tested=1, components=4)(p)
    weights = np.ones((80, 80)) - np.eye(80)
    base = p.learner.measure(p.learner.fit(p.train, seed=0), p.query)
    real = np.array([p.learner.measure(p.learner.fit(p.train, w, 0), p.query) - base for w in weights[::4]])
    assert np.corrcoef(np.asarray(found.values)[::4].ravel(), real.ravel())[0, 1] > 0.3


def test_a_run_folder_keeps_the_records(tmp_path):
    p = network()
    with open_run(tmp_path / "run", {}) as run:
        first = GPTfluence(runs=2, tested=1)(p, run)
        spent = run.cost.fits
        again = GPTfluence(runs=2, tested=1)(p, run)
        assert run.cost.fits == spent
    np.testing.assert_array_equal(first.values, again.values)


def test_what_cannot_be_simulated_is_refused():
    p = network()
    with pytest.raises(CapabilityError):
        GPTfluence()(Problem(Torch(nn.Linear(3, 3), trained=True), p.train, p.query))
    with pytest.raises(SettingError, match="runs=1"):
        GPTfluence(runs=1)
