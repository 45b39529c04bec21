"""Leaves: the leaf of every example and query in every tree, and what the training added up in it."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from steelyard.collect.fits import explained
from steelyard.problem import HasLeaves, Problem, require
from steelyard.run import Run
from steelyard.trees.forest import Forest

INSTEAD = "leave_one_out, knn_shapley or embedding_cosine"
"""Methods that work without leaves, for errors."""


@dataclass(frozen=True, eq=False)
class Leaves:
    """A boosted model as the methods on trees read it.

    Attributes:
        forest: The trees: structure, values, objective, penalties.
        train: ``int32``: leaf of every training example, within its tree.
        query: The same for the queries.
        labels_train: Labels as the objective reads them: targets or class codes.
        labels_query: The same for the queries.
        weights: Weight of every training example in the objective: its column ``weight`` times its class's weight; 0
            is absent.
        slopes: Derivative of every query's measurement by its raw scores, as a function of these: ``["query output"]``.
        answers: Every query's measurement as a function of the queries' raw scores.
        lower_is_better: Direction of the measurement.
        in_bag: Which examples each round drew; None where all were, or where the model does not tell.
        notes: What is worth knowing.
    """

    forest: Forest
    train: Int[np.ndarray, "example tree"]
    query: Int[np.ndarray, "query tree"]
    labels_train: Float[np.ndarray, " example"]
    labels_query: Float[np.ndarray, " query"]
    weights: Float[np.ndarray, " example"]
    slopes: Callable[[np.ndarray], np.ndarray]
    answers: Callable[[np.ndarray], np.ndarray]
    lower_is_better: bool
    in_bag: Bool[np.ndarray, "example round"] | None
    notes: tuple[str, ...]


def leaves_of(problem: Problem, run: Run, *, method: str = "This method", instead: str = INSTEAD) -> Leaves:
    """Leaves of a problem's training examples and queries in its explained model.

    Cost: the explained model, and one pass of all examples and queries through its trees.

    Args:
        problem: A learner of boosted trees with its data.
        run: Where the explained model is kept; notes about it go there too.
        method: Who asks, for the error.
        instead: Methods that work without leaves, for the error.

    Raises:
        CapabilityError: If the learner has no leaves.
        ModelError: If the model cannot be brought into the layout, or was not trained on these examples.
    """
    learner = require(problem.learner, HasLeaves, method=method, instead=instead)
    fitted = explained(problem, run)
    forest = learner.forest(fitted)
    train, query = learner.leaves(fitted, problem.train), learner.leaves(fitted, problem.query)
    notes = tuple(learner.leaf_notes(fitted))
    for note in notes:
        run.note(note)
    return Leaves(
        forest=forest,
        train=train,
        query=query,
        labels_train=learner.targets(fitted, problem.train),
        labels_query=learner.targets(fitted, problem.query),
        weights=learner.leaf_weights(fitted, problem.train),
        slopes=functools.partial(learner.sensitivity, fitted, problem.query),
        answers=functools.partial(learner.answers, fitted, problem.query),
        lower_is_better=problem.learner.measurement.lower_is_better,
        in_bag=None,
        notes=notes,
    )
