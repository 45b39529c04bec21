"""What a method is, and what it may offer the driver beyond scoring."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from steelyard.gradients.parts import By, Split
from steelyard.problem import Problem
from steelyard.records import Cost, Products, Scores
from steelyard.run import Run


@dataclass(frozen=True)
class MethodCard:
    """What ``steelyard methods`` says about a method.

    Attributes:
        paper: Authors, year and title of the source, short.
        needs: What it asks of the learner: ``"nothing"``, ``"gradients"``, ``"n + 1 fits"``, …
        cost: In gradient-equivalents or fits, with n training examples and q queries.
        good_for: When to reach for it, in one clause.
    """

    paper: str
    needs: str
    cost: str
    good_for: str


@runtime_checkable
class Method(Protocol):
    """A scorer: a frozen dataclass whose fields are its settings and whose repr is its provenance."""

    card: ClassVar[MethodCard]

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example."""
        ...


@runtime_checkable
class PairMethod(Protocol):
    """A method that scores slices of training rows against all queries."""

    def unit(self, problem: Problem) -> str:
        """``"rank"`` for a similarity, else usually ``problem.learner.measurement.unit``."""
        ...

    def prepare(self, problem: Problem, run: Run) -> Any:
        """Whatever depends on the model and the queries, once; expensive parts through ``run.keep``."""
        ...

    def score(self, problem: Problem, state: Any, rows: slice) -> np.ndarray:
        """``float["row query"]`` Scores of those training rows, positive = training on the row helps."""
        ...


@runtime_checkable
class Predicts(Protocol):
    """A method that knows its cost before the work."""

    def predict(self, problem: Problem) -> Cost:
        """Gradient-equivalents and fits that scoring this problem will take."""
        ...


@runtime_checkable
class Multiplies(Protocol):
    """A method that spends most of its time on products with the curvature."""

    def products(self, problem: Problem) -> Products:
        """Those that scoring this problem will take; they are part of what ``predict`` counts."""
        ...


@runtime_checkable
class Resolves(Protocol):
    """A method with settings that depend on the data."""

    def resolved(self, state: Any) -> Mapping[str, Any]:
        """What every ``"auto"`` became, with the reason, as plain JSON values."""
        ...


@runtime_checkable
class HoldsQueries(Protocol):
    """A method whose prepared state grows with the queries."""

    def queries_at_once(self, problem: Problem) -> int:
        """How many queries fit into its prepared state."""
        ...


@runtime_checkable
class Splits(Protocol):
    """A method whose score of a pair is a product of two gradients.

    It then depends on the training example's content alone, not on its row, so that any examples can be scored by
    themselves; and it is a sum over tokens, layers and heads.
    """

    def split(self, problem: Problem, state: Any, rows: np.ndarray, by: By) -> Split:
        """Scores of those training rows part by part; parts and rest sum to the scores."""
        ...
