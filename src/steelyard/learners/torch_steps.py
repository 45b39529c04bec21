"""One optimiser step, in two ways that give the same numbers: on one flat vector, and by ``torch.optim``.

``torch.optim`` spends 150 to 800 microseconds of Python per step whatever the size of the network, more than
the forward and backward pass of a small one; refits take thousands of steps. On a flat vector the arithmetic
is three to eight kernels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steelyard.learners.recipes import SGD, Adam, AdamW

FLAT_LIMIT = 1_000_000
"""Parameters up to which copying gradients into one vector costs less than it saves."""


@dataclass(frozen=True, eq=False)
class Moments:
    """What Adam knows about the gradients, as ``torch.optim`` keeps it: without bias correction.

    Attributes:
        first: Running mean of the gradient by parameter (``exp_avg``).
        second: Running mean of its square (``exp_avg_sq``).
        step: Steps that went into them, for the correction ``1 - beta**step``.
    """

    first: dict[str, Tensor]
    second: dict[str, Tensor]
    step: int


@dataclass(frozen=True, eq=False)
class Optimiser:
    """An optimiser at work on some parameters.

    Attributes:
        step: Takes one step at a learning rate, by the gradients that the parameters hold.
        moments: Copies of Adam's moments as they stand; None for other optimisers.
    """

    step: Callable[[float], None]
    moments: Callable[[], Moments | None]


class MissingGradient(Exception):  # noqa: N818 - control flow inside the package, never shown
    """A parameter has no dense gradient in this step; ``torch.optim`` would skip it, a flat vector cannot."""


def flat_optimiser(parameters: Mapping[str, nn.Parameter], recipe: SGD | Adam | AdamW) -> Optimiser:
    """An optimiser that has moved the parameters into one vector.

    Args:
        parameters: By name, of one dtype on one device; they become views of the vector.
        recipe: Says which optimiser.

    Raises:
        MissingGradient: By its steps, if a parameter has no gradient or a sparse one.
    """
    values = torch.cat([parameter.detach().reshape(-1) for parameter in parameters.values()])
    gradient = torch.empty_like(values)
    for parameter, piece in zip(parameters.values(), split(values, parameters).values(), strict=True):
        parameter.data = piece
    slots = new_slots(recipe, values)
    taken = 0

    def step(rate: float) -> None:
        nonlocal taken
        taken += 1
        torch.cat([_dense(parameter.grad) for parameter in parameters.values()], out=gradient)
        with torch.no_grad():
            update(recipe, values, gradient, slots, rate=rate, step=taken)

    def moments() -> Moments | None:
        if isinstance(recipe, SGD):
            return None
        first, second = (split(slot.clone(), parameters) for slot in slots)
        return Moments(first, second, taken)

    return Optimiser(step, moments)


def plain_optimiser(parameters: Mapping[str, nn.Parameter], recipe: SGD | Adam | AdamW) -> Optimiser:
    """An optimiser of ``torch.optim``.

    Args:
        parameters: By name; those without a gradient are skipped.
        recipe: Says which optimiser.
    """
    optimiser = optimiser_for(list(parameters.values()), recipe)
    taken = 0

    def step(rate: float) -> None:
        nonlocal taken
        taken += 1
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()

    def moments() -> Moments | None:
        if isinstance(recipe, SGD):
            return None
        found = {
            key: {
                # Those that never had a gradient have no state yet.
                name: optimiser.state.get(parameter, {})
                .get(key, torch.zeros_like(parameter))
                .detach()
                .clone()
                for name, parameter in parameters.items()
            }
            for key in ("exp_avg", "exp_avg_sq")
        }
        return Moments(found["exp_avg"], found["exp_avg_sq"], taken)

    return Optimiser(step, moments)


def optimiser_for(parameters: Sequence[nn.Parameter], recipe: SGD | Adam | AdamW) -> torch.optim.Optimizer:
    """The ``torch.optim`` optimiser of a recipe, at its peak learning rate."""
    if isinstance(recipe, SGD):
        return torch.optim.SGD(
            parameters,
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
    kind = torch.optim.AdamW if isinstance(recipe, AdamW) else torch.optim.Adam
    return kind(
        parameters, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay
    )


def split(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A flat vector as views of the shapes of ``like``, in its order."""
    pieces = flat.split([tensor.numel() for tensor in like.values()])
    return {
        name: piece.view(tensor.shape) for (name, tensor), piece in zip(like.items(), pieces, strict=True)
    }


def new_slots(recipe: SGD | Adam | AdamW, like: Tensor) -> tuple[Tensor, ...]:
    """What the optimiser remembers before its first step: the velocity, or Adam's two moments."""
    if isinstance(recipe, SGD):
        return (torch.zeros_like(like),) if recipe.momentum else ()
    return torch.zeros_like(like), torch.zeros_like(like)


def update(  # noqa: PLR0913 - an optimiser step has these operands
    recipe: SGD | Adam | AdamW,
    values: Tensor,
    gradient: Tensor,
    slots: tuple[Tensor, ...],
    *,
    rate: float,
    step: int,
) -> None:
    """One step in place, by the arithmetic of ``torch.optim``; the gradient is used up.

    Args:
        recipe: Says which optimiser.
        values: ``[param]`` Parameters.
        gradient: ``[param]`` Of the mean loss of the batch.
        slots: From :func:`new_slots`.
        rate: Learning rate.
        step: From 1, for Adam's bias correction.
    """
    if isinstance(recipe, SGD):
        _sgd(recipe, values, gradient, slots, rate)
    else:
        _adam(recipe, values, gradient, slots, rate=rate, step=step)


def _dense(gradient: Tensor | None) -> Tensor:
    if gradient is None or gradient.is_sparse:
        raise MissingGradient
    return gradient.reshape(-1)


def _sgd(recipe: SGD, values: Tensor, gradient: Tensor, slots: tuple[Tensor, ...], rate: float) -> None:
    if recipe.weight_decay:
        gradient.add_(values, alpha=recipe.weight_decay)
    for velocity in slots:
        velocity.mul_(recipe.momentum).add_(gradient)
        gradient = gradient.add_(velocity, alpha=recipe.momentum) if recipe.nesterov else velocity
    values.add_(gradient, alpha=-rate)


def _adam(
    recipe: Adam | AdamW,
    values: Tensor,
    gradient: Tensor,
    slots: tuple[Tensor, ...],
    *,
    rate: float,
    step: int,
) -> None:
    (mean, square), (first, second) = slots, recipe.betas
    if isinstance(recipe, AdamW):
        values.mul_(1 - rate * recipe.weight_decay)
    elif recipe.weight_decay:
        gradient.add_(values, alpha=recipe.weight_decay)
    mean.lerp_(gradient, 1 - first)
    square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
    scale = (square.sqrt() / (1 - second**step) ** 0.5).add_(recipe.eps)
    values.addcdiv_(mean, scale, value=-rate / (1 - first**step))
