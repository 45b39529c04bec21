"""Uncertainty: how far chance in the making of scores leaves them from what they estimate."""

from dataclasses import dataclass

import numpy as np

from steelyard.errors import ShapeError


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Standard errors of scores that were estimated from something drawn at random: fits, or else the queries.

    They say how other draws would have changed the scores, not how another training set would. The scores of one
    example for several queries come from the same draws, so the error of their mean cannot be found from the errors of
    each and is kept beside them.

    Attributes:
        pairs: ``float["train query"]`` Standard error of every score, in its unit; NaN where it could not be
            estimated.
        examples: ``float[" train"]`` Standard error of every example's mean over the queries.
        freedom: Degrees of freedom of these standard errors; infinite where nothing was drawn.
        over: What would have been drawn otherwise, in a few words.

    Raises:
        ShapeError: If pairs and examples disagree.
    """

    pairs: np.ndarray
    examples: np.ndarray
    freedom: float | int
    over: str = "other random fits"

    def __post_init__(self) -> None:
        if self.pairs.ndim != 2 or self.examples.shape != self.pairs.shape[:1]:
            raise ShapeError(
                f"standard errors of pairs have shape {self.pairs.shape}, those of examples {self.examples.shape}.",
                fix="give one row of pairs per example.",
            )

    def factor(self, level: float | int = 0.95) -> float:
        """Half the width of an interval in standard errors: Student's quantile."""
        from scipy.special import ndtri, stdtrit

        tail = 0.5 + level / 2
        return float(stdtrit(self.freedom, tail)) if np.isfinite(self.freedom) else float(ndtri(tail))
