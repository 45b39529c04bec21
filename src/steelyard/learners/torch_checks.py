"""What would make the analysis of a torch model wrong, found on a few examples before any work."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steelyard.data import check_classes
from steelyard.errors import ModelError
from steelyard.learners.recipes import AdamW, Recipe, stages_of
from steelyard.learners.torch_course import Table
from steelyard.learners.torch_losses import Batch
from steelyard.records import Examples

Function = Callable[[nn.Module, Batch], Any]

_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_DROPOUT = nn.modules.dropout._DropoutNd
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
FEW = 8
"""How many examples the checks look at."""


def few(examples: Examples) -> np.ndarray:
    """Positions of a few examples, spread over all of them."""
    return np.unique(np.linspace(0, len(examples) - 1, FEW).round().astype(np.int64))


def check_parameters(net: nn.Module) -> None:
    """Refuse a module without finite parameters to attribute to.

    Raises:
        ModelError: If there are no parameters, none requires a gradient, or one is NaN, infinite or lazy.
    """
    named = dict(net.named_parameters())
    if not named:
        raise ModelError(f"{type(net).__name__} has no parameters.", fix="give the model that is trained.")
    for name, parameter in named.items():
        if isinstance(parameter, nn.UninitializedParameter):
            raise ModelError(
                f"the parameter {name} has no shape yet.", fix="run one batch through the lazy module first."
            )
        if not torch.isfinite(parameter).all():
            raise ModelError(
                f"the parameter {name} holds NaN or infinity.",
                fix="load the checkpoint before the training diverged.",
            )
    if not any(parameter.requires_grad for parameter in named.values()):
        raise ModelError(
            "no parameter requires a gradient.", fix="call requires_grad_(True) on those that were trained."
        )


def describe_modules(net: nn.Module, *, trains: bool) -> tuple[str, ...]:
    """Notes on what is handled: batch statistics, dropout, tied and frozen parameters.

    Args:
        net: The model as it was given.
        trains: Whether fits train it.
    """
    modules = dict(net.named_modules())
    normed = [name for name, module in modules.items() if isinstance(module, _BATCH_NORM)]
    dropped = [name for name, module in modules.items() if isinstance(module, _DROPOUT) and module.p > 0]
    frozen = [name for name, parameter in net.named_parameters() if not parameter.requires_grad]
    notes: list[str] = []
    if normed:
        notes.append(
            f"batch normalisation ({_listed(normed)}) uses its running statistics (evaluation mode) for "
            "measurements "
            f"and gradients{', although the model was given in training mode' if net.training else ''}."
        )
    if normed and trains:
        notes.append(
            "training with batch normalisation mixes the examples of a batch: an example acts through the "
            "statistics too, which gradients of single examples do not see."
        )
    if dropped:
        notes.append(
            f"dropout ({_listed(dropped)}) is off (evaluation mode) for measurements and gradients"
            f"{', although the model was given in training mode' if net.training else ''}"
            f"{'; in fits it is on, drawn from the seed of the fit' if trains else ''}."
        )
    notes += [
        f"{_listed(names)} are one tied parameter; its gradient is the sum over its uses."
        for names in tied(net)
    ]
    if frozen:
        notes.append(
            f"{len(frozen)} frozen parameters ({_listed(frozen)}) are left out of fits and gradients."
        )
    return tuple(notes)


def tied(net: nn.Module) -> list[list[str]]:
    """Names of parameters that are one and the same object."""
    names: dict[int, list[str]] = {}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [found for found in names.values() if len(found) > 1]


def describe_decay(recipe: object) -> tuple[str, ...]:
    """A note on weight decay that is no term of the loss, if a stage of the recipe has it."""
    stages = stages_of(recipe) if isinstance(recipe, Recipe) else ()
    if any(isinstance(stage.recipe, AdamW) and stage.recipe.weight_decay for stage in stages):
        return ("AdamW's weight decay is no term of the training loss; curvature leaves it out.",)
    return ()


def check_few(
    what: str, function: Function, model: nn.Module, examples: Examples, table: Callable[[Examples], Table]
) -> None:
    """:func:`check_function` on a few of the examples.

    Args:
        what: ``"loss"`` or ``"measurement"``, for the error.
        function: ``(model, batch) -> [batch]``.
        model: In evaluation mode.
        examples: All of them.
        table: Examples as tensors.
    """
    rows = few(examples)
    check_function(what, function, model, table(examples).batch(rows), examples.take(rows))


def check_function(what: str, function: Function, model: nn.Module, batch: Batch, examples: Examples) -> None:
    """Refuse a loss or measurement that is not one finite, repeatable number for each example by itself.

    Args:
        what: ``"loss"`` or ``"measurement"``, for the error.
        function: ``(model, batch) -> [batch]``.
        model: In evaluation mode.
        batch: A few examples.
        examples: The same examples, for their ids.

    Raises:
        ModelError: If it fails, has another shape, differs between two calls, mixes examples, or is NaN.
    """
    count = len(examples)
    values = call(what, function, model, batch)
    _check_shape(what, values, count)
    _check_connected(what, values)
    values = values.detach()
    again = call(what, function, model, batch).detach()
    if not torch.allclose(values, again, rtol=1e-6, atol=1e-7, equal_nan=True):
        raise ModelError(
            f"two evaluations of the {what} on the same examples differ by up to "
            f"{(values - again).abs().max():g}.",
            fix="remove randomness from the evaluation: functional dropout that ignores model.training, "
            "sampling, "
            "data augmentation in forward().",
        )
    bad = (~torch.isfinite(values)).nonzero()
    if len(bad):
        place = int(bad[0, 0])
        raise ModelError(
            f"the {what} of example {str(examples.ids[place])!r} is {values[place].item()}.",
            fix="look at this example for NaN or extreme values, and at the function for log(0) or 0/0.",
        )
    _check_alone(what, function, model, batch, values, examples)


def call(what: str, function: Function, model: nn.Module, batch: Batch) -> Any:
    """The function's value, where a failure names the shapes it was given.

    Raises:
        ModelError: If the model or the function fails on the batch.
    """
    try:
        return function(model, batch)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        shapes = ", ".join(
            f"{name}: {str(value.dtype)[6:]}{list(value.shape)}" for name, value in batch.items()
        )
        raise ModelError(
            f"the {what} failed on a batch of {{{shapes}}}: {type(error).__name__}: {error}",
            fix="make model and function take this batch; whole numbers stay int64 (tokens), so give floats "
            "to a model "
            "that computes with them.",
        ) from error


def check_several_classes(train: Examples, *, refuse: bool) -> tuple[str, ...]:
    """Refuse, or note, training examples of one class.

    Args:
        train: Training examples with class labels.
        refuse: Whether a model is trained from nothing on them.

    Raises:
        DataError: If all labels are the same and ``refuse``.
    """
    if refuse:
        check_classes(train)
        return ()
    labels = train.labels()
    if len(labels) == 0 or bool(np.any(labels != labels[0])):
        return ()
    return (f"{train.source}: all {len(labels)} training examples have the label {str(labels[0])!r}.",)


def _check_shape(what: str, values: Any, count: int) -> None:
    if isinstance(values, Tensor) and values.shape == (count,):
        return
    shape = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
    averaged = isinstance(values, Tensor) and values.ndim == 0
    raise ModelError(
        f"the {what} gave {shape} for {count} examples, expected [{count}]"
        f"{': it is already averaged or summed over the batch' if averaged else ''}.",
        fix='return one number per example: reduction="none", then reduce within each example only.',
    )


def _check_connected(what: str, values: Tensor) -> None:
    if not values.requires_grad and what == "loss":
        raise ModelError(
            "the loss does not depend on the model's parameters, as far as torch can see.",
            fix="compute it with torch from the model's outputs, without detach(), numpy or no_grad().",
        )


def _check_alone(
    what: str, function: Function, model: nn.Module, batch: Batch, values: Tensor, examples: Examples
) -> None:
    tolerance = _TOLERANCE.get(values.dtype, 3e-2)
    for place in range(len(examples)):
        single = {name: value[place : place + 1] for name, value in batch.items()}
        alone = call(what, function, model, single)
        _check_shape(what, alone, 1)
        inside, outside = values[place].item(), alone[0].item()
        if not math.isclose(inside, outside, rel_tol=tolerance, abs_tol=tolerance):
            raise ModelError(
                f"the {what} of example {str(examples.ids[place])!r} is {outside:g} alone but {inside:g} in "
                "a batch of "
                f"{len(examples)}: it mixes examples, so no example has a gradient of its own.",
                fix="do not average or normalise over the batch, and keep running statistics in batch "
                "normalisation "
                "(track_running_stats=True), or use GroupNorm or LayerNorm.",
            )


def _listed(names: list[str]) -> str:
    shown = ", ".join(name or "the model itself" for name in names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown
