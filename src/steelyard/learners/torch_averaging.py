"""Averages of weights along a training, so that a model depends less on its seed: ASWA and NASWA.

Source: Madhyastha & Jain (2019), "On Model Stability as a Function of Random Seed", and their code. ASWA averages the
weights of every step instead of every epoch, and training goes on from the average after each epoch. NASWA takes a
step's weights into the average only if they lie further from it than is usual since the last that were taken.
Deviations: after an epoch the average goes on as it is, where their code exchanges it with the last weights; the
distance is over all trained parameters, not over chosen layers.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from steelyard.errors import SettingError
from steelyard.learners.torch import Torch
from steelyard.learners.torch_course import legs
from steelyard.learners.torch_steps import plain_optimiser
from steelyard.learners.torch_training import epoch_batches, mean_loss, trainable_parameters
from steelyard.records import Examples


def averaged(
    learner: Torch, *, filtered: bool = False, first: int = 0
) -> Callable[[Examples, np.ndarray, int], nn.Module]:
    """The training of a learner with averaged weights: a recipe for ``Torch``.

    Fits of it go one by one, and methods that follow or replay a training do not know it.

    Cost: that of the learner's own training, and one pass over the parameters per step.

    Args:
        learner: Gives model, loss and recipe; one that came trained has none.
        filtered: NASWA instead of ASWA.
        first: Steps before averaging begins.

    Raises:
        SettingError: If ``first`` is negative.

    Example:
        >>> from steelyard.learners import SGD, Torch
        >>> net = torch.nn.Linear(4, 3)
        >>> plain = Torch(net, recipe=SGD(lr=0.1, epochs=5))
        >>> steady = Torch(net, recipe=averaged(plain))
    """
    if first < 0:
        raise SettingError(
            f"averaged: first={first}.", fix="give the number of steps before averaging begins."
        )

    def fit(examples: Examples, weights: np.ndarray, seed: int) -> nn.Module:
        start, course = learner.laid_out(examples, weights / examples.weights(), seed)
        model = start().train()
        with torch.inference_mode(mode=False), torch.enable_grad():
            taken = 0
            for leg in legs(course):
                parameters = trainable_parameters(model)
                optimiser, mean = (
                    plain_optimiser(parameters, leg.recipe),
                    _Mean(parameters, filtered=filtered),
                )
                for epoch in range(leg.recipe.epochs):
                    for places, batch in epoch_batches(course, leg, epoch):
                        loss = mean_loss(model, learner.loss_function, course, places, batch)
                        for parameter in parameters.values():
                            parameter.grad = None
                        loss.backward()
                        optimiser.step(leg.rates[taken - leg.first_step])
                        taken += 1
                        if taken > first:
                            mean.take()
                    mean.go_on_from()
        return model.eval()

    return fit


class _Mean:
    """The running mean of the weights, and how far from it they were lately."""

    def __init__(self, parameters: dict[str, nn.Parameter], *, filtered: bool) -> None:
        self._parameters, self._filtered = parameters, filtered
        self._mean: dict[str, Tensor] = {}
        self._count = 0
        self._distances: list[float] = []

    def take(self) -> None:
        """Take the weights as they are into the mean, if they are to be."""
        with torch.no_grad():
            if not self._count:
                self._mean = {name: value.detach().clone() for name, value in self._parameters.items()}
                self._count = 1
                return
            if self._filtered and not self._far():
                return
            self._count += 1
            for name, value in self._parameters.items():
                self._mean[name] += (value.detach() - self._mean[name]) / self._count

    def go_on_from(self) -> None:
        """Put the mean in place of the weights."""
        with torch.no_grad():
            for name, value in self._mean.items():
                self._parameters[name].copy_(value)
        self._distances = []

    def _far(self) -> bool:
        parts = [(value.detach() - self._mean[name]).norm() for name, value in self._parameters.items()]
        distance = float(torch.stack(parts).mean())
        usual = float(np.mean(self._distances)) if self._distances else 0.0
        if distance > usual:
            self._distances = [distance]
            return True
        self._distances.append(distance)
        return False
