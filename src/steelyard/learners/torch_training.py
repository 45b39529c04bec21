"""The training loop: a module and a recipe to fitted parameters, by the numbers of a plain torch loop."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from steelyard.errors import CapabilityError, DataError, FitError, ModelError, ShapeError
from steelyard.learners.recipes import Single
from steelyard.learners.torch_course import Course, Leg, legs
from steelyard.learners.torch_losses import Batch
from steelyard.learners.torch_steps import (
    FLAT_LIMIT,
    MissingGradient,
    Moments,
    Optimiser,
    flat_optimiser,
    plain_optimiser,
)
from steelyard.records import Examples

LossFunction = Callable[[nn.Module, Batch], Tensor]
UserFit = Callable[[Examples, np.ndarray, int], nn.Module]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A state from along the training.

    Attributes:
        parameters: Parameters and buffers by name.
        learning_rate: Sum of the learning rates of the steps since the checkpoint before.
        step: How many steps had been taken.
        moments: Adam's moments at that step; None for other optimisers.
        stage: Number of the stage of the training, from 0.
    """

    parameters: dict[str, Tensor]
    learning_rate: float
    step: int
    moments: Moments | None = None
    stage: int = 0


@dataclass(frozen=True, eq=False)
class TorchFitted:
    """A trained network.

    Attributes:
        parameters: Parameters and buffers by name, detached.
        seed: Seed of the fit.
        checkpoints: States from along the training, the last being the final one; empty if none were asked
            for.
        learning_rate: Sum of the learning rates of all steps; 0 where the training is not known.
        losses: Mean weighted training loss of each epoch, before each step, dropout and all.
        classes: Label values in the order of the logits where labels are text.
        moments: Adam's moments after the last step; None for other optimisers and trainings not known.
    """

    parameters: dict[str, Tensor]
    seed: int
    checkpoints: tuple[Checkpoint, ...] = ()
    learning_rate: float = 0.0
    losses: tuple[float, ...] = ()
    classes: tuple[str, ...] | None = None
    moments: Moments | None = None


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random numbers from a seed, on the CPU and on ``device``; afterwards they go on as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def train(start: Callable[[], nn.Module], loss: LossFunction, course: Course) -> TorchFitted:
    """Train from the start, as the recipe says.

    The loss of a batch is ``sum_i w_i l_i / |batch|``. Small networks are trained in one flat vector of
    parameters, by the same arithmetic as ``torch.optim``; where a parameter gets no gradient in some step,
    which torch would skip, training starts again with ``torch.optim`` itself.

    Cost: one forward and backward pass per example and epoch.

    Args:
        start: Gives the untrained module; called under the seed.
        loss: ``(model, batch) -> [batch]``.
        course: Examples, weights, recipe and seed.

    Raises:
        FitError: If the loss or the parameters become NaN or infinite, or there are no examples.
        ModelError: If the loss is not one number per example.
    """
    try:
        return _train(start, loss, course, flat=True)
    except MissingGradient:
        return _train(start, loss, course, flat=False)


def train_by_user(
    fit: UserFit, examples: Examples, weights: np.ndarray, *, seed: int, device: torch.device
) -> TorchFitted:
    """What the user's own fit makes of the examples that are present, with torch seeded.

    Raises:
        ModelError: If it does not return a module.
    """
    with seeded(seed, device):
        module: Any = fit(examples, weights, seed)
    if not isinstance(module, nn.Module):
        raise ModelError(f"your fit returned a {type(module).__name__}.", fix="return the trained nn.Module.")
    return TorchFitted(snapshot(module), seed)


