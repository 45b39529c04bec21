"""Embeddings: one vector per example, from the learner or from the inputs themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from steelyard.collect.fits import explained
from steelyard.errors import CapabilityError, DataError
from steelyard.problem import HasEmbeddings, Problem, require
from steelyard.records import Examples
from steelyard.run import Run

Source = Literal["auto", "learner", "inputs"]


@dataclass(frozen=True, eq=False)
class Embedder:
    """Turns examples into vectors.

    Attributes:
        of: Where vectors come from, and why: the resolved setting.
        embed: Examples to ``float["example feature"]``.
    """

    of: str
    embed: Callable[[Examples], Float[np.ndarray, "example feature"]]

    def __call__(self, examples: Examples) -> Float[np.ndarray, "example feature"]:
        """Vectors of the examples.

        Raises:
            DataError: If a vector is not finite; names the example.
        """
        vectors = self.embed(examples)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise DataError(
                f"{examples.source}: the embedding of example {str(examples.ids[bad[0]])!r} holds NaN or "
                "infinity.",
                fix="look at this example for missing or extreme values.",
            )
        return vectors


def embedder(problem: Problem, run: Run, *, source: Source, method: str) -> Embedder:
    """What turns this problem's examples into vectors.

    Cost: one fit for the learner's embeddings, unless the run folder has the explained model; one forward pass
    per example when called.

    Args:
        problem: Learner and training examples.
        run: Where the explained model is kept.
        source: ``"learner"``: what the explained model's last layer reads. ``"inputs"``: the input columns as
            numbers, side by side. ``"auto"``: the learner's where it has them.
        method: Who asks, for the error.

    Raises:
        CapabilityError: If the learner was asked for and offers none, or inputs were and are no numbers.
    """
    if source == "learner" or (source == "auto" and isinstance(problem.learner, HasEmbeddings)):
        learner = require(problem.learner, HasEmbeddings, method=method, instead="embedding='inputs'")
        fitted = explained(problem, run)
        return Embedder(
            "learner: what the explained model's last layer reads", lambda e: learner.embed(fitted, e)
        )
    numbers(problem.train.take(slice(0, 1)), method)
    reason = "as asked" if source == "inputs" else f"{type(problem.learner).__name__} offers no embeddings"
    return Embedder(f"inputs: {reason}", lambda examples: numbers(examples, method))


def numbers(examples: Examples, method: str) -> Float[np.ndarray, "example feature"]:
    """The input columns as one table of float64, arrays flattened.

    Raises:
        CapabilityError: If a column holds no numbers.
    """
    columns: list[np.ndarray] = []
    for name in examples.inputs:
        values = np.asarray(examples.column(name)[:])
        if values.dtype.kind not in "biuf":
            raise CapabilityError(
                f"{method} needs numbers, but column {name!r} of {examples.source} has type {values.dtype}.",
                fix="use bm25 or tfidf for text, or a learner with embeddings.",
            )
        columns.append(values.reshape(len(values), -1).astype(np.float64))
    return np.concatenate(columns, axis=1)
