"""Which scores drown in the noise that they were made with."""

import numpy as np
from jaxtyping import Bool

from steelyard.maths.multiple import benjamini_hochberg, student_p
from steelyard.records import Scores

LEVEL = 0.05
"""Share of false ones that is tolerated among the pairs that are said to stand out."""


def drowned(scores: Scores) -> Bool[np.ndarray, "train query"] | None:
    """Pairs whose score does not differ from 0 by more than chance explains, all pairs taken together.

    Returns:
        True where the p-value, adjusted by Benjamini and Hochberg for the number of pairs, is not below 5 %, or the
        standard error is unknown. None where scores carry no standard errors or are about examples alone.
    """
    if scores.uncertainty is None or scores.axis == "example":
        return None
    errors = np.asarray(scores.uncertainty.pairs, dtype=np.float64)
    raw = student_p(np.asarray(scores.values, dtype=np.float64), errors, scores.uncertainty.freedom)
    adjusted = benjamini_hochberg(raw.ravel()).reshape(raw.shape)
    return ~(adjusted < LEVEL)


def in_noise(scores: Scores) -> str:
    """How many pairs stand out of the noise, in one sentence; empty where no standard errors are known."""
    found = drowned(scores)
    if found is None:
        return ""
    stand = int((~found).sum())
    return (
        f"{stand:,} of {found.size:,} pairs stand out of the noise of training (at most {LEVEL:.0%} of them by "
        "chance); scores in grey do not."
    )
