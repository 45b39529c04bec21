r"""Logistic regression on many weightings of one data set, by Newton's method from the solution of all of it.

The objective of a fit is :math:`\sum_i w_i \ell_i + \tfrac{1}{2} \sum d \theta^2`, with the log loss of a sigmoid
(two classes) or of a softmax. All fits take their steps together: logits, gradients and products with the Hessian
are matrix products over the same columns. Newton's equations are solved by conjugate gradients, preconditioned with
the Hessian of the full data, of which a subset's is nearly a multiple; no Hessian of a subset is ever formed.

Source: Nocedal & Wright (2006), "Numerical Optimization", line-search Newton-CG (their algorithm 7.1); the common
preconditioner is ours.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, log_softmax

_NEWTON = 40
_CONJUGATE = 60
_HALVINGS = 30
_STATIONARY = 1e-10
_ROUNDING = 1e-13


@dataclass(frozen=True, eq=False)
class Logistic:
    """A data set for logistic regression.

    Attributes:
        columns: What the weights read, a constant for an intercept included.
        codes: Number of every example's class.
        classes: How many classes; two are one sigmoid, more are a softmax.
        penalty: Added to the Hessian's diagonal, column by column; 0 for a column that is not penalised.
    """

    columns: Float[np.ndarray, "example column"]
    codes: Int[np.ndarray, " example"]
    classes: int
    penalty: Float[np.ndarray, " column"]

    @property
    def outputs(self) -> int:
        """Rows of a solution."""
        return 1 if self.classes == 2 else self.classes

    def wanted(self) -> Float[np.ndarray, "example output"]:
        """What the probabilities should be."""
        if self.outputs == 1:
            return self.codes[:, None].astype(np.float64)
        return np.eye(self.classes)[self.codes]

    def chances(
        self, theta: Float[np.ndarray, "fit output column"]
    ) -> Float[np.ndarray, "fit example output"]:
        """Probabilities; of the second class where there are two."""
        logits = self.columns @ theta.transpose(0, 2, 1)
        return expit(logits) if self.outputs == 1 else np.exp(log_softmax(logits, axis=2))

    def objective(
        self, theta: Float[np.ndarray, "fit output column"], weights: Float[np.ndarray, "fit example"]
    ) -> Float[np.ndarray, " fit"]:
        """What a fit minimises."""
        logits = self.columns @ theta.transpose(0, 2, 1)
        if self.outputs == 1:
            signed = np.where(self.codes == 1, logits[:, :, 0], -logits[:, :, 0])
            losses = np.logaddexp(0.0, -signed)
        else:
            losses = -log_softmax(logits, axis=2)[:, np.arange(len(self.codes)), self.codes]
        return (weights * losses).sum(axis=1) + 0.5 * (self.penalty * theta**2).sum(axis=(1, 2))


def logistic_fits(
    data: Logistic, weights: Float[np.ndarray, "fit example"], start: Float[np.ndarray, "output column"]
) -> tuple[Float[np.ndarray, "fit output column"], Bool[np.ndarray, " fit"]]:
    """The minimum for every weighting.

    Cost: per fit some five Newton steps of about ten products with the data; memory 6 numbers per fit, example
    and output.

    Args:
        data: Columns, classes and penalty.
        weights: At least 0.
        start: Where to begin: the minimum for all examples at weight 1.

    Returns:
        The minima, and whether the gradient vanished to ten digits of its terms. Where it did not there may be no
        minimum, as without a penalty on classes that can be separated.
    """
    theta = np.repeat(start[None], len(weights), axis=0)
    precondition = _preconditioner(data, float(weights.sum(axis=1).mean()) / len(data.codes), start)
    lengths = np.linalg.norm(data.columns, axis=1)
    good = np.zeros(len(weights), dtype=bool)
    active = np.flatnonzero(weights.any(axis=1))
    for _ in range(_NEWTON):
        own, chances = weights[active], data.chances(theta[active])
        slopes = own[:, :, None] * (chances - data.wanted())
        pull = data.penalty * theta[active]
        gradient = slopes.transpose(0, 2, 1) @ data.columns + pull
        terms = np.linalg.norm(slopes, axis=2) @ lengths + np.linalg.norm(pull, axis=(1, 2))
        rest = np.linalg.norm(gradient, axis=(1, 2)) / np.maximum(terms, np.finfo(np.float64).tiny)
        good[active[rest <= _STATIONARY]] = True
        on = np.flatnonzero((rest > _STATIONARY) & np.isfinite(rest))
        if not len(on):
            break
        active, own, chances, gradient = active[on], own[on], chances[on], gradient[on]
        curvature = _Curvature(data, own, chances)
        step = _conjugate(curvature, gradient, precondition, np.minimum(0.1, rest[on]))
        theta[active] += _searched(data, theta[active], own, step, gradient)
    return theta, good


@dataclass(frozen=True, eq=False)
class _Curvature:
    """The Hessians of some fits, as products."""

    data: Logistic
    weights: np.ndarray
    chances: np.ndarray

    def __matmul__(self, direction: np.ndarray) -> np.ndarray:
        moved = self.data.columns @ direction.transpose(0, 2, 1)
        if self.data.outputs == 1:
            bent = self.chances * (1.0 - self.chances) * moved
        else:
            bent = self.chances * (moved - (self.chances * moved).sum(axis=2, keepdims=True))
        bent *= self.weights[:, :, None]
        return bent.transpose(0, 2, 1) @ self.data.columns + self.data.penalty * direction


def _preconditioner(data: Logistic, share: float, start: np.ndarray) -> list[tuple[np.ndarray, bool]]:
    """One factor per output: of its own block of the full data's Hessian, times the share that is present."""
    factors: list[tuple[np.ndarray, bool]] = []
    for chances in data.chances(start[None])[0].T:
        bends = share * chances * (1.0 - chances)
        block = (data.columns * bends[:, None]).T @ data.columns
        block[np.diag_indices_from(block)] += data.penalty
        # A little more keeps columns that are constant zero, or flat without a penalty, from being singular.
        block[np.diag_indices_from(block)] += 1e-10 * max(float(np.trace(block)) / len(block), 1e-300)
        factors.append(cho_factor(block))
    return factors


