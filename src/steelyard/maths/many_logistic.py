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
from scipy.linalg import cholesky, solve_triangular
from scipy.special import expit

_NEWTON = 40
_CONJUGATE = 60
_HALVINGS = 30
_STATIONARY = 1e-8
_ROUNDING = 1e-13
_WHOLE = 3000  # parameters up to which the Hessian of the full data is factorised as a whole


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

    def chances(
        self, theta: Float[np.ndarray, "fit output column"]
    ) -> Float[np.ndarray, "fit example output"]:
        """Probabilities; of the second class where there are two."""
        return _chances(self, theta.transpose(1, 0, 2)).transpose(2, 1, 0)

    def objective(
        self, theta: Float[np.ndarray, "fit output column"], weights: Float[np.ndarray, "fit example"]
    ) -> Float[np.ndarray, " fit"]:
        """What a fit minimises."""
        return _objective(self, theta.transpose(1, 0, 2), weights.T)


def logistic_fits(
    data: Logistic, weights: Float[np.ndarray, "fit example"], start: Float[np.ndarray, "output column"]
) -> tuple[Float[np.ndarray, "fit output column"], Bool[np.ndarray, " fit"]]:
    """The minimum for every weighting.

    Cost: per fit three to six Newton steps of about ten products with the data; memory 6 numbers per fit, example
    and output.

    Args:
        data: Columns, classes and penalty.
        weights: At least 0.
        start: Where to begin: the minimum for all examples at weight 1.

    Returns:
        The minima, and whether the gradient vanished to eight digits of its terms, from where a further step of
        Newton's would change the sixteenth digit. Where it did not there may be no minimum, as without a penalty on
        classes that can be separated. Fits that lack a class are not tried: an intercept would go to infinity.
    """
    # Within this module outputs come first and fits last: sums over classes are then sums of whole arrays.
    theta = np.repeat(start[:, None], len(weights), axis=1)
    own = np.ascontiguousarray(weights.T, dtype=np.float64)
    wanted = _one_hot(data)
    precondition = _preconditioner(data, float(weights.sum(axis=1).mean()) / len(data.codes), start)
    lengths = np.linalg.norm(data.columns, axis=1)
    good = np.zeros(len(weights), dtype=bool)
    active = np.flatnonzero(_has_all_classes(data, weights))
    value = _objective(data, theta, own)
    for _ in range(_NEWTON):
        chances = _chances(data, theta[:, active])
        slopes = (chances - wanted) * own[:, active]
        pull = data.penalty * theta[:, active]
        gradient = slopes.transpose(0, 2, 1) @ data.columns + pull
        terms = lengths @ np.sqrt(np.square(slopes).sum(axis=0)) + _norm(pull)
        rest = _norm(gradient) / np.maximum(terms, np.finfo(np.float64).tiny)
        good[active[rest <= _STATIONARY]] = True
        on = np.flatnonzero((rest > _STATIONARY) & np.isfinite(rest))
        if not len(on):
            break
        active, rest, gradient = active[on], rest[on], gradient[:, on]
        bends = _Curvature(
            data, np.ascontiguousarray(own[:, active]), np.ascontiguousarray(chances[:, :, on])
        )
        # Close to the minimum a step is as good as its equations are solved; no better than is asked for.
        accuracy = np.maximum(np.minimum(0.1, rest), 0.3 * _STATIONARY / rest)
        step = _conjugate(bends, gradient, precondition, accuracy)
        slope = _dot(gradient, step)
        theta[:, active], value[active] = _searched(
            data, theta[:, active], bends.own, step, value[active], slope
        )
    return theta.transpose(1, 0, 2), good


def _has_all_classes(data: Logistic, weights: np.ndarray) -> Bool[np.ndarray, " fit"]:
    return ((weights != 0) @ np.eye(data.classes)[data.codes] > 0).all(axis=1)


def _one_hot(data: Logistic) -> Float[np.ndarray, "output example 1"]:
    if data.outputs == 1:
        return data.codes[None, :, None].astype(np.float64)
    return np.eye(data.classes)[:, data.codes][:, :, None]


def _logits(data: Logistic, theta: np.ndarray) -> Float[np.ndarray, "output example fit"]:
    return data.columns @ theta.transpose(0, 2, 1)


def _chances(data: Logistic, theta: np.ndarray) -> Float[np.ndarray, "output example fit"]:
    logits = _logits(data, theta)
    if data.outputs == 1:
        return expit(logits)
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)
    return logits


