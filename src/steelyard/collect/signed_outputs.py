"""Gradients of a network's outputs, signed by the label: what the labelled pseudo-NTK is made of."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from steelyard.collect.fits import explained
from steelyard.errors import CapabilityError
from steelyard.gradients.engine import Batch, Differentiable, TorchGradients
from steelyard.gradients.fisher import HasOutputs
from steelyard.problem import Problem
from steelyard.records import Examples, Measurement
from steelyard.run import Run

_SIMILARITY = Measurement("signed outputs", "rank", lower_is_better=True)


class SignedOutputs:
    r"""A learner as seen through :math:`\sum_k s_k(y) z_k(x) / \sqrt K`: s is 1 for the label and -1 for other classes.

    A single output of a binary model has K = 1 and the sign of its label.
    """

    def __init__(self, learner: Any, label: str) -> None:
        self._learner, self._label = learner, label

    @property
    def measurement(self) -> Measurement:
        """The same function; its gradient is taken as it is."""
        return _SIMILARITY

    def load(self, fitted: Any) -> nn.Module:
        """The model."""
        return self._learner.load(fitted)

    def batches(self, examples: Examples, size: int) -> Iterator[Batch]:
        """Batches as the learner makes them."""
        return self._learner.batches(examples, size)

    def loss_function(self, model: nn.Module, batch: Batch) -> Tensor:
        """``[batch]`` signed sums."""
        outputs = self._learner.output_function(model, batch)
        label = batch[self._label].long().reshape(-1)
        count = outputs.shape[1]
        if count == 1:
            return outputs[:, 0] * (2 * label - 1)
        signs = 2 * torch.nn.functional.one_hot(label, count) - 1
        return (outputs * signs).sum(dim=1) / count**0.5

    def measurement_function(self, model: nn.Module, batch: Batch) -> Tensor:
        """The same."""
        return self.loss_function(model, batch)


def signed_outputs(problem: Problem, run: Run, *, method: str) -> TorchGradients:
    """The gradient engine at the explained model, for signed outputs.

    Raises:
        CapabilityError: If the learner is no network, or its labels are no classes.
    """
    learner, label = problem.learner, problem.train.label
    if not isinstance(learner, Differentiable) or not isinstance(learner, HasOutputs):
        raise CapabilityError(
            f"{method} needs gradients of a network's outputs, which {type(learner).__name__} does not offer.",
            fix="use class_similarity or grad_cos.",
        )
    if label is None or problem.train.labels().dtype.kind not in "iubUSOT":
        raise CapabilityError(
            f"{method} needs class labels, and the training examples have none.", fix="use grad_cos."
        )
    return TorchGradients(SignedOutputs(learner, label), explained(problem, run))