def _conjugate(
    curvature: _Curvature,
    gradient: np.ndarray,
    precondition: list[tuple[np.ndarray, bool]],
    accuracy: np.ndarray,
) -> np.ndarray:
    """Newton's step of every fit, to a relative accuracy of its residual."""
    step = np.zeros_like(gradient)
    rest = -gradient
    target = accuracy * _norm(rest)
    solved = _applied(precondition, rest)
    direction, product = solved, _dot(rest, solved)
    for _ in range(_CONJUGATE):
        bent = curvature @ direction
        length = _dot(direction, bent)
        going = (_norm(rest) > target) & (length > 0)
        if not going.any():
            break
        by = np.where(going, product / np.where(going, length, 1.0), 0.0)[:, None, None]
        step, rest = step + by * direction, rest - by * bent
        solved = _applied(precondition, rest)
        before, product = product, _dot(rest, solved)
        direction = solved + (product / np.where(before > 0, before, 1.0))[:, None, None] * direction
    return step


def _searched(
    data: Logistic, theta: np.ndarray, weights: np.ndarray, step: np.ndarray, gradient: np.ndarray
) -> np.ndarray:
    """The steps, halved where they do not lower the objective; 0 where nothing does."""
    begin, slope = data.objective(theta, weights), _dot(gradient, step)
    scale = np.ones(len(theta))
    left = np.arange(len(theta))
    for _ in range(_HALVINGS):
        reached = data.objective(theta[left] + scale[left, None, None] * step[left], weights[left])
        allowed = begin[left] + 1e-4 * scale[left] * slope[left] + _ROUNDING * np.abs(begin[left])
        left = left[~(reached <= allowed)]
        if not len(left):
            break
        scale[left] *= 0.5
    scale[left] = 0.0
    return scale[:, None, None] * step


def _applied(precondition: list[tuple[np.ndarray, bool]], rest: np.ndarray) -> np.ndarray:
    parts = [cho_solve(factor, rest[:, k].T).T for k, factor in enumerate(precondition)]
    return np.stack(parts, axis=1)


def _dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.einsum("koc,koc->k", first, second)


def _norm(values: np.ndarray) -> np.ndarray:
    return np.sqrt(_dot(values, values))
