"""Gradients whose second moment is the Fisher or Gauss-Newton matrix.

* ``"exact"``: one backward pass per column of R with R R^T the Hessian of the loss in the model's outputs, all from
  one forward pass; no sampling noise. As many passes as outputs.
* ``"sampled"``: labels drawn from the model's own predictive distribution (the true Fisher, in expectation).
* ``"empirical"``: the labels of the data. Cheap and always possible; not a curvature away from the optimum, see
  Kunstner et al. (2019), "Limitations of the Empirical Fisher Approximation for Natural Gradient Descent".
"""

from collections.abc import Iterator
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.factors import Factors
from steelyard.gradients.fallback import Batch, Function
from steelyard.gradients.kronecker import Weighted
from steelyard.gradients.passes import functional_factors, length, paused
from steelyard.gradients.taps import recording
from steelyard.records import Examples

Fisher = Literal["exact", "sampled", "empirical"]


@runtime_checkable
class HasOutputs(Protocol):
    """A learner that knows its outputs and its loss's curvature in them, or can draw labels."""

    def output_function(self, model: nn.Module, batch: Batch) -> Tensor:
        """``[batch, output]`` What the loss reads."""
        ...

    def output_hessian_factor(self, outputs: Tensor, batch: Batch) -> Tensor:
        """``[batch, output, column]`` R with R R^T the Hessian of each loss in its outputs."""
        ...

    def sampled_loss_function(
        self, model: nn.Module, batch: Batch, generator: torch.Generator
    ) -> Tensor | None:
        """``[batch]`` Losses at labels drawn from the model; None where the loss has no known distribution."""
        ...


def fisher_gradients(
    engine: TorchGradients,
    learner: HasOutputs,
    examples: Examples,
    *,
    kind: Fisher,
    weights: Float[np.ndarray, " example"] | None = None,
    seed: int = 0,
) -> Iterator[Weighted]:
    """Batches of gradients with the weights of their examples in the training loss.

    Args:
        engine: At the fitted model.
        learner: Whose outputs or labels are used.
        examples: Training examples.
        kind: Which gradients, see the module.
        weights: Weight of every example in the training loss; 1 if None.
        seed: Of the drawn labels.
    """
    source = (
        _exact(engine, learner, examples)
        if kind == "exact"
        else _single(engine, learner, examples, kind, seed)
    )
    for start, first, found in source:
        count = len(next(iter(found.values())))
        part = None if weights is None else torch.from_numpy(weights[start : start + count])
        yield Weighted(found, part, first=first)


def _single(
    engine: TorchGradients, learner: HasOutputs, examples: Examples, kind: Fisher, seed: int
) -> Iterator[tuple[int, bool, dict[str, Factors]]]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(model: nn.Module, batch: Batch) -> Tensor:
        losses = learner.sampled_loss_function(model, batch, generator)
        if losses is None:
            raise TypeError("this loss has no known distribution to draw labels from")
        return losses

    captured = (
        engine.capture_function(examples, drawn) if kind == "sampled" else engine.capture(examples, "loss")
    )
    start = 0
    for found in captured:
        yield start, True, found
        start += len(next(iter(found.values())))


def _exact(
    engine: TorchGradients, learner: HasOutputs, examples: Examples
) -> Iterator[tuple[int, bool, dict[str, Factors]]]:
    coverage = engine.coverage(examples)
    start = 0
    with recording(engine.model, coverage.blocks, coverage.broadcast) as recorder:
        for batch in engine.batches(examples):
            count = length(batch)
            recorder.begin(count)
            outputs = learner.output_function(engine.model, batch)
            columns = learner.output_hessian_factor(outputs.detach(), batch)
            last = columns.shape[2] - 1
            for r in range(columns.shape[2]):
                recorder.forget()
                (outputs * columns[:, :, r]).sum().backward(retain_graph=r < last)
                found = recorder.factors()
                if coverage.functional:
                    with paused(recorder):
                        column = _column(learner, r)
                        found.update(functional_factors(engine.model, column, batch, coverage.functional))
                yield start, r == 0, found
            start += count


def _column(learner: HasOutputs, r: int) -> Function:
    def value(model: nn.Module, batch: Batch) -> Tensor:
        outputs = learner.output_function(model, batch)
        columns = learner.output_hessian_factor(outputs.detach(), batch)
        return (outputs * columns[:, :, r]).sum(1)

    return value
