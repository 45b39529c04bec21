"""Many networks of one architecture trained at once: parameters side by side, one set of kernels for all.

A small network leaves a processor idle: a step of the plain loop is some twenty kernels of a few microseconds
each, started by half a millisecond of Python. Here every parameter has one more axis, the models, and
``torch.func.vmap`` turns the same module and loss into batched kernels, started once for all of them.

Each model goes through its own course: its seed draws its first parameters, its batches are those of
``torch_training.train`` (the examples that are present, in the order of their hashed ids), and its step divides
by the size of its own batch. What differs from the plain loop is rounding. Only models whose trainings have
equally many steps share a stack, so that the learning rate of a step is one number; a last batch that is shorter
in one model than in another is filled with examples of its own at weight 0.

Source: model ensembling with ``torch.func.stack_module_state``, PyTorch documentation.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from steelyard.errors import FitError
from steelyard.learners.torch_course import Course, Leg, legs
from steelyard.learners.torch_losses import Batch
from steelyard.learners.torch_stacked_layers import SideBySide, plain_layers
from steelyard.learners.torch_steps import (
    FLAT_LIMIT,
    MissingGradient,
    Optimiser,
    flat_optimiser,
    plain_optimiser,
)
from steelyard.learners.torch_training import LossFunction, seeded, trainable_parameters

_WIDTHS = 16
"""Batches of all examples are filled up to a multiple of one in so many of the training examples."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Trained networks of one architecture, side by side.

    Attributes:
        model: One of them, which lends its modules; its parameters mean nothing.
        state: Parameters and buffers by name, ``[model, ...]``.
        finite: Whether neither a loss nor a parameter of the model became NaN or infinite.
    """

    model: nn.Module
    state: dict[str, Tensor]
    finite: Bool[np.ndarray, " model"]

    def load(self, place: int) -> nn.Module:
        """The module with the state of one model, in evaluation mode; the next call changes it again."""
        with torch.no_grad():
            for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
                tensor.copy_(self.state[name][place])
        return self.model.eval()


@dataclass(frozen=True, eq=False)
class Laid:
    """A course with its stages laid out.

    Attributes:
        course: Examples, weights, recipe and seed.
        legs: Its stages, step by step.
        widths: Examples per step of every stage, those of weight 0 that fill a batch included.
    """

    course: Course
    legs: tuple[Leg, ...]
    widths: tuple[int, ...]

    @property
    def shape(self) -> tuple[tuple[int, int], ...]:
        """What courses of one stack have in common: steps and width of every stage."""
        return tuple((len(leg.rates), width) for leg, width in zip(self.legs, self.widths, strict=True))


class _Asked(nn.Module):
    """A model together with a function of it, so that ``functional_call`` can swap the model's state."""

    def __init__(self, model: nn.Module, function: LossFunction) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, batch: Batch) -> Tensor:
        return self.function(self.model, batch)


def lay_out(course: Course) -> Laid | None:
    """The course with its stages laid out; None where nobody takes part in one of them."""
    try:
        found = legs(course)
    except FitError:
        return None
    total = len(course.table.ids)
    return Laid(course, found, tuple(_width(leg, total) for leg in found))


def stacks(laid: Sequence[Laid], count: int) -> list[Int[np.ndarray, " member"]]:
    """Positions of the courses that are trained together, at most ``count`` in each stack."""
    members: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for place, one in enumerate(laid):
        members.setdefault(one.shape, []).append(place)
    return [
        np.array(places[low : low + count], dtype=np.int64)
        for places in members.values()
        for low in range(0, len(places), count)
    ]


def train_stack(start: Callable[[], nn.Module], loss: LossFunction, laid: Sequence[Laid]) -> Stack:
    """Train all of these courses at once.

    The numbers of a model do not depend on which others are trained beside it.

    Cost: one forward and backward pass per model, example and epoch; three to five times the memory of all
        parameters, and the activations of one batch of each.

    Args:
        start: Gives an untrained module; called under the seed of each course.
        loss: ``(model, batch) -> [batch]``, which ``torch.func.vmap`` can vectorise.
        laid: Courses over one table, by one recipe, all of one ``shape``.

    Returns:
        The trained models in the order of the courses. One that diverged is marked, and harms no other.
    """
    try:
        return _train(start, loss, laid, flat=True)
    except MissingGradient:
        return _train(start, loss, laid, flat=False)


def measure_stack(
    stack: Stack, function: LossFunction, batches: Iterator[Batch], *, one_by_one: bool
) -> Float64[np.ndarray, "model query"]:
    """A function of every model at every query, in evaluation mode.

    Args:
        stack: Trained models.
        function: ``(model, batch) -> [batch]``.
        batches: The queries.
        one_by_one: Whether to call the function once per model, for functions that cannot be vectorised.
    """
    count = len(stack.finite)
    parts: list[Tensor] = []
    with torch.no_grad():
        for batch in batches:
            if one_by_one:
                parts.append(torch.stack([function(stack.load(place), batch) for place in range(count)]))
            else:
                ask = _side_by_side(stack.model.eval(), function, count)
                again = {
                    name: tensor.repeat(count, *[1] * (tensor.ndim - 1)) for name, tensor in batch.items()
                }
                parts.append(ask(stack.state, again).view(count, -1))
    return torch.cat(parts, dim=1).to(device="cpu", dtype=torch.float64).numpy()