def present(
    own: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, Float[np.ndarray, " row"] | None]:
    """Positions of the examples that take part, and their weights; None in place of weights that are all 1.

    Args:
        own: ``[example]`` The examples' own weights, ``Examples.weights()``.
        weights: ``[example]`` Further factors, or None.

    Raises:
        ShapeError: If there is not one weight per example.
        DataError: If a weight is NaN or infinite.
    """
    values = own if weights is None else np.asarray(weights, dtype=np.float64)
    if values.shape != own.shape:
        raise ShapeError(
            f"{values.shape} weights for {len(own)} examples.", fix="give one weight per example."
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(
            f"the weight of row {bad[0]} is {values[bad[0]]}.", fix="give finite weights; 0 is absent."
        )
    values = values if weights is None else values * own
    rows = np.flatnonzero(values)
    return rows, None if np.all(values[rows] == 1.0) else values[rows]


def known_moments(fitted: TorchFitted) -> Moments:
    """Adam's moments at a fitted model.

    Raises:
        CapabilityError: If the training is not known, or did not end with Adam or AdamW.
    """
    if fitted.moments is None:
        how = "without Adam or AdamW" if fitted.learning_rate else "in a way that is not known"
        raise CapabilityError(
            f"there are no moments of gradients, because the model was trained {how}.",
            fix="let the learner train it with recipe=AdamW(...), or use a method that does not need them.",
        )
    return fitted.moments


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers of a module, as contiguous copies of their own.

    Raises:
        ModelError: If the module keeps a state that is no tensor.
    """
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{name} in the model's state is a {type(value).__name__}, not a tensor.",
                fix="keep such values as plain attributes or as buffers.",
            )
    return {
        name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.items()
    }


def _train(start: Callable[[], nn.Module], loss: LossFunction, course: Course, *, flat: bool) -> TorchFitted:
    checkpoints: list[Checkpoint] = []
    losses: list[float] = []
    rate, moments = 0.0, None
    with seeded(course.seed, course.table.device), torch.inference_mode(mode=False), torch.enable_grad():
        model = start().train()
        for stage, leg in enumerate(legs(course)):
            parameters = trainable_parameters(model)
            optimiser = _optimiser(parameters, leg.recipe, flat=flat)
            step = before = 0
            for epoch in range(leg.recipe.epochs):
                total = 0.0
                for places, batch in epoch_batches(course, leg, epoch):
                    done = step / max(1, len(leg.rates))
                    mean = mean_loss(model, loss, course, places, batch, done=done)
                    for parameter in parameters.values():
                        parameter.grad = None
                    mean.backward()
                    value, where = mean.item(), leg.first_step + step + 1
                    if not math.isfinite(value):
                        raise _diverged(model, loss, course, places, leg.first_epoch + epoch + 1, where)
                    optimiser.step(leg.rates[step])
                    step, total = step + 1, total + value * len(places)
                    if step in leg.kept:
                        passed = float(leg.rates[before:step].sum())
                        state = (course.keep or snapshot)(model)
                        checkpoints.append(Checkpoint(state, passed, where, optimiser.moments(), stage))
                        before = step
                losses.append(total / len(leg.places))
                if course.watch is not None:
                    # Whoever looks may draw random numbers; those of the training go on as if nobody did.
                    with seeded(course.seed, course.table.device):
                        course.watch(leg.first_epoch + epoch + 1, (course.keep or snapshot)(model))
            _check_end(model, leg.recipe)
            rate, moments = rate + float(leg.rates.sum()), optimiser.moments()
    final = (course.keep or snapshot)(model)
    return TorchFitted(final, course.seed, tuple(checkpoints), rate, tuple(losses), moments=moments)


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that training moves, by name and in order.

    Raises:
        ModelError: If there are none.
    """
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not parameters:
        raise ModelError(
            "no parameter of the model requires a gradient.", fix="unfreeze what should be trained."
        )
    return parameters


def epoch_batches(course: Course, leg: Leg, epoch: int) -> Iterator[tuple[np.ndarray, Batch]]:
    """Positions within ``course.rows`` and tensors of every batch of an epoch of a stage."""
    order = leg.order(epoch, course.seed)
    for place, batch in enumerate(course.table.stream(course.rows[order], leg.size)):
        yield order[place * leg.size : (place + 1) * leg.size], batch


def mean_loss(  # noqa: PLR0913 - a step has these operands
    model: nn.Module,
    loss: LossFunction,
    course: Course,
    places: np.ndarray,
    batch: Batch,
    *,
    done: float = 0.0,
) -> Tensor:
    """What a step follows the gradient of: ``sum_i w_i l_i / |batch|``.

    Args:
        model: In training mode.
        loss: ``(model, batch) -> [batch]``.
        course: Gives the weights.
        places: Positions of the batch within ``course.rows``.
        batch: Their tensors.
        done: Share of the steps of the stage that were taken before.
    """
    losses = batch_losses(model, loss, batch, len(places))
    if course.reweigh is not None:
        moved = [parameter for parameter in model.parameters() if parameter.requires_grad]
        losses = losses * course.reweigh(losses, moved, done).detach()
    if course.weights is None:
        return losses.mean()
    return (course.weights[torch.from_numpy(places).to(losses.device)] * losses).sum() / len(places)


def _optimiser(parameters: Mapping[str, nn.Parameter], recipe: Single, *, flat: bool) -> Optimiser:
    alike = len({(p.dtype, p.device) for p in parameters.values()}) == 1
    if flat and alike and sum(p.numel() for p in parameters.values()) <= FLAT_LIMIT:
        return flat_optimiser(parameters, recipe)
    return plain_optimiser(parameters, recipe)


def batch_losses(model: nn.Module, loss: LossFunction, batch: Batch, count: int) -> Tensor:
    """``[batch]`` training losses of one step.

    Raises:
        FitError: If batch normalisation refuses a last batch of one example.
        ModelError: If the loss is not one number per example.
    """
    try:
        losses = loss(model, batch)
    except ValueError as error:
        if count > 1:
            raise
        # Batch normalisation refuses to train on one example.
        raise FitError(
            f"the model failed on a last batch of one example: {error}",
            fix="choose another batch_size, or GroupNorm or LayerNorm in place of batch normalisation.",
        ) from error
    if losses.shape != (count,):
        raise ModelError(
            f"the loss has shape {list(losses.shape)} for a batch of {count} examples.",
            fix='return one loss per example: reduction="none", then reduce within each example only.',
        )
    return losses


def _diverged(  # noqa: PLR0913 - an error that says where, in whom and why
    model: nn.Module, loss: LossFunction, course: Course, places: np.ndarray, epoch: int, step: int
) -> FitError:
    rows = course.rows[places]
    with torch.no_grad():
        losses = loss(model, course.table.batch(rows))
    bad = (~torch.isfinite(losses)).nonzero()
    worst = int(bad[0, 0]) if len(bad) else int(losses.abs().argmax())
    shared = (
        f", as have {len(bad) - 1} more of the {len(rows)} examples in this batch" if len(bad) > 1 else ""
    )
    return FitError(
        f"the training loss became NaN or infinite in epoch {epoch}, step {step}: example "
        f"{str(course.table.ids[rows[worst]])!r} has the loss {losses[worst].item():g}{shared} "
        f"(seed {course.seed}).",
        fix="lower the learning rate or warm it up; look at this example for extreme values.",
    )


def _check_end(model: nn.Module, recipe: Single) -> None:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise FitError(
                f"{name} is NaN or infinite after the last of {recipe.epochs} epochs.",
                fix="lower the learning rate or warm it up.",
            )
