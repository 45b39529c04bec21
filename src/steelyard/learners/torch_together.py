"""Whether, and how many at once, networks are trained side by side: decided by looking and by a short trial.

What cannot be equal to the plain loop is ruled out by looking at the model. The rest decides a trial of a few
steps, which also compares the parameters that come out of both ways: a stack is used where it is equal and faster.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from steelyard.errors import FitError
from steelyard.learners.recipes import Recipe, stages_of
from steelyard.learners.torch_batches import Table
from steelyard.learners.torch_course import Course
from steelyard.learners.torch_stacked import Stack, lay_out, stacks, train_stack
from steelyard.learners.torch_training import LossFunction, TorchFitted, train

MOST = 64
"""Models in a stack: more gain nothing on a processor, and a kill loses them all."""
_BYTES = 256 * 2**20
_TRIED = 8
_STEPS = 4
_PAYS = 0.8
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4}
_LONG_STEP = 0.02  # seconds; with steps this long, starting kernels is not what takes the time
_Result = TypeVar("_Result")
_NORMED = nn.modules.batchnorm._BatchNorm
_DROPPED = nn.modules.dropout._DropoutNd


@dataclass(frozen=True)
class Together:
    """How fits of one learner on one training set are made.

    Attributes:
        count: How many at once; 1 for the plain loop.
        reason: Why, for the record.
    """

    count: int
    reason: str


def obstacle(net: nn.Module, recipe: object) -> str:
    """Why models like this one cannot be trained side by side; empty if nothing speaks against a trial.

    Args:
        net: The module.
        recipe: How it is trained.
    """
    if not isinstance(recipe, Recipe):
        return "the training is not known: it is your own fit, or there is none"
    for name, module in net.named_modules():
        if isinstance(module, _NORMED):
            return f"{name or 'the model'} normalises over the batch"
        if isinstance(module, _DROPPED) and module.p > 0:
            return f"{name or 'the model'} draws random numbers in training (dropout)"
        if isinstance(module, nn.RNNBase):
            return f"{name or 'the model'} ({type(module).__name__}) cannot be vectorised"
    if any(parameter.dtype not in _TOLERANCE for parameter in net.parameters() if parameter.requires_grad):
        return "its parameters are neither float32 nor float64"
    return "" if _most(net) > 1 else "it is too large to be held several times"


def decide(start: Callable[[], nn.Module], loss: LossFunction, course: Course, net: nn.Module) -> Together:
    """How many of these models to train at once.

    Cost: about twenty steps of training.

    Args:
        start: Gives the untrained module; called under a seed.
        loss: ``(model, batch) -> [batch]``.
        course: A training on everything.
        net: The module.
    """
    why = obstacle(net, course.recipe)
    if not why and isinstance(course.table, Table) and course.table.columns:
        why = "columns are read from the disk batch by batch"
    if why:
        return Together(1, f"fits are made one by one: {why}")
    count = min(MOST, _most(net))
    tried = min(count, _TRIED)
    courses = [_few_steps(course, seed) for seed in range(tried)]
    laid = [one for one in map(lay_out, courses) if one is not None]
    try:
        alone, seconds_alone = _timed(lambda: [train(start, loss, courses[k]) for k in (0, tried - 1)])
    except FitError as error:
        return Together(1, f"fits are made one by one: a trial of {_STEPS} steps failed: {error.problem}")
    if seconds_alone > _LONG_STEP * _STEPS * len(alone):
        return Together(1, "fits are made one by one: their steps are long, so that nothing would be gained")
    try:
        with warnings.catch_warnings():
            # torch warns where it would vectorise by running one model after the other.
            warnings.filterwarnings("error", message=".*batching rule.*")
            stack, seconds = _timed(lambda: train_stack(start, loss, laid))
    except (RuntimeError, ValueError, TypeError, IndexError, UserWarning) as error:
        # Whatever vmap cannot do: data-dependent control flow, .item(), random numbers, in-place changes.
        first = str(error).strip().partition("\n")[0]
        return Together(1, f"fits are made one by one: torch.func.vmap cannot vectorise the model ({first})")
    if not _equal(alone, stack, (0, tried - 1)):
        return Together(1, "fits are made one by one: side by side they came out differently in a trial")
    if seconds / tried > _PAYS * seconds_alone / len(alone):
        return Together(1, "fits are made one by one: side by side they were no faster in a trial")
    return Together(
        count, f"fits are trained up to {count} at once, side by side; they equal single fits up to rounding"
    )


def measure_together(
    start: Callable[[], nn.Module],
    loss: LossFunction,
    courses: Sequence[Course],
    ask: Callable[[Stack], Float64[np.ndarray, "model query"]],
) -> Float64[np.ndarray, "fit query"]:
    """Train along all of these courses, side by side where they have equally many steps, and measure.

    Args:
        start: Gives the untrained module; called under the seed of each course.
        loss: ``(model, batch) -> [batch]``.
        courses: Over one table, by one recipe.
        ask: Measures the queries.

    Returns:
        In the order of the courses; NaN where a training diverged, or nobody takes part in a stage of it.
    """
    found: dict[int, np.ndarray] = {}
    possible = {place: one for place, course in enumerate(courses) if (one := lay_out(course)) is not None}
    places, laid = np.array(list(possible), dtype=np.int64), list(possible.values())
    for members in stacks(laid, MOST):
        stack = train_stack(start, loss, [laid[k] for k in members])
        values = ask(stack)
        values[~stack.finite] = np.nan
        found |= dict(zip(places[members].tolist(), values, strict=True))
    if not found:
        return np.full((len(courses), 0), np.nan)
    nothing = np.full_like(next(iter(found.values())), np.nan)
    return np.stack([found.get(place, nothing) for place in range(len(courses))])


def _most(net: nn.Module) -> int:
    # Values, gradients in two places, two moments, and as much again for activations.
    own = sum(tensor.nbytes for tensor in (*net.parameters(), *net.buffers()))
    return int(_BYTES // max(1, 8 * own))


def _few_steps(course: Course, seed: int) -> Course:
    recipe = stages_of(course.recipe)[0].recipe
    size = min(recipe.batch_size or len(course.rows), len(course.rows))
    rows = course.rows[: _STEPS * size]
    epochs = -(-_STEPS // -(-len(rows) // size))
    weights = None if course.weights is None else course.weights[: len(rows)]
    few = replace(recipe, epochs=epochs, checkpoints=0)
    return replace(course, recipe=few, rows=rows, weights=weights, seed=seed, members=())


def _timed(work: Callable[[], _Result]) -> tuple[_Result, float]:
    found = work()  # imports and first allocations
    seconds = float("inf")
    for _ in range(
        3
    ):  # the least of them, and of this thread's own time: other work on the machine decides nothing
        started = time.thread_time()
        found = work()
        seconds = min(seconds, time.thread_time() - started)
    return found, seconds


def _equal(alone: Sequence[TorchFitted], stack: Stack, places: Sequence[int]) -> bool:
    return bool(stack.finite.all()) and all(
        _close(tensor, stack.state[name][place])
        for fitted, place in zip(alone, places, strict=True)
        for name, tensor in fitted.parameters.items()
        if name in stack.state
    )


def _close(first: Tensor, second: Tensor) -> bool:
    if not first.is_floating_point():
        return bool(torch.equal(first, second))
    scale = max(float(first.abs().max()), 1e-3) if first.numel() else 1.0
    return float((first - second).abs().max() if first.numel() else 0.0) <= _TOLERANCE[first.dtype] * scale
