"""One optimiser step, in two ways that give the same numbers: on one flat vector, and by ``torch.optim``.

``torch.optim`` spends 150 to 800 microseconds of Python per step whatever the size of the network, more than
the forward and backward pass of a small one; refits take thousands of steps. On a flat vector the arithmetic
is three to eight kernels.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from steelyard.learners.recipes import SGD, Adam, AdamW, Recipe

FLAT_LIMIT = 1_000_000
"""Parameters up to which copying gradients into one vector costs less than it saves."""

Step = Callable[[float], None]
_Update = Callable[[Tensor, Tensor, float], None]


class MissingGradient(Exception):  # noqa: N818 - control flow inside the package, never shown
    """A parameter has no dense gradient in this step; ``torch.optim`` would skip it, a flat vector cannot."""


def flat_step(parameters: Sequence[nn.Parameter], recipe: Recipe) -> Step:
    """A function that takes one step at a learning rate, having moved the parameters into one vector.

    Args:
        parameters: Of one dtype on one device; they become views of the vector.
        recipe: Says which optimiser.

    Raises:
        MissingGradient: By the function, if a parameter has no gradient or a sparse one.
    """
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    gradient = torch.empty_like(flat)
    begin = 0
    for parameter in parameters:
        parameter.data = flat[begin : begin + parameter.numel()].view(parameter.shape)
        begin += parameter.numel()
    update = _sgd(recipe, flat) if isinstance(recipe, SGD) else _adam(recipe, flat)

    def step(rate: float) -> None:
        pieces = [_dense(parameter.grad) for parameter in parameters]
        torch.cat(pieces, out=gradient)
        with torch.no_grad():
            update(flat, gradient, rate)

    return step


def plain_step(parameters: Sequence[nn.Parameter], recipe: Recipe) -> Step:
    """A function that takes one step at a learning rate with ``torch.optim``.

    Args:
        parameters: Any; those without a gradient are skipped.
        recipe: Says which optimiser.
    """
    optimiser = optimiser_for(parameters, recipe)

    def step(rate: float) -> None:
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()

    return step


def optimiser_for(parameters: Sequence[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
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


def _dense(gradient: Tensor | None) -> Tensor:
    if gradient is None or gradient.is_sparse:
        raise MissingGradient
    return gradient.reshape(-1)


def _sgd(recipe: SGD, like: Tensor) -> _Update:
    velocity: Tensor | None = None

    def update(values: Tensor, gradient: Tensor, rate: float) -> None:
        nonlocal velocity
        if recipe.weight_decay:
            gradient.add_(values, alpha=recipe.weight_decay)
        if recipe.momentum:
            velocity = gradient.clone() if velocity is None else velocity.mul_(recipe.momentum).add_(gradient)
            gradient = gradient.add_(velocity, alpha=recipe.momentum) if recipe.nesterov else velocity
        values.add_(gradient, alpha=-rate)

    return update


def _adam(recipe: Adam | AdamW, like: Tensor) -> _Update:
    mean, square = torch.zeros_like(like), torch.zeros_like(like)
    first, second = recipe.betas
    steps = 0

    def update(values: Tensor, gradient: Tensor, rate: float) -> None:
        nonlocal steps
        steps += 1
        if isinstance(recipe, AdamW):
            values.mul_(1 - rate * recipe.weight_decay)
        elif recipe.weight_decay:
            gradient.add_(values, alpha=recipe.weight_decay)
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scale = (square.sqrt() / (1 - second**steps) ** 0.5).add_(recipe.eps)
        values.addcdiv_(mean, scale, value=-rate / (1 - first**steps))

    return update
