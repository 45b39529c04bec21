"""The driver: shards, blocks of queries, provenance and errors, around a method whose answer is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from steelyard.errors import NumericsError, SettingError, ShapeError
from steelyard.problem import Problem
from steelyard.records import Cost, Measurement, Scores
from steelyard.run import Run, in_memory, open_run
from steelyard.score.driver import MethodCard, best_of, make_scores, score_examples, score_pairs


@dataclass(frozen=True)
class Mean:
    """A learner that predicts nothing and measures the first feature; enough for a driver."""

    notes: tuple[str, ...] = ()

    @property
    def measurement(self) -> Measurement:
        return Measurement("loss", "nats", lower_is_better=True)

    def check(self, train: Any, query: Any) -> tuple[str, ...]:
        return self.notes

    def fit(self, examples: Any, weights: Any = None, seed: int = 0) -> Any:
        return seed

    def explained(self, examples: Any, seed: int = 0) -> Any:
        return seed

    def measure(self, fitted: Any, queries: Any) -> np.ndarray:
        return np.asarray(queries.input()[:])[:, 0]

    def loss(self, fitted: Any, examples: Any) -> np.ndarray:
        return np.asarray(examples.input()[:])[:, 0]

    def settings(self) -> Mapping[str, Any]:
        return {}

    def fingerprint(self) -> str:
        return "mean"


@dataclass(frozen=True)
class Product:
    """Score = scale times the dot product of the inputs."""

    card: ClassVar[MethodCard] = MethodCard("none", "nothing", "one product", "testing")
    scale: float = 1.0
    held: int = 10**9
    poison: int = -1
    seed: int = 5

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        return "rank"

    def queries_at_once(self, problem: Problem) -> int:
        return self.held

    def predict(self, problem: Problem) -> Cost:
        return Cost(gradients=len(problem.train) + len(problem.query))

    def prepare(self, problem: Problem, run: Run) -> np.ndarray:
        run.spend(gradients=len(problem.query))
        return np.asarray(problem.query.input()[:]).T * self.scale

    def resolved(self, state: np.ndarray) -> Mapping[str, Any]:
        return {"features": np.int64(len(state)), "damping": 0.25}

    def score(self, problem: Problem, state: np.ndarray, rows: slice) -> np.ndarray:
        values = np.asarray(problem.train.input()[rows]) @ state
        if rows.start <= self.poison < rows.stop:
            values[self.poison - rows.start, 0] = np.nan
        return values


def problem(train: int = 700, query: int = 5, notes: tuple[str, ...] = ()) -> Problem:
    rng = np.random.default_rng(0)
    x, q = rng.normal(size=(train, 3)), rng.normal(size=(query, 3))
    return Problem(Mean(notes), (x, np.arange(train)), (q, np.arange(query)), seed=2)


def exact(given: Problem) -> np.ndarray:
    return np.asarray(given.train.input()[:]) @ np.asarray(given.query.input()[:]).T


def test_shards_of_any_size_give_the_matrix():
    given = problem()
    for size in (None, 1, 13, 700, 5000):
        np.testing.assert_allclose(score_pairs(Product(), given, shard=size).values, exact(given), rtol=1e-12)


def test_blocks_of_queries_give_the_matrix():
    given = problem(query=11)
    np.testing.assert_allclose(Product(held=4)(given).values, exact(given), rtol=1e-12)


def test_blocks_of_queries_in_a_folder_give_the_same_bits_again(tmp_path):
    given = problem(query=11)
    with open_run(tmp_path / "run", {}) as run:
        first = np.array(Product(held=4)(given, run).values)
        again = np.array(Product(held=4)(given, run).values)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first, exact(given), rtol=1e-12)


def test_a_large_matrix_is_mapped_and_a_finished_run_reads_it_again(tmp_path):
    given = problem(train=2500, query=2000)
    with open_run(tmp_path / "run", {}) as run:
        first = Product()(given, run)
        assert isinstance(first.values, np.memmap)
        bits = np.array(first.values)
    with open_run(tmp_path / "run", {}) as run:
        assert run.finished
        again = Product()(given, run)
    np.testing.assert_array_equal(again.values, bits)
    np.testing.assert_allclose(bits, exact(given), rtol=1e-12)


def test_provenance_is_complete():
    scores = Product(scale=2.0)(problem(notes=("dropout is off",)))
    made = scores.provenance
    assert scores.method == "Product(scale=2.0, held=1000000000, poison=-1, seed=5)"
    assert made.given["scale"] == 2.0
    assert made.resolved == {"features": 3, "damping": 0.25}
    assert made.seeds == {"problem": 2, "method": 5}
    assert made.checksums["train"] == scores.train_checksum
    assert "dropout is off" in made.notes
    assert made.cost.gradients == 5
    assert made.predicted is not None
    assert made.predicted.gradients == 705
    assert made.versions["numpy"] == np.__version__


def test_cost_is_that_of_the_method_alone():
    given, run = problem(), in_memory()
    run.spend(gradients=1000)
    assert Product()(given, run).provenance.cost.gradients == 5


def test_a_finished_shard_is_not_computed_again(tmp_path):
    given = problem()
    computed: list[slice] = []

    @dataclass(frozen=True)
    class Counted(Product):
        def score(self, problem: Problem, state: np.ndarray, rows: slice) -> np.ndarray:
            computed.append(rows)
            if len(computed) == 2:
                raise KeyboardInterrupt
            return super().score(problem, state, rows)

    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "run", {}) as run:
        score_pairs(Counted(), given, run)
    with open_run(tmp_path / "run", {}) as run:
        scores = score_pairs(Counted(), given, run)
        np.testing.assert_allclose(scores.values, exact(given), rtol=1e-12)
    starts = [rows.start for rows in computed]
    assert starts[0] == 0
    assert starts.count(0) == 1
    assert starts.count(starts[1]) == 2


def test_other_settings_do_not_read_these_shards(tmp_path):
    given = problem()
    with open_run(tmp_path / "run", {}) as run:
        one = np.array(Product(scale=1.0)(given, run).values)
        two = np.array(Product(scale=2.0)(given, run).values)
    np.testing.assert_allclose(two, 2 * one)


def test_not_finite_names_example_and_query():
    given = problem()
    with pytest.raises(NumericsError, match=str(given.train.ids[600])):
        Product(poison=600)(given)
    with pytest.raises(NumericsError, match=str(given.query.ids[0])):
        best_of(Product(poison=600), given, 3)


def test_wrong_shape_is_refused():
    @dataclass(frozen=True)
    class Short(Product):
        def score(self, problem: Problem, state: np.ndarray, rows: slice) -> np.ndarray:
            return super().score(problem, state, rows)[:, :-1]

    with pytest.raises(ShapeError, match="expected \\(700, 5\\)"):
        Short()(problem())


def test_best_of_equals_top_of_the_matrix(tmp_path):
    given = problem()
    expected = Product()(given).top(4)
    with open_run(tmp_path / "run", {}) as run:
        found = best_of(Product(), given, 4, run)
        again = best_of(Product(), given, 4, run)
    assert found.equals(expected)
    assert again.equals(expected)
    with pytest.raises(SettingError, match="k is 0"):
        best_of(Product(), given, 0)


def test_best_of_with_fewer_examples_than_asked_for():
    given = problem(train=3)
    assert best_of(Product(), given, 10).equals(Product()(given).top(10))


def test_examples_axis():
    @dataclass(frozen=True)
    class Norm(Product):
        def score(self, problem: Problem, state: np.ndarray, rows: slice) -> np.ndarray:
            return np.square(np.asarray(problem.train.input()[rows])).sum(axis=1, keepdims=True)

    given = problem()
    scores = score_examples(Norm(), given)
    assert scores.axis == "example"
    assert scores.suspect == "high"
    assert list(scores.query_ids) == ["self"]
    np.testing.assert_allclose(scores.harm(), np.square(np.asarray(given.train.input()[:])).sum(axis=1))


def test_a_method_that_is_no_dataclass_is_refused():
    given = problem()
    with pytest.raises(SettingError, match="not a dataclass"):
        make_scores(object(), given, np.zeros((700, 5)), in_memory(), unit="rank")
