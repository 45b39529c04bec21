"""What a training goes through, decided before its first step: examples, stages, order and learning rates."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from steelyard.errors import DataError, FitError
from steelyard.learners.recipes import Recipe, Single, checkpoint_steps, learning_rates, stages_of
from steelyard.learners.torch_batches import epoch_order, id_keys
from steelyard.learners.torch_losses import Batch
from steelyard.records import Examples


@runtime_checkable
class Table(Protocol):
    """Examples that batches can be drawn from; ``torch_batches.Table`` is one."""

    @property
    def ids(self) -> np.ndarray:
        """``str[" example"]`` Ids, which decide the order of training."""
        ...

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        ...

    def batch(self, rows: np.ndarray) -> Batch:
        """The examples at these positions."""
        ...

    def stream(self, rows: np.ndarray, size: int) -> Iterator[Batch]:
        """The examples at these positions, in batches of ``size``, the last of what is left."""
        ...


Reweigh = Callable[[Tensor, Sequence[Tensor], float], Tensor]
"""``(losses[batch], parameters, share) -> factors[batch]``: the one hook into the steps of a training.

Called in every step with the unweighted losses of the batch, of which gradients may be taken with
``retain_graph=True``, the trainable parameters, and the share of the stage's steps that is done, from 0. The factors
are held fixed in the step, and multiply the weights that examples have already. It must not draw random numbers.
"""


@dataclass(frozen=True, eq=False)
class Course:
    """What a training goes through, decided before its first step.

    Attributes:
        table: The examples.
        recipe: How to train.
        rows: Positions of the examples that take part.
        weights: ``[row]`` Their weights; None where all are 1.
        seed: Of batch order and randomness in the network.
        keep: What of a module a fitted model holds; None: all parameters and buffers.
        members: ``bool[" row"]`` for every stage, from :func:`stage_members`; empty where all take part in all.
        watch: Called after every epoch with its number, from 1, and the state. A training that has to start again
            calls it again from 1.
        reweigh: Gives every example of a batch a further factor on its loss, step by step; see :data:`Reweigh`.
    """

    table: Table
    recipe: Recipe
    rows: np.ndarray
    weights: Tensor | None
    seed: int
    keep: Callable[[nn.Module], dict[str, Tensor]] | None = None
    members: tuple[np.ndarray, ...] = ()
    watch: Callable[[int, dict[str, Tensor]], None] | None = None
    reweigh: "Reweigh | None" = None


@dataclass(frozen=True, eq=False)
class Leg:
    """One stage, laid out step by step.

    Attributes:
        recipe: How to train in it.
        places: Positions within ``Course.rows`` of the examples that take part.
        keys: Their hashed ids.
        size: Examples per step.
        rates: Learning rate of every step.
        kept: After how many of its steps a state is kept.
        first_step: Steps of the training before it.
        first_epoch: Epochs of the training before it.
    """

    recipe: Single
    places: Int[np.ndarray, " place"]
    keys: np.ndarray
    size: int
    rates: Float[np.ndarray, " step"]
    kept: frozenset[int]
    first_step: int
    first_epoch: int

    def order(self, epoch: int, seed: int) -> Int[np.ndarray, " place"]:
        """Positions within ``Course.rows`` in the order of an epoch of this stage, counted from 0."""
        return self.places[epoch_order(self.keys, seed=seed, epoch=self.first_epoch + epoch)]


def legs(course: Course) -> tuple[Leg, ...]:
    """The stages of a course, laid out.

    Raises:
        FitError: If no example takes part in a stage.
    """
    found: list[Leg] = []
    steps = epochs = 0
    stages = stages_of(course.recipe)
    keys = id_keys(course.table.ids[course.rows])
    for number, stage in enumerate(stages):
        places = np.flatnonzero(course.members[number]) if course.members else np.arange(len(course.rows))
        if len(places) == 0:
            raise _nobody(number, len(stages), stage.column, stage.values)
        recipe, size = stage.recipe, min(stage.recipe.batch_size or len(places), len(places))
        per_epoch = -(-len(places) // size)
        kept = set(checkpoint_steps(recipe, recipe.epochs, per_epoch))
        if len(stages) > 1:
            kept.add(recipe.epochs * per_epoch)
        rates = learning_rates(recipe, recipe.epochs * per_epoch)
        found.append(Leg(recipe, places, keys[places], size, rates, frozenset(kept), steps, epochs))
        steps, epochs = steps + len(rates), epochs + recipe.epochs
    return tuple(found)


def stage_members(
    recipe: Recipe, examples: Examples, rows: Int[np.ndarray, " row"]
) -> tuple[Bool[np.ndarray, " row"], ...]:
    """Which of the examples at ``rows`` take part in every stage; empty where all take part in all.

    Args:
        recipe: Whose stages may name a column and values.
        examples: Training examples.
        rows: Positions of those that are present.

    Raises:
        DataError: If there is no such column, or it holds values of another kind.
    """
    stages = stages_of(recipe)
    if all(stage.column is None for stage in stages):
        return ()
    found: list[np.ndarray] = []
    for stage in stages:
        if stage.column is None:
            found.append(np.ones(len(rows), dtype=bool))
            continue
        ids = stage.column == "id" and "id" not in examples.columns
        column = (examples.ids if ids else np.asarray(examples.column(stage.column)[:]))[rows]
        textual = column.dtype.kind in "USO"
        if textual != all(isinstance(value, str) for value in stage.values):
            raise DataError(
                f"{examples.source}: column {stage.column!r} holds {'text' if textual else 'numbers'}, but a "
                f"stage is for the values {list(stage.values)}.",
                fix="give values as they stand in the column.",
            )
        wanted = np.array(stage.values)
        found.append(np.isin(column.astype(str) if textual else column, wanted))
    return tuple(found)


def _nobody(number: int, stages: int, column: str | None, values: tuple[object, ...]) -> FitError:
    if column is None:
        return FitError(
            "every example has weight 0, so there is nothing to train on.", fix="keep some examples."
        )
    return FitError(
        f"no example takes part in stage {number + 1} of {stages}: none with {column!r} in {list(values)}.",
        fix="name values that occur in the training data, or keep some of these examples.",
    )
