"""The last layer of a model as a linear model on features, whichever kind of model it has."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steelyard.learners.sklearn_objectives import Inputs, Linear
from steelyard.records import Examples


@dataclass(frozen=True, eq=False)
class LastLayer:
    """What a model predicts from: ``outputs = features @ model.weights.T``.

    Attributes:
        model: Weights with the intercept last, loss, penalty and classes. The penalty is 0 where the training has none.
        features: Examples to ``float64["example column"]``, the constant that the intercept reads last.
        whole: Whether this layer is all there is to train, so that ``model`` is at the minimum of its own objective.
        l1: Penalty on the size of every weight; None where there is none.
        averaged: Whether penalties are added to the mean loss instead of the sum.
    """

    model: Linear
    features: Callable[[Examples], Inputs]
    whole: bool
    l1: Float[np.ndarray, "output column"] | None = None
    averaged: bool = False
