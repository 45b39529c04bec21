"""Positive definite matrices that couple only numbers of the same block: damped, factorised, applied to rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float

from steelyard.errors import NumericsError


@dataclass(frozen=True, eq=False)
class Blockwise:
    """A block-diagonal matrix by the lower Cholesky factors of its blocks.

    Attributes:
        columns: Where each block is, in the order of the columns and without gaps.
        factors: ``[k, k]`` per block.
    """

    columns: tuple[slice, ...]
    factors: tuple[np.ndarray, ...]

    def solve(self, rows: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row column"]:
        """Every row times the inverse, in float64."""
        out = np.empty(rows.shape)
        for columns, factor in zip(self.columns, self.factors, strict=True):
            part = np.asarray(rows[:, columns], dtype=np.float64).T
            out[:, columns] = scipy.linalg.cho_solve((factor, True), part, check_finite=False).T
        return out

    def quadratic(self, rows: Float[np.ndarray, "row column"]) -> Float[np.ndarray, " row"]:
        """Every row times the inverse times the row itself, in float64."""
        total = np.zeros(len(rows))
        for columns, factor in zip(self.columns, self.factors, strict=True):
            part = np.asarray(rows[:, columns], dtype=np.float64).T
            whitened = scipy.linalg.solve_triangular(factor, part, lower=True, check_finite=False)
            total += np.einsum("kn,kn->n", whitened, whitened)
        return total


def factorise(columns: Sequence[slice], matrices: Sequence[np.ndarray], names: Sequence[str]) -> Blockwise:
    """The block-diagonal matrix of these blocks.

    Cost: a third of the sum of the cubes of their sizes, in multiplications.

    Args:
        columns: Where each block is.
        matrices: ``[k, k]`` symmetric.
        names: Of the blocks, for the error.

    Raises:
        NumericsError: If a block is not positive definite.
    """
    factors: list[np.ndarray] = []
    for matrix, name in zip(matrices, names, strict=True):
        try:
            factors.append(scipy.linalg.cholesky(matrix, lower=True, check_finite=True))
        except (np.linalg.LinAlgError, ValueError) as error:
            raise NumericsError(
                f"the damped second moment of {name!r} is not positive definite.",
                fix='use damping="auto" or a larger number, and look for examples with extreme gradients.',
            ) from error
    return Blockwise(tuple(columns), tuple(factors))


def mean_eigenvalue(matrix: Float[np.ndarray, "k k"]) -> float:
    """Trace over size."""
    return float(np.trace(matrix)) / max(1, len(matrix))
