"""Low-rank factorisation of a matrix of which some entries are known, with the nuclear norm as penalty.

The sum of squared lengths of two factors is at least twice the nuclear norm of their product, and equal at the best
factors (Srebro, Rennie & Jaakkola 2004), so that the penalised factors give the minimum of squared error plus nuclear
norm wherever that has no higher rank. Alternating ridge regressions come near it, Newton's method with conjugate
gradients the rest of the way: explanations that add up need the optimum, not its neighbourhood.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.optimize import minimize

_SWEEPS = 30
_NEAR = 1e-3
_AT_ONCE = 2**23
_STATIONARY = 1e-9


@dataclass(frozen=True, eq=False)
class Entries:
    """Known entries of a matrix.

    Attributes:
        rows: Row of each.
        columns: Column of each.
        values: The entries.
        weights: Weight of the squared error of each.
        shape: Rows and columns of the matrix.
    """

    rows: Int[np.ndarray, " entry"]
    columns: Int[np.ndarray, " entry"]
    values: Float[np.ndarray, " entry"]
    weights: Float[np.ndarray, " entry"]
    shape: tuple[int, int]

    def turned(self) -> "Entries":
        """The transpose."""
        return Entries(self.columns, self.rows, self.values, self.weights, (self.shape[1], self.shape[0]))


def factorise(
    entries: Entries, *, rank: int, penalty: float, draw: np.random.Generator
) -> tuple[Float[np.ndarray, "row factor"], Float[np.ndarray, "column factor"]]:
    r"""Factors U and V that minimise :math:`\tfrac12 \sum w (u_r^T v_c - y)^2 + \tfrac\lambda2 (|U|^2 + |V|^2)`.

    They come balanced: :math:`U^T U = V^T V` is diagonal and holds the singular values of :math:`U V^T`, largest first.

    Cost: about 30 sweeps of entries times rank² and some hundred products of entries times rank.

    Args:
        entries: What is known.
        rank: Width of the factors.
        penalty: λ, of the nuclear norm.
        draw: Of the start.
    """
    right = draw.normal(size=(entries.shape[1], rank)) / np.sqrt(rank)
    left = np.zeros((entries.shape[0], rank))
    turned = entries.turned()
    for _ in range(_SWEEPS):
        before = left
        left = _ridge(entries, right, penalty)
        right = _ridge(turned, left, penalty)
        if np.linalg.norm(left - before) <= _NEAR * np.linalg.norm(left):
            break
    objective = _Objective(entries, rank, penalty)
    found = minimize(
        objective.value_and_gradient,
        np.concatenate([left.ravel(), right.ravel()]),
        jac=True,
        hessp=objective.product,
        method="trust-ncg",
        options={"gtol": _STATIONARY * penalty, "maxiter": 200},
    )
    return balanced(*objective.split(found.x))


def balanced(
    left: Float[np.ndarray, "row factor"], right: Float[np.ndarray, "column factor"]
) -> tuple[Float[np.ndarray, "row factor"], Float[np.ndarray, "column factor"]]:
    """Factors of the same product whose columns are singular vectors times the root of the singular value."""
    q_left, r_left = np.linalg.qr(left)
    q_right, r_right = np.linalg.qr(right)
    u, singular, v = np.linalg.svd(r_left @ r_right.T)
    root = np.sqrt(singular)
    return q_left @ u * root, q_right @ v.T * root


def _ridge(entries: Entries, other: np.ndarray, penalty: float) -> np.ndarray:
    """The best factors of the rows for given factors of the columns; zero for rows without entries."""
    rank = other.shape[1]
    found = np.zeros((entries.shape[0], rank))
    order = np.argsort(entries.rows, kind="stable")
    rows, starts = np.unique(entries.rows[order], return_index=True)
    stops = np.append(starts[1:], len(order))
    most = max(1, _AT_ONCE // rank**2)
    begin = 0
    while begin < len(rows):
        end = max(begin + 1, int(np.searchsorted(stops, starts[begin] + most, side="right")))
        part = order[starts[begin] : stops[end - 1]]
        read = other[entries.columns[part]]
        scaled = read * entries.weights[part, None]
        bounds = starts[begin:end] - starts[begin]
        grams = np.add.reduceat(scaled[:, :, None] * read[:, None, :], bounds, axis=0)
        sums = np.add.reduceat(scaled * entries.values[part, None], bounds, axis=0)
        found[rows[begin:end]] = np.linalg.solve(grams + penalty * np.eye(rank), sums[:, :, None])[:, :, 0]
        begin = end
    return found


class _Objective:
    """The objective of both factors, flat, one after the other."""

    def __init__(self, entries: Entries, rank: int, penalty: float) -> None:
        order = np.lexsort((entries.columns, entries.rows))
        self._rows, self._columns = entries.rows[order], entries.columns[order]
        self._values, self._weights = entries.values[order], entries.weights[order]
        self._starts = np.searchsorted(self._rows, np.arange(entries.shape[0] + 1))
        self._shape, self._rank, self._penalty = entries.shape, rank, penalty

    def split(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both factors."""
        cut = self._shape[0] * self._rank
        return flat[:cut].reshape(-1, self._rank), flat[cut:].reshape(-1, self._rank)

    def value_and_gradient(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        """Of the objective."""
        left, right = self.split(flat)
        gap = self._paired(left, right) - self._values
        pull = self._weights * gap
        table = self._table(pull)
        gradient = np.concatenate([(table @ right).ravel(), (table.T @ left).ravel()]) + self._penalty * flat
        return 0.5 * float(pull @ gap) + 0.5 * self._penalty * float(flat @ flat), gradient

    def product(self, flat: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Of the Hessian with a direction."""
        left, right = self.split(flat)
        d_left, d_right = self.split(direction)
        pull = self._table(self._weights * (self._paired(left, right) - self._values))
        moved = self._table(self._weights * (self._paired(d_left, right) + self._paired(left, d_right)))
        upper = moved @ right + pull @ d_right
        lower = moved.T @ left + pull.T @ d_left
        return np.concatenate([upper.ravel(), lower.ravel()]) + self._penalty * direction

    def _paired(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.einsum("ef,ef->e", left[self._rows], right[self._columns])

    def _table(self, data: np.ndarray) -> sparse.csr_array:
        return sparse.csr_array((data, self._columns, self._starts), shape=self._shape)
