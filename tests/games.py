"""Games with a table of utilities: a model is the set of its examples, so values are known by enumeration."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from steelyard.errors import FitError
from steelyard.problem import Problem
from steelyard.records import Examples, Measurement
from tests.problems import examples

GAIN = Measurement("gain", "points", lower_is_better=False)


@dataclass(frozen=True, eq=False)
class Coalition:
    bits: int
    seed: int


@dataclass(frozen=True, eq=False)
class Table:
    """A learner that looks up what a coalition of its examples is worth to each query.

    Attributes:
        utilities: ``float["coalition query"]``; bit i of the row is the example whose input is i.
        refuses: Coalitions (as bits) whose fit fails.
        stop: Called at every fit.
    """

    utilities: np.ndarray
    refuses: frozenset[int] = frozenset()
    stop: Callable[[], None] | None = None
    measurement: Measurement = GAIN

    def check(self, train: Examples, query: Examples) -> tuple[str, ...]:
        return ()

    def fit(self, examples: Examples, weights: np.ndarray | None = None, seed: int = 0) -> Coalition:
        if self.stop is not None:
            self.stop()
        bits = int(sum(1 << int(i) for i in np.asarray(examples.input()[:]).ravel()))
        if bits in self.refuses:
            raise FitError(f"coalition {bits} is refused", fix="none.")
        return Coalition(bits, seed)

    def explained(self, examples: Examples, seed: int = 0) -> Coalition:
        return self.fit(examples, seed=seed)

    def measure(self, fitted: Coalition, queries: Examples) -> np.ndarray:
        return self.utilities[fitted.bits][np.asarray(queries.input()[:], dtype=np.int64).ravel()]

    def loss(self, fitted: Coalition, examples: Examples) -> np.ndarray:
        return np.zeros(len(examples))

    def settings(self) -> Mapping[str, Any]:
        return {"table": self.fingerprint()}

    def fingerprint(self) -> str:
        return hashlib.sha256(self.utilities.tobytes() + repr(sorted(self.refuses)).encode()).hexdigest()


def table_problem(
    players: int = 5,
    queries: int = 2,
    *,
    seed: int = 0,
    utilities: np.ndarray | None = None,
    refuses: frozenset[int] = frozenset(),
    stop: Callable[[], None] | None = None,
) -> Problem:
    """A random game; nobody is worth 0 unless utilities are given."""
    if utilities is None:
        utilities = np.random.default_rng(3).normal(size=(2**players, queries))
        # Some of it is additive, as in real games.
        bits = np.arange(2**players)[:, None] >> np.arange(players) & 1
        utilities = utilities + 2 * bits @ np.linspace(-1, 1, players)[:, None]
        utilities[0] = 0.0
    train = examples(np.arange(players, dtype=np.float64)[:, None], np.zeros(players), "t")
    query = examples(
        np.arange(utilities.shape[1], dtype=np.float64)[:, None], np.zeros(utilities.shape[1]), "q"
    )
    return Problem(Table(utilities, refuses, stop), train, query, seed=seed)


def by_definition(utilities: np.ndarray, weight: Callable[[int, int], float]) -> np.ndarray:
    """Semivalues as the definition has them: over all subsets of the others, one by one.

    Args:
        utilities: ``float["coalition column"]``
        weight: From the size of the coalition and the number of players to its weight.
    """
    players = int(math.log2(len(utilities)))
    values = np.zeros((players, utilities.shape[1]))
    for i in range(players):
        others = [j for j in range(players) if j != i]
        for size in range(players):
            for chosen in combinations(others, size):
                bits = sum(1 << j for j in chosen)
                values[i] += weight(size, players) * (utilities[bits | 1 << i] - utilities[bits])
    return values


def shapley_weight(size: int, players: int) -> float:
    return 1 / (players * math.comb(players - 1, size))


def banzhaf_weight(size: int, players: int) -> float:
    return 0.5 ** (players - 1)


def beta_weight(alpha: float, beta: float) -> Callable[[int, int], float]:
    """B(s + beta, n - 1 - s + alpha) / B(alpha, beta), by products of Gamma functions."""

    def weight(size: int, players: int) -> float:
        a, b = size + beta, players - 1 - size + alpha
        top = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
        return math.exp(top - math.lgamma(alpha) - math.lgamma(beta) + math.lgamma(alpha + beta))

    return weight
