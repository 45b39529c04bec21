"""What every learner of networks asks a fitted model: values without gradients, and the exact curvature."""

from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from steelyard.learners.torch_losses import Batch
from steelyard.learners.torch_training import present
from steelyard.records import Examples


def evaluated(
    function: Callable[[nn.Module, Batch], Tensor], model: nn.Module, batches: Iterable[Batch]
) -> Tensor:
    """What a function of model and batch gives, batch after batch, in float64 on the CPU and without gradients."""
    with torch.no_grad():
        parts = [function(model, batch) for batch in batches]
    return torch.cat(parts).to(device="cpu", dtype=torch.float64)


def whole_hessian(
    learner: Any, fitted: object, examples: Examples, weights: np.ndarray | None
) -> Float[np.ndarray, "param param"]:
    """The Gauss-Newton matrix of the summed weighted loss plus its regularisation, in float64.

    Args:
        learner: Gives outputs, their loss's curvature, and the regularisation.
        fitted: Where to evaluate it.
        examples: Training examples.
        weights: ``[example]`` Weight of every example in the sum; its column ``weight``, else 1, if None.
    """
    from steelyard.gradients.dense import gauss_newton

    own = examples.weights() if weights is None else np.ones(len(examples))
    rows, kept = present(own, weights)
    chosen = examples if len(rows) == len(examples) else examples.take(rows)
    return gauss_newton(learner, fitted, chosen, kept, decay=learner.regularisation(fitted))


def forget(kept: "WeakKeyDictionary[Any, Any]", most: int) -> None:
    """Drop what was used longest ago until no more than so many are kept."""
    while len(kept) > most:
        kept.pop(next(iter(kept.keys())), None)
