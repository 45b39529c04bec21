"""Factorising an exact curvature, with the damping that it needs."""

import numpy as np
import scipy.linalg
from jaxtyping import Float
from scipy.linalg.lapack import dpocon  # pyright: ignore[reportAttributeAccessIssue] - compiled, without stubs

from steelyard.errors import NumericsError, SettingError

_WELL_CONDITIONED = 1e-8


def factorise(
    hessian: Float[np.ndarray, "param param"], damping: float | int | str, examples: int, *, optimal: bool
) -> tuple[tuple[np.ndarray, bool], float, str]:
    """Cholesky factor of ``hessian + examples * damping * I``, the damping that was used, and why.

    Args:
        hessian: Curvature of the summed objective.
        damping: ``"auto"`` or a number, for the mean curvature.
        examples: How many the objective is a mean over.
        optimal: Whether the model is at the optimum of its objective, as closed forms are.

    Raises:
        SettingError: If the damping is negative or an unknown word.
        NumericsError: If the matrix is not positive definite.
    """
    if damping == "auto":
        value = 0.1 * float(np.trace(hessian)) / len(hessian) / examples
        reason = "0.1 x mean eigenvalue, because a network is rarely at its optimum"
        if optimal:
            reciprocal = _reciprocal_condition(hessian)
            if reciprocal > _WELL_CONDITIONED:
                value, reason = 0.0, f"well conditioned (reciprocal condition number {reciprocal:.1e})"
            else:
                reason = f"0.1 x mean eigenvalue, because the curvature is ill conditioned ({reciprocal:.1e})"
    elif isinstance(damping, str) or damping < 0:
        raise SettingError(f"damping={damping!r}", fix='give "auto" or a number that is not negative.')
    else:
        value, reason = float(damping), "as given"
    damped = hessian + examples * value * np.eye(len(hessian))
    try:
        return scipy.linalg.cho_factor(damped, lower=True, check_finite=False), value, reason
    except np.linalg.LinAlgError as error:
        raise NumericsError(
            f"the curvature with damping {value:g} is not positive definite.",
            fix='use damping="auto" or a larger number.',
        ) from error


def _reciprocal_condition(matrix: Float[np.ndarray, "param param"]) -> float:
    """Estimate in the 1-norm; 0 where there is no Cholesky factor."""
    try:
        factor = scipy.linalg.cho_factor(matrix, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return 0.0
    return float(dpocon(factor[0], float(np.abs(matrix).sum(axis=0).max()), uplo="L")[0])
