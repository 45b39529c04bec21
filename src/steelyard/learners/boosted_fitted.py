"""What a trained model of boosted trees is, and what every library's adapter offers."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from steelyard.learners.boosted_columns import Coding
from steelyard.records import Examples
from steelyard.trees.forest import Forest, leaves, raw_scores
from steelyard.trees.objectives import Custom, Objective


@dataclass(frozen=True, eq=False)
class Training:
    """What a model is trained by.

    Attributes:
        estimator: An estimator of the library's scikit-learn interface, to be copied and fitted; None otherwise.
        parameters: Parameters for the library's own ``train``.
        rounds: How many rounds; None where the estimator says it.
        custom: The user's own objective.
        binned: Whether XGBoost bins the rows as it reads them, as its estimators do with histograms.
    """

    estimator: Any = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    rounds: int | None = None
    custom: Custom | None = None
    binned: bool = False


@dataclass(frozen=True, eq=False)
class Rows:
    """Training rows as every adapter takes them.

    Attributes:
        table: Features.
        codes: Targets, or codes of classes.
        labels: As the examples have them.
        weights: Weights of the rows; None where all are 1.
        coding: How features were made.
        classes: Label of every code; None for a regression.
    """

    table: Float[np.ndarray, "example feature"]
    codes: Float[np.ndarray, " example"]
    labels: np.ndarray
    weights: Float[np.ndarray, " example"] | None
    coding: Coding
    classes: np.ndarray | None

    def ones(self) -> Float[np.ndarray, " example"]:
        """The weights, ones where there are none."""
        return np.ones(len(self.codes)) if self.weights is None else self.weights


@runtime_checkable
class Library(Protocol):
    """The adapter of one library: a module ``learners/boosted_LIBRARY.py``."""

    def training(self, model: Any, given: Mapping[str, Any] | None, custom: Custom | None) -> Training:
        """What the model was or is to be trained by."""
        ...

    def native(self, model: Any) -> Any:
        """The library's own trained object within an estimator."""
        ...

    def outputs(self, model: Any) -> tuple[bool, np.ndarray | int | None]:
        """Whether the model tells classes apart, and its classes, or how many; None if not known before a fit."""
        ...

    def train(self, training: Training, rows: Rows, seed: int) -> Any:
        """Train on one thread; FitError if the library refuses."""
        ...

    def coding(self, model: Any, examples: Examples) -> Coding:
        """How the examples become this trained model's features; ModelError if they are others."""
        ...

    def objective(self, model: Any, training: Training, classes: int) -> Objective:
        """What the training minimised."""
        ...

    def class_weights(self, model: Any, training: Training, rows: Rows) -> np.ndarray | None:
        """``float64[" class"]`` What the library multiplies the weights of each class by."""
        ...

    def start(self, model: Any, objective: Objective, rows: Rows, weights: np.ndarray) -> np.ndarray | None:
        """Raw scores before the first tree, where the model does not hold them."""
        ...

    def forest(self, fitted: "BoostedFitted") -> Forest:
        """The layout."""
        ...

    def table(self, fitted: "BoostedFitted", features: np.ndarray) -> np.ndarray:
        """What the layout reads for these features."""
        ...

    def raw(self, fitted: "BoostedFitted", features: np.ndarray) -> np.ndarray:
        """``float64["row output"]`` The library's own raw scores."""
        ...

    def dump(self, model: Any) -> bytes | None:
        """The model in the library's own safe format; None if it has none."""
        ...

    def load(self, content: bytes) -> Any:
        """The inverse of :meth:`dump`."""
        ...


@dataclass(frozen=True, eq=False)
class BoostedFitted:
    """A trained model.

    Attributes:
        model: The library's own; None where only the layout was kept.
        library: Its adapter.
        training: What it was trained by.
        objective: What its training minimised.
        coding: How examples become its features.
        classes: Label of every code; None for a regression.
        seed: Of the training.
        start: Raw scores before the first tree, where the model does not hold them.
        mean_weight: Mean weight of its training examples.
        notes: What is worth knowing.
        kept: The layout, where only that was kept.
    """

    model: Any
    library: Library
    training: Training
    objective: Objective
    coding: Coding
    classes: np.ndarray | None
    seed: int
    start: np.ndarray | None = None
    mean_weight: float = 1.0
    notes: tuple[str, ...] = ()
    kept: Forest | None = None

    @functools.cached_property
    def forest(self) -> Forest:
        """The trees as arrays."""
        return self.library.forest(self) if self.kept is None else self.kept

    def numbers(self, features: Float[np.ndarray, "row feature"]) -> Int[np.ndarray, "row tree"]:
        """Leaf of every row in every tree."""
        return leaves(self.forest, self.library.table(self, features))

    def raw(self, features: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "row output"]:
        """Raw scores: the library's own, or the layout's where only that was kept."""
        if self.model is None:
            return raw_scores(self.forest, self.numbers(features))
        found = np.asarray(self.library.raw(self, features), dtype=np.float64)
        return found.reshape(len(features), -1)
