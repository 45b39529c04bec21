"""A training as the states that were kept of it, each with what happened since the one before."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from steelyard.errors import CapabilityError
from steelyard.learners.recipes import Recipe, Single, stages_of
from steelyard.learners.torch_course import stage_members
from steelyard.learners.torch_training import Checkpoint, TorchFitted, present
from steelyard.records import Examples


@dataclass(frozen=True, eq=False)
class Span:
    """The steps of a training from one kept state to the next.

    Attributes:
        fitted: The state after the last of these steps.
        stage: Number of the stage, from 0; a span lies in one stage.
        learning_rate: Sum of the learning rates of these steps.
        recipe: How the steps were taken.
        rows: Positions of the examples that took part in the stage.
    """

    fitted: TorchFitted
    stage: int
    learning_rate: float
    recipe: Single
    rows: Int[np.ndarray, " row"]


def spans(fitted: TorchFitted, recipe: object, examples: Examples) -> Sequence[Span]:
    """The training behind a fitted model, in order; one span where only the final state was kept.

    Args:
        fitted: As trained by the recipe.
        recipe: The learner's.
        examples: What it was trained on.

    Raises:
        CapabilityError: If the training is not known.
    """
    if not isinstance(recipe, Recipe) or fitted.learning_rate == 0:
        raise _unknown()
    stages = stages_of(recipe)
    rows, _ = present(examples.weights(), None)
    members = stage_members(recipe, examples, rows)
    taken = [rows[members[k]] if members else rows for k in range(len(stages))]
    if not fitted.checkpoints:
        return [Span(fitted, 0, fitted.learning_rate, stages[0].recipe, taken[0])]
    return [
        Span(
            _state(fitted, point),
            point.stage,
            point.learning_rate,
            stages[point.stage].recipe,
            taken[point.stage],
        )
        for point in fitted.checkpoints
    ]


def states(fitted: TorchFitted) -> Iterator[tuple[TorchFitted, float]]:
    """Fitted models along a training, each with the sum of learning rates since the one before.

    Where none were kept, the final model with the learning rates of the whole training.

    Raises:
        CapabilityError: If the training is not known.
    """
    if fitted.learning_rate == 0:
        raise _unknown()
    if not fitted.checkpoints:
        yield fitted, fitted.learning_rate
    for point in fitted.checkpoints:
        yield _state(fitted, point), point.learning_rate


def _state(fitted: TorchFitted, point: Checkpoint) -> TorchFitted:
    return replace(fitted, parameters=point.parameters, checkpoints=(), moments=point.moments)


def _unknown() -> CapabilityError:
    return CapabilityError(
        "the training of this model is not known: it came trained, or from your own fit.",
        fix="let the learner train it: recipe=SGD(..., checkpoints=6), or AdamW, without trained=True.",
    )
