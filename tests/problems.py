"""Tiny problems with answers known by definition, for every test that needs one; microseconds a fit."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from steelyard.errors import FitError
from steelyard.problem import Problem
from steelyard.records import Examples, Measurement, Scores

SQUARED_ERROR = Measurement("squared error", "squared units", lower_is_better=True)
PAYOFF = Measurement("payoff", "points", lower_is_better=False)


@dataclass(frozen=True, eq=False)
class Parameters:
    """A fitted tiny model."""

    theta: np.ndarray
    seed: int


@dataclass(frozen=True)
class Ridge:
    """Least squares with a penalty on the summed loss, in closed form, measured by squared error.

    Attributes:
        penalty: Added to the diagonal of the Gram matrix of the *summed* loss.
        noise: Deviation of what each (seed, training set) adds to every parameter: training noise.
        needs: Ids without which the fit fails, if any of them is absent.
    """

    penalty: float = 1.0
    noise: float = 0.0
    needs: tuple[str, ...] = ()
    measurement: Measurement = SQUARED_ERROR

    def check(self, train: Examples, query: Examples) -> tuple[str, ...]:
        return ()

    def fit(self, examples: Examples, weights: np.ndarray | None = None, seed: int = 0) -> Parameters:
        missing = set(self.needs).difference(examples.ids.tolist())
        if missing:
            raise FitError(f"example {min(missing)} is missing", fix="leave it in.")
        x, y = inputs(examples), examples.labels()
        scaled = x if weights is None else x * weights[:, None]
        theta = np.linalg.solve(scaled.T @ x + self.penalty * np.eye(x.shape[1]), scaled.T @ y)
        return Parameters(theta + self.noise * _noise(examples, seed, x.shape[1]), seed)

    def explained(self, examples: Examples, seed: int = 0) -> Parameters:
        return self.fit(examples, seed=seed)

    def measure(self, fitted: Parameters, queries: Examples) -> np.ndarray:
        return self.loss(fitted, queries)

    def loss(self, fitted: Parameters, examples: Examples) -> np.ndarray:
        return (inputs(examples) @ fitted.theta - examples.labels()) ** 2

    def settings(self) -> Mapping[str, Any]:
        return asdict(self)

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def dump(self, fitted: Parameters) -> Mapping[str, np.ndarray]:
        return {"theta": fitted.theta, "seed": np.array(fitted.seed)}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> Parameters:
        return Parameters(np.asarray(arrays["theta"]), int(arrays["seed"]))

    def embed(self, fitted: Parameters, examples: Examples) -> np.ndarray:
        return inputs(examples).astype(np.float32)


@dataclass(frozen=True)
class Additive:
    """A game that is exactly linear: the model is the sum of its examples, a query its product with it.

    Leaving out example i lowers the payoff of query q by exactly x_i · q, whatever else is there: that is
    the true score, every group effect is a sum, and the LDS of the truth is 1.

    Attributes:
        noise: Deviation of what each (seed, training set) adds to every query's payoff, independently.
    """

    noise: float = 0.0
    measurement: Measurement = PAYOFF

    def check(self, train: Examples, query: Examples) -> tuple[str, ...]:
        return ()

    def fit(self, examples: Examples, weights: np.ndarray | None = None, seed: int = 0) -> Parameters:
        x = inputs(examples)
        theta = x.sum(axis=0) if weights is None else weights @ x
        return Parameters(theta + self.noise * _noise(examples, seed, x.shape[1]), seed)

    def explained(self, examples: Examples, seed: int = 0) -> Parameters:
        return self.fit(examples, seed=seed)

    def measure(self, fitted: Parameters, queries: Examples) -> np.ndarray:
        return inputs(queries) @ fitted.theta

    def loss(self, fitted: Parameters, examples: Examples) -> np.ndarray:
        return -(inputs(examples) @ fitted.theta)

    def settings(self) -> Mapping[str, Any]:
        return asdict(self)

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()


def examples(x: np.ndarray, y: np.ndarray, prefix: str) -> Examples:
    """Examples with ids like ``t0007``; floating-point inputs, one label each."""
    digest = hashlib.sha256(np.ascontiguousarray(x).tobytes() + np.ascontiguousarray(y).tobytes())
    digest.update(prefix.encode())
    return Examples(
        ids=np.array([f"{prefix}{i:04d}" for i in range(len(x))]),
        columns={"input": x, "label": y},
        inputs=("input",),
        label="label",
        checksum=digest.hexdigest(),
        source=f"{len(x)} made-up examples",
    )


def ridge_problem(
    train: int = 40, query: int = 6, *, noise: float = 0.0, flip: int = 0, needs: tuple[str, ...] = ()
) -> Problem:
    """Linear data in 4 dimensions; the first ``flip`` training labels have the wrong sign."""
    draw = np.random.default_rng(7)
    truth = np.array([2.0, -1.0, 0.5, 1.5])
    x, q = draw.normal(size=(train, 4)), draw.normal(size=(query, 4))
    y = x @ truth + 0.3 * draw.normal(size=train)
    y[:flip] *= -1.0
    learner = Ridge(noise=noise, needs=needs)
    return Problem(learner, examples(x, y, "t"), examples(q, q @ truth, "q"))


def additive_problem(train: int = 60, query: int = 5, *, noise: float = 0.0, seed: int = 0) -> Problem:
    """The linear game with Gaussian examples and queries."""
    draw = np.random.default_rng(11)
    x, q = draw.normal(size=(train, 3)), draw.normal(size=(query, 3))
    return Problem(Additive(noise), examples(x, x[:, 0], "t"), examples(q, q[:, 0], "q"), seed=seed)


def additive_truth(problem: Problem) -> np.ndarray:
    """``float64["train query"]`` The exact removal effects of an additive problem."""
    return inputs(problem.train) @ inputs(problem.query).T


def scores_of(
    problem: Problem, values: np.ndarray, *, unit: str | None = None, method: str = "Given()"
) -> Scores:
    """Scores with those values for that problem."""
    return Scores(
        values=values,
        train_ids=problem.train.ids,
        query_ids=problem.query.ids,
        method=method,
        unit=problem.learner.measurement.unit if unit is None else unit,
        measurement=problem.learner.measurement,
        train_checksum=problem.train.checksum,
        query_checksum=problem.query.checksum,
    )


def inputs(data: Examples) -> np.ndarray:
    """``float64["example feature"]`` The input column as an array."""
    return np.asarray(data.input()[:], dtype=np.float64)


def _noise(data: Examples, seed: int, size: int) -> np.ndarray:
    digest = hashlib.blake2b(f"{seed}|{data.checksum}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little")).normal(size=size)