def _width(leg: Leg, total: int) -> int:
    """Examples per step: those of a batch, or all that are present rounded up where a batch would hold more."""
    size = leg.recipe.batch_size or total
    if leg.size == size:
        return size
    step = max(1, math.ceil(min(size, total) / _WIDTHS))
    return min(size, math.ceil(leg.size / step) * step)


def _train(start: Callable[[], nn.Module], loss: LossFunction, laid: Sequence[Laid], *, flat: bool) -> Stack:
    table = laid[0].course.table
    with torch.inference_mode(mode=False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        model, state = _drawn(start, laid)
        parameters = {name: nn.Parameter(state[name]) for name in trainable_parameters(model)}
        state |= parameters
        losses_of = _side_by_side(model, loss, len(laid))
        finite = torch.ones(len(laid), dtype=torch.bool, device=table.device)
        for stage, leg in enumerate(laid[0].legs):
            optimiser, step = _optimiser(parameters, leg, flat=flat), 0
            for epoch in range(leg.recipe.epochs):
                seen: list[Tensor] = []
                for rows, factors in _batches(laid, stage, epoch, like=next(iter(parameters.values()))):
                    losses = losses_of(state, table.batch(rows.reshape(-1))).view(factors.shape)
                    for parameter in parameters.values():
                        parameter.grad = None
                    # Each model's loss depends on its own parameters alone: the weighted sum of all has all gradients.
                    losses.backward(factors)
                    seen.append((factors * losses.detach()).sum(dim=1))
                    optimiser.step(leg.rates[step])
                    step += 1
                finite &= torch.stack(seen).isfinite().all(dim=0)
    state = {name: tensor.detach() for name, tensor in state.items()}
    for tensor in state.values():
        finite &= tensor.reshape(len(laid), -1).isfinite().all(dim=1)
    return Stack(model, state, finite.cpu().numpy())


def _drawn(start: Callable[[], nn.Module], laid: Sequence[Laid]) -> tuple[nn.Module, dict[str, Tensor]]:
    """A module, and the first parameters and buffers of all models, each drawn under its own seed."""
    state: dict[str, Tensor] = {}
    model: nn.Module = nn.Identity()
    for place, one in enumerate(laid):
        with seeded(one.course.seed, one.course.table.device):
            model = start().train()
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name not in state:
                state[name] = tensor.new_empty((len(laid), *tensor.shape), requires_grad=False)
            state[name][place] = tensor.detach()
    return model, state


def _side_by_side(
    model: nn.Module, function: LossFunction, count: int
) -> Callable[[Mapping[str, Tensor], Batch], Tensor]:
    """``(state, batches laid end to end) -> [model * example]``: the function of every model at its own batch."""
    layers = plain_layers(model)
    if layers is not None:
        return lambda state, batch: function(SideBySide(layers, state, count), batch)
    asked = _Asked(model, function)

    def one(state: dict[str, Tensor], batch: Batch) -> Tensor:
        return torch.func.functional_call(asked, state, (batch,))

    vectorised = torch.func.vmap(one)

    def run(state: Mapping[str, Tensor], batch: Batch) -> Tensor:
        apart = {name: tensor.unflatten(0, (count, -1)) for name, tensor in batch.items()}
        return vectorised({f"model.{name}": tensor for name, tensor in state.items()}, apart).flatten()

    return run


def _optimiser(parameters: Mapping[str, nn.Parameter], leg: Leg, *, flat: bool) -> Optimiser:
    alike = len({(p.dtype, p.device) for p in parameters.values()}) == 1
    own = sum(parameter[0].numel() for parameter in parameters.values())
    if flat and alike and own <= FLAT_LIMIT:
        return flat_optimiser(parameters, leg.recipe)
    return plain_optimiser(parameters, leg.recipe)


def _batches(
    laid: Sequence[Laid], stage: int, epoch: int, *, like: Tensor
) -> Iterator[tuple[Int[np.ndarray, "model place"], Float[Tensor, "model place"]]]:
    """Rows of the table and factors on their losses, for every step of an epoch."""
    width = laid[0].widths[stage]
    steps = -(-max(len(one.legs[stage].places) for one in laid) // width)
    rows = np.empty((steps, len(laid), width), dtype=np.int64)
    factors = np.zeros((steps, len(laid), width))
    for place, one in enumerate(laid):
        order = one.legs[stage].order(epoch, one.course.seed)
        # What fills the last batch is an example of the model's own: no absent one is ever looked at.
        filled = np.full(steps * width, one.course.rows[order[0]])
        filled[: len(order)] = one.course.rows[order]
        rows[:, place] = filled.reshape(steps, width)
        weights = (
            np.ones(len(order)) if one.course.weights is None else one.course.weights.cpu().numpy()[order]
        )
        sizes = np.minimum(width, len(order) - width * np.arange(steps))
        each = np.zeros(steps * width)
        each[: len(order)] = weights / np.repeat(sizes, sizes)
        factors[:, place] = each.reshape(steps, width)
    yield from zip(rows, torch.from_numpy(factors).to(like), strict=True)