def _objective(data: Logistic, theta: np.ndarray, own: np.ndarray) -> Float[np.ndarray, " fit"]:
    logits = _logits(data, theta)
    if data.outputs == 1:
        losses = np.logaddexp(0.0, np.where(data.codes[:, None] == 1, -logits[0], logits[0]))
    else:
        highest = logits.max(axis=0)
        losses = highest - logits[data.codes, np.arange(len(data.codes))]
        logits -= highest
        np.exp(logits, out=logits)
        losses += np.log(logits.sum(axis=0))
    return np.einsum("ef,ef->f", own, losses) + 0.5 * np.einsum("c,ofc,ofc->f", data.penalty, theta, theta)


@dataclass(frozen=True, eq=False)
class _Curvature:
    """The Hessians of some fits, as products."""

    data: Logistic
    own: np.ndarray
    chances: np.ndarray

    def __matmul__(self, direction: np.ndarray) -> np.ndarray:
        moved = _logits(self.data, direction)
        if self.data.outputs == 1:
            moved *= 1.0 - self.chances
        else:
            moved -= np.einsum("oef,oef->ef", self.chances, moved)
        moved *= self.chances
        moved *= self.own
        return moved.transpose(0, 2, 1) @ self.data.columns + self.data.penalty * direction


def _preconditioner(data: Logistic, share: float, start: np.ndarray) -> list[np.ndarray]:
    """Inverse Cholesky factors of the full data's Hessian, times the share that is present.

    One where it is small enough to be held as a whole, else one per output, of its own block. Inverted, because they
    are applied much more often than made, and a product is faster than a substitution.
    """
    chances = _chances(data, start[:, None])[:, :, 0].T
    width, outputs = data.columns.shape[1], data.outputs
    own = share * chances * (1.0 - chances)
    if outputs == 1 or outputs * width > _WHOLE:
        blocks = [(data.columns * bends[:, None]).T @ data.columns for bends in own.T]
        return [_factor(block, data.penalty) for block in blocks]
    whole = np.empty((outputs, width, outputs, width))
    for k in range(outputs):
        for other in range(k + 1):
            bends = own[:, k] if other == k else -share * chances[:, k] * chances[:, other]
            block = (data.columns * bends[:, None]).T @ data.columns
            whole[k, :, other], whole[other, :, k] = block, block
    for column in np.flatnonzero(data.penalty == 0.0):
        # The same number added to all logits changes nothing: without a penalty there is no curvature that way, and
        # rounding along it would be blown up. It gets the mean curvature of its column.
        whole[:, column, :, column] += np.trace(whole[:, column, :, column]) / outputs**2
    return [_factor(whole.reshape(outputs * width, -1), np.tile(data.penalty, outputs))]


def _factor(block: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    # A little more keeps columns that are constant zero, or flat without a penalty, from being singular.
    block[np.diag_indices_from(block)] += penalty + 1e-10 * max(float(np.trace(block)) / len(block), 1e-300)
    return solve_triangular(cholesky(block, lower=True), np.eye(len(block)), lower=True)


def _conjugate(
    curvature: _Curvature,
    gradient: np.ndarray,
    precondition: list[np.ndarray],
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
        by = np.where(going, product / np.where(going, length, 1.0), 0.0)[:, None]
        step, rest = step + by * direction, rest - by * bent
        solved = _applied(precondition, rest)
        before, product = product, _dot(rest, solved)
        direction = solved + (product / np.where(before > 0, before, 1.0))[:, None] * direction
    return step


def _searched(
    data: Logistic, theta: np.ndarray, own: np.ndarray, step: np.ndarray, value: np.ndarray, slope: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where the steps lead, halved until they lower the objective, and its value there; the start if none does."""
    scale, found, reached = np.ones(len(value)), theta.copy(), value.copy()
    left = np.arange(len(value))
    for _ in range(_HALVINGS):
        there = theta[:, left] + scale[left, None] * step[:, left]
        low = _objective(data, there, own[:, left])
        good = low <= value[left] + 1e-4 * scale[left] * slope[left] + _ROUNDING * np.abs(value[left])
        found[:, left[good]], reached[left[good]] = there[:, good], low[good]
        left = left[~good]
        if not len(left):
            break
        scale[left] *= 0.5
    return found, reached


def _applied(precondition: list[np.ndarray], rest: np.ndarray) -> np.ndarray:
    if len(precondition) == 1:
        root = precondition[0]
        flat = rest.transpose(1, 0, 2).reshape(rest.shape[1], -1)
        return ((flat @ root.T) @ root).reshape(rest.shape[1], len(rest), -1).transpose(1, 0, 2)
    return np.stack([(part @ root.T) @ root for root, part in zip(precondition, rest, strict=True)])


def _dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.einsum("ofc,ofc->f", first, second)


def _norm(values: np.ndarray) -> np.ndarray:
    return np.sqrt(_dot(values, values))
