"""The transposed derivative of one optimiser step, written out: what ``torch_steps.update`` does, backwards.

With the batch gradient g as a separate input, a step maps (values, slots, g) to (values', slots'). For every query the
cotangent of the outputs comes in, and those of the three inputs come out. All of it is elementwise.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steelyard.gradients.replay import Cotangent
from steelyard.learners.recipes import SGD, Adam, AdamW, Single


def transposed_update(  # noqa: PLR0913 - the operands of the step, and the cotangent
    recipe: Single,
    values: Float[Tensor, " param"],
    gradient: Float[Tensor, " param"],
    slots: tuple[Tensor, ...],
    cotangent: Cotangent,
    *,
    rate: float,
    step: int,
) -> tuple[Float[Tensor, "query param"], Cotangent]:
    """The cotangent of the batch gradient, and that of the state before the step with the gradient held fixed.

    Args:
        recipe: Says which optimiser.
        values: Parameters before the step.
        gradient: Of the mean loss of the batch.
        slots: What the optimiser remembered before the step.
        cotangent: After the step.
        rate: Learning rate.
        step: From 1, for Adam's bias correction.
    """
    if isinstance(recipe, SGD):
        return _sgd(recipe, cotangent, rate)
    return _adam(recipe, values, gradient, slots, cotangent, rate=rate, step=step)


def _sgd(recipe: SGD, cotangent: Cotangent, rate: float) -> tuple[Tensor, Cotangent]:
    # v' = momentum v + d;  values' = values - rate (d + momentum v' | v' | d);  d = g + decay values
    through = cotangent.values * -rate
    slots: tuple[Tensor, ...] = ()
    if cotangent.slots:
        velocity = cotangent.slots[0].add(through, alpha=recipe.momentum if recipe.nesterov else 1.0)
        through = through + velocity if recipe.nesterov else velocity
        slots = (velocity * recipe.momentum,)
    return through, Cotangent(cotangent.values.add(through, alpha=recipe.weight_decay), slots)


def _adam(  # noqa: PLR0913 - as above
    recipe: Adam | AdamW,
    values: Tensor,
    gradient: Tensor,
    slots: tuple[Tensor, ...],
    cotangent: Cotangent,
    *,
    rate: float,
    step: int,
) -> tuple[Tensor, Cotangent]:
    # m' = b m + (1 - b) d;  v' = c v + (1 - c) d^2;  values' = (1 - rate decay) values - rate' m' / scale
    (mean, square), (first, second) = slots, recipe.betas
    decoupled = isinstance(recipe, AdamW)
    direction = gradient if decoupled else gradient.add(values, alpha=recipe.weight_decay)
    mean = mean.lerp(direction, 1 - first)
    square = (square * second).addcmul_(direction, direction, value=1 - second)
    correction = (1 - second**step) ** 0.5
    root = square.sqrt()
    scale = (root / correction).add_(recipe.eps)
    moved = rate / (1 - first**step)
    of_mean = cotangent.slots[0] - cotangent.values * (moved / scale)
    # d scale / d v' = 1 / (2 correction root). Where v' is 0 so is m', and the step has a kink of width eps: the
    # derivative is that of the mean alone, as along any path on which these gradients stay 0.
    slope = torch.where(root > 0, moved * mean / (scale.square() * (2 * correction) * root), 0.0)
    of_square = cotangent.slots[1] + cotangent.values * slope
    through = of_mean * (1 - first) + of_square * ((2 * (1 - second)) * direction)
    if decoupled:
        direct = cotangent.values * (1 - rate * recipe.weight_decay)
    else:
        direct = cotangent.values.add(through, alpha=recipe.weight_decay)
    return through, Cotangent(direct, (of_mean * first, of_square * second))
