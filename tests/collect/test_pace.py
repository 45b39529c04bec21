"""The prediction of seconds: from a probe, in run folders only, and honest about what it cannot know."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from steelyard.collect import pace
from steelyard.learners import Sklearn, Torch
from steelyard.problem import Problem
from steelyard.records import Cost, Products
from steelyard.run import in_memory, open_run
from steelyard.score import CG, EKFACCG, Arnoldi, GaussNewton, LiSSA, Nystrom
from tests.problems import ridge_problem


def logistic(*, trained: bool = False) -> Problem:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    y = (x[:, 0] > 0).astype(np.int64)
    model = LogisticRegression().fit(x, y) if trained else LogisticRegression()
    return Problem(Sklearn(model, trained=trained), (x, y), (x[:5], y[:5]))


def test_seconds_are_told_before_the_work_and_probed_once(tmp_path, monkeypatch) -> None:
    problem = logistic()
    with open_run(tmp_path / "run", {"a": 1}, show="quiet") as run:
        told = pace.predict(problem, run, Cost(fits=100, gradients=10.0))
        assert told.seconds > 0
        assert run.predicted == told
        monkeypatch.setattr(pace, "_probe", lambda _: pytest.fail("probed twice"))
        assert pace.predict(problem, run, Cost(fits=200)).seconds == pytest.approx(
            2 * _fits(told, run, problem)
        )


def _fits(told: Cost, run, problem: Problem) -> float:
    return 100 * float(run.keep(f"pace/{problem.mark()}", dict)["fit"])


def test_nothing_is_probed_in_memory(monkeypatch) -> None:
    monkeypatch.setattr(pace, "_probe", lambda _: pytest.fail("probed"))
    run = in_memory()
    assert pace.predict(logistic(), run, Cost(fits=3)) == Cost(fits=3)
    assert run.predicted == Cost(fits=3)


def test_a_learner_without_gradients_or_with_failing_fits_predicts_no_seconds(tmp_path) -> None:
    problem = ridge_problem(40, 3, needs=("t1",))
    with open_run(tmp_path / "run", {"a": 1}, show="quiet") as run:
        assert pace.predict(problem, run, Cost(gradients=5.0)).seconds == 0.0


def test_the_prediction_is_of_the_right_size(tmp_path) -> None:
    """Within a factor of 20 on a busy machine: it must tell seconds from hours."""
    import time

    problem = logistic()
    with open_run(tmp_path / "run", {"a": 1}, show="quiet") as run:
        told = pace.predict(problem, run, Cost(fits=30))
    started = time.perf_counter()
    for seed in range(30):
        problem.learner.fit(problem.train, seed=seed)
    took = time.perf_counter() - started
    assert took / 20 < told.seconds < 20 * took


def test_products_are_timed_as_what_they_are(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pace, "_probe", lambda _: {"fit": np.array(3.0), "gradient": np.array(0.5)})
    monkeypatch.setattr(pace, "_product_seconds", lambda *_: (0.25, 0.0))
    products = Products(times=10, examples=64, vectors=3)
    assert products.gradients == 10 * 64 * 5
    cost = Cost(gradients=products.gradients + 40, fits=2)
    with open_run(tmp_path / "run", {"a": 1}, show="quiet") as run:
        told = pace.predict(logistic(), run, cost, products=products)
        assert told.seconds == pytest.approx(2 * 3.0 + 40 * 0.5 + 10 * 64 * 0.25)
        assert told.gradients == cost.gradients
    monkeypatch.setattr(pace, "_product_seconds", lambda *_: (0.25, 0.125))
    with open_run(tmp_path / "traced", {"a": 1}, show="quiet") as run:
        told = pace.predict(logistic(), run, cost, products=replace(products, traced=True))
        assert told.seconds == pytest.approx(2 * 3.0 + 40 * 0.5 + 10 * 64 * 0.25 + 200 * 0.125)
    monkeypatch.setattr(pace, "_product_seconds", lambda *_: (np.nan, np.nan))
    with open_run(tmp_path / "other", {"a": 1}, show="quiet") as run:
        told = pace.predict(logistic(), run, cost, products=products)
        assert told.seconds == pytest.approx(2 * 3.0 + float(cost.gradients) * 0.5)


@pytest.mark.parametrize(
    ("method", "times", "examples", "vectors"),
    [
        (CG(iterations=7), 2 * 7, 100, 32),
        (LiSSA(iterations=5, batch_size=16, repeats=3), 2 * 15, 16, 32),
        (LiSSA(iterations=5, batch_size=1_000), 2 * 5, 100, 32),
        (Arnoldi(rank=6), 12, 100, 1),
        (Nystrom(rank=9), 1, 100, 9),
        (EKFACCG(iterations=4), 2 * 4, 100, 32),
        (EKFACCG(iterations=4, refinement="astra", batch_size=20), 2 * 4, 20, 32),
    ],
)
def test_solvers_say_which_products_they_make(method, times, examples, vectors) -> None:
    found = method.products(network(100, 40))
    assert (found.times, found.examples, found.vectors) == (times, examples, vectors)
    assert found.traced == (method.damping == "auto")
    assert method.predict(network(100, 40)).gradients >= found.gradients


@pytest.mark.parametrize(
    ("products", "rows"),
    [
        (Products(times=100, examples=5_000, vectors=1), 64 * 32),
        (Products(times=100, examples=300, vectors=1), 300),
        (Products(times=100, examples=5_000, vectors=8), 64 * 4),
        (Products(times=100, examples=5_000, vectors=32), 64),
        (Products(times=1, examples=5_000, vectors=100), 64),
        (Products(times=1, examples=5_000, vectors=1), 125),
        (Products(times=200, examples=16, vectors=1), 16),
    ],
)
def test_few_vectors_are_probed_on_more_examples(products, rows, monkeypatch) -> None:
    """One vector and 64 examples are overhead for the most part; the probe stays a twentieth of the work."""
    from steelyard.collect import solving

    probed: list[int] = []

    def probe(problem: Problem, asked: Products, few: int):
        probed.extend((len(problem.train), few))
        assert asked == products
        return (lambda: None), (lambda: pytest.fail("no trace was asked for"))

    monkeypatch.setattr(solving, "probe_product", probe)
    assert np.isfinite(pace._product_seconds(network(3_000, 2), products)).all()
    assert probed == [rows, min(rows, 64)]


def network(train: int, query: int) -> Problem:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(train, 4)).astype(np.float32), rng.integers(0, 3, train)
    return Problem(
        Torch(torch.nn.Linear(4, 3), loss="cross_entropy", trained=True), (x, y), (x[:query], y[:query])
    )


def test_the_products_of_a_network_are_probed_and_those_of_a_linear_model_are_not(tmp_path) -> None:
    products = Products(times=1, examples=50, vectors=2)
    seconds, traced = pace._product_seconds(network(50, 2), products)
    assert 0 < seconds < 1 and traced == 0
    seconds, traced = pace._product_seconds(network(50, 2), replace(products, traced=True))
    assert 0 < seconds < 1 and 0 < traced < 1
    assert np.isnan(pace._product_seconds(logistic(), products)).all()


def test_filling_and_factorising_a_large_matrix_is_counted(monkeypatch) -> None:
    monkeypatch.setattr(pace, "_multiplication", lambda: 1e-9)
    small = network(50, 2)
    assert GaussNewton().predict(small).seconds == 0
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 1000)).astype(np.float32), np.arange(40) % 3
    large = Problem(Torch(torch.nn.Linear(1000, 3), trained=True), (x, y), (x[:2], y[:2]))
    side = 3003
    assert GaussNewton().predict(large).seconds == pytest.approx(1e-9 * (40 * 3 * side**2 / 2 + side**3 / 6))


def test_the_pace_of_products_is_that_of_a_product() -> None:
    pace._multiplication.cache_clear()
    each = pace._multiplication()
    assert 1e-13 < each < 1e-7
    assert pace.multiplied(2e9) == 2e9 * each
    assert pace.multiplied(9e8) == 0
