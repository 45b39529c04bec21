"""Linear models with a squared penalty on sparse features, and their weights as a sum over examples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, cg
from scipy.special import expit, logsumexp, softmax

from steelyard.errors import NumericsError

_STEPS = 100
_INNER = 500
_TOLERANCE = 1e-9
_FRACTION = 1e-4
_SMALL = 1e-15  # a gradient that is rounding

Loss = Literal["squared", "logistic", "softmax"]


@dataclass(frozen=True)
class Representers:
    r"""What every example contributes to a fitted linear model.

    Attributes:
        alpha: The model's output at x is ``sum_i alpha_i <x_i, x>``.
        steps: Newton steps taken.
    """

    alpha: Float[np.ndarray, "row output"]
    steps: int


def representers(
    features: sp.csr_array,
    targets: Float[np.ndarray, "row output"],
    weights: Float[np.ndarray, " row"],
    *,
    loss: Loss,
    penalty: float,
) -> Representers:
    r"""Minimise the weighted mean loss plus ``penalty`` times the squared length of the coefficients.

    At the minimum the coefficients are :math:`\sum_i \alpha_i x_i` with

    .. math:: \alpha_i = -\frac{w_i}{2 \lambda \sum_j w_j} \frac{\partial \ell_i}{\partial f_i}.

    Newton's method, every step by conjugate gradients on products with the features. No intercept.

    Args:
        features: One row per example.
        targets: Numbers (``squared``), 0 and 1 (``logistic``, column by column), or one 1 per row (``softmax``).
        weights: Of the losses.
        loss: Half the squared error, or cross-entropy in nats.
        penalty: Lambda.

    Raises:
        NumericsError: If the gradient does not get small.

    Source: Yeh et al. (2018), "Representer Point Selection for Explaining Deep Neural Networks", theorem 3.1.
    """
    share = weights / weights.sum()
    transposed = features.T.tocsr()
    found = np.zeros((int(features.shape[1]), targets.shape[1]))  # pyright: ignore[reportOptionalSubscript]

    def total(coefficients: np.ndarray) -> float:
        outputs = features @ coefficients
        return float(share @ _losses(outputs, targets, loss) + penalty * np.square(coefficients).sum())

    first, size = 0.0, np.inf
    for step in range(_STEPS):
        outputs = features @ found
        slopes = share[:, None] * _slopes(outputs, targets, loss)
        gradient = transposed @ slopes + 2 * penalty * found
        size = float(np.abs(gradient).max(initial=0.0))
        first = max(first, size)
        if size <= max(_TOLERANCE * first, _SMALL):
            return Representers(slopes / (-2 * penalty), step)
        curvature = _Curvature(features, transposed, share, outputs, loss, penalty)
        operator = LinearOperator(  # pyright: ignore[reportCallIssue]
            (found.size, found.size),  # pyright: ignore[reportCallIssue]
            matvec=curvature.flat,  # pyright: ignore[reportCallIssue]
            dtype=np.float64,  # pyright: ignore[reportCallIssue]
        )
        move, _ = cg(operator, -gradient.ravel(), rtol=1e-6, maxiter=_INNER)
        found = _searched(found, move.reshape(found.shape), gradient, total)
    raise NumericsError(
        f"the surrogate's gradient is {size:.3g} after {_STEPS} Newton steps; the largest was {first:.3g}.",
        fix="raise the penalty.",
    )


@dataclass(frozen=True, eq=False)
class _Curvature:
    features: sp.csr_array
    transposed: sp.csr_array
    share: np.ndarray
    outputs: np.ndarray
    loss: Loss
    penalty: float

    def flat(self, direction: np.ndarray) -> np.ndarray:
        """The same for a direction in one row."""
        return self(direction.reshape(-1, self.outputs.shape[1])).ravel()

    def __call__(self, direction: np.ndarray) -> np.ndarray:
        change = self.features @ direction
        if self.loss == "logistic":
            change = expit(self.outputs) * expit(-self.outputs) * change
        elif self.loss == "softmax":
            p = softmax(self.outputs, axis=1)
            change = p * (change - (p * change).sum(axis=1, keepdims=True))
        return self.transposed @ (self.share[:, None] * change) + 2 * self.penalty * direction


def _slopes(outputs: np.ndarray, targets: np.ndarray, loss: Loss) -> np.ndarray:
    if loss == "squared":
        return outputs - targets
    return (expit(outputs) if loss == "logistic" else softmax(outputs, axis=1)) - targets


def _losses(outputs: np.ndarray, targets: np.ndarray, loss: Loss) -> np.ndarray:
    if loss == "squared":
        return 0.5 * np.square(outputs - targets).sum(axis=1)
    if loss == "logistic":
        return (np.logaddexp(0, outputs) - targets * outputs).sum(axis=1)
    return np.asarray(logsumexp(outputs, axis=1)) - (targets * outputs).sum(axis=1)


def _searched(
    found: np.ndarray, move: np.ndarray, gradient: np.ndarray, total: Callable[[np.ndarray], float]
) -> np.ndarray:
    """Halve the step until the objective falls as it should, up to rounding."""
    before, slope, rate = total(found), float((gradient * move).sum()), 1.0
    allowed = 1e-12 * max(1.0, abs(before))
    while rate > 1e-8 and total(found + rate * move) > before + _FRACTION * rate * slope + allowed:
        rate /= 2
    return found + rate * move
