"""Many tests at once: which of them still say something."""

import numpy as np
from jaxtyping import Float


def benjamini_hochberg(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjusted p-values: calling those below a level significant keeps the share of false ones below it, on average.

    Holds for independent tests and for those with positive dependence. NaN (a test that could not be made) stays NaN
    and counts for nothing.

    Cost: one sort.

    Example:
        >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03, 0.5])).round(4)
        array([0.04  , 0.0533, 0.0533, 0.5   ])

    Source: Benjamini & Hochberg (1995), "Controlling the False Discovery Rate", procedure (1) in its adjusted form.
    """
    adjusted = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    scaled = p_values[order] * len(order) / np.arange(1, len(order) + 1)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted


def holm(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjusted p-values: the chance that any true null hypothesis is called significant stays below the level.

    Holds whatever the dependence of the tests.

    Cost: one sort.

    Example:
        >>> holm(np.array([0.01, 0.04, 0.03])).round(4)
        array([0.03, 0.06, 0.06])

    Source: Holm (1979), "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    count = len(p_values)
    adjusted = np.empty(count)
    order = np.argsort(p_values, kind="stable")
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * (count - np.arange(count))), 1.0)
    return adjusted


def student_p(
    values: Float[np.ndarray, "*shape"], errors: Float[np.ndarray, "*shape"], freedom: float | int
) -> Float[np.ndarray, "*shape"]:
    """Two-sided p-values that the true value is 0, from estimates and their standard errors.

    An error of 0 gives 0 for any value but 0, which gives 1; an unknown error gives NaN.

    Source: Student (1908); normal where the degrees of freedom are infinite.
    """
    from scipy.special import ndtr, stdtr

    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(values) / errors
    tail = ndtr(-t) if np.isinf(freedom) else stdtr(freedom, -t)
    found = 2 * np.asarray(tail, dtype=np.float64)
    return np.where(errors == 0, np.where(values == 0, 1.0, 0.0), found)
