r"""Ridge regression on many weightings of one data set, in closed form.

With the columns X, the targets Y and the penalty D, the fit of weights w solves

.. math:: (X^\top \mathrm{diag}(w) X + D)\, \theta = X^\top \mathrm{diag}(w) Y.

Where a weighting differs from all ones in few rows R, the solution follows from that of all rows by the identity of
Sherman, Morrison and Woodbury, with :math:`Z = (X^\top X + D)^{-1} X^\top` and :math:`\delta = w - 1`:

.. math:: \theta_w = \theta_1 + Z_R \left(I + \delta_R X_R Z_R\right)^{-1} \delta_R (Y_R - X_R \theta_1).

Otherwise the matrix is summed over the rows that are present and factorised.

Source: Woodbury (1950), "Inverting modified matrices"; for one row, Cook (1977), "Detection of influential
observation in linear regression".
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import cho_factor, cho_solve

_RESIDUAL = 1e-9
_BLOCK_BYTES = 64 * 2**20


def ridge_fits(
    columns: Float[np.ndarray, "example column"],
    targets: Float[np.ndarray, "example target"],
    weights: Float[np.ndarray, "fit example"],
    penalty: Float[np.ndarray, " column"],
) -> tuple[Float[np.ndarray, "fit target column"], Bool[np.ndarray, " fit"]]:
    """The solution for every weighting.

    Cost: for r rows of weight other than 1, about p · r · (p + r) operations where r is at most half the number p
    of columns; otherwise rows · p² + p³ / 3.

    Args:
        columns: What the weights read, a constant for an intercept included.
        targets: What is predicted.
        weights: At least 0; a fit needs one that is positive.
        penalty: Added to the diagonal; 0 for a column that is not penalised.

    Returns:
        The solutions, and whether each satisfies its equations to nine digits. With a penalty on every column
        there is one solution only; where there are several, any of them may come back.

    Example:
        >>> x, y = np.array([[1.0], [2.0], [3.0]]), np.array([[2.0], [4.0], [9.0]])
        >>> found, good = ridge_fits(x, y, np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]), np.zeros(1))
        >>> found[:, 0, 0].round(3).tolist(), good.tolist()
        ([2.643, 2.0], [True, True])
    """
    found = np.empty((len(weights), targets.shape[1], columns.shape[1]))
    changed = np.count_nonzero(weights != 1.0, axis=1)
    few = changed <= columns.shape[1] // 2
    if few.any():
        places = np.flatnonzero(few)
        found[places] = _updated(columns, targets, weights[places], penalty)
    many = np.flatnonzero(~few)
    if 8 * columns.size * columns.shape[1] <= _BLOCK_BYTES:
        found[many] = _by_products(columns, targets, weights[many], penalty)
        many = many[:0]
    for place in many:
        rows = np.flatnonzero(weights[place])
        scaled = columns[rows] * weights[place, rows, None]
        gram = scaled.T @ columns[rows]
        gram[np.diag_indices_from(gram)] += penalty
        found[place] = _solved(gram, scaled.T @ targets[rows]).T
    return found, _satisfied(columns, targets, weights, penalty, found)


def _by_products(
    columns: np.ndarray, targets: np.ndarray, weights: np.ndarray, penalty: np.ndarray
) -> np.ndarray:
    """Every Gram matrix is a weighted sum of the examples' products, so all come from one matrix product."""
    width, outputs = columns.shape[1], targets.shape[1]
    squares = (columns[:, :, None] * columns[:, None]).reshape(len(columns), -1)
    crossed = (columns[:, :, None] * targets[:, None]).reshape(len(columns), -1)
    found = np.empty((len(weights), outputs, width))
    step = max(1, _BLOCK_BYTES // (8 * width * width))
    for low in range(0, len(weights), step):
        part = weights[low : low + step]
        gram = (part @ squares).reshape(-1, width, width)
        gram[:, np.arange(width), np.arange(width)] += penalty
        right = (part @ crossed).reshape(-1, width, outputs)
        found[low : low + step] = _solved(gram, right).transpose(0, 2, 1)
    return found


def _updated(
    columns: np.ndarray, targets: np.ndarray, weights: np.ndarray, penalty: np.ndarray
) -> np.ndarray:
    gram = columns.T @ columns
    gram[np.diag_indices_from(gram)] += penalty
    both = _solved(gram, np.concatenate([columns.T @ targets, columns.T], axis=1))
    theta, solved = both[:, : targets.shape[1]], both[:, targets.shape[1] :].T  # solved is [example, column]
    rest = targets - columns @ theta
    found = np.broadcast_to(theta.T, (len(weights), *theta.T.shape)).copy()
    changes = weights - 1.0
    counts = np.count_nonzero(changes, axis=1)
    for count in np.unique(counts[counts > 0]):
        members = np.flatnonzero(counts == count)
        step = max(1, _BLOCK_BYTES // (8 * int(count) * columns.shape[1]))
        for low in range(0, len(members), step):
            part = members[low : low + step]
            rows = np.nonzero(changes[part])[1].reshape(len(part), count)
            change = np.take_along_axis(changes[part], rows, axis=1)[:, :, None]
            inner = np.eye(count) + change * (columns[rows] @ solved[rows].transpose(0, 2, 1))
            found[part] += (_solved(inner, change * rest[rows])).transpose(0, 2, 1) @ solved[rows]
    return found


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The solution, or NaN where the matrix is singular."""
    try:
        if matrix.ndim == 2:
            return cho_solve(cho_factor(matrix), right)
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        return np.full_like(right, np.nan)


def _satisfied(
    columns: np.ndarray, targets: np.ndarray, weights: np.ndarray, penalty: np.ndarray, found: np.ndarray
) -> np.ndarray:
    good = np.zeros(len(found), dtype=bool)
    step = max(1, _BLOCK_BYTES // (8 * targets.size))
    for low in range(0, len(found), step):
        part, own = found[low : low + step], weights[low : low + step, :, None]
        rest = own * (targets - columns @ part.transpose(0, 2, 1))
        gap = np.linalg.norm(rest.transpose(0, 2, 1) @ columns - penalty * part, axis=(1, 2))
        size = np.linalg.norm((own * targets).transpose(0, 2, 1) @ columns, axis=(1, 2))
        # NaN compares as false: a singular system is not satisfied.
        good[low : low + step] = gap <= _RESIDUAL * np.maximum(size, np.finfo(np.float64).tiny)
    return good
