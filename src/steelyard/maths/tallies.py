"""Tallies: mean and spread of samples that come in parts, with standard errors; missing samples are left out.

``tally`` is the summary of a part, ``merge`` adds two parts, ``standard_errors`` finishes. Source: Chan, Golub &
LeVeque (1979), "Updating formulae and a pairwise algorithm for computing sample variances", for the merge.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True, eq=False)
class Tally:
    """Samples of many quantities, summed up.

    Attributes:
        count: Samples of each.
        mean: Their mean; 0 where there are none.
        squares: Sum of squared deviations from the mean.
    """

    count: Float[np.ndarray, "player column"]
    mean: Float[np.ndarray, "player column"]
    squares: Float[np.ndarray, "player column"]


def tally(samples: Float[np.ndarray, "sample player column"]) -> Tally:
    """The tally of some samples; NaN is no sample."""
    known = np.isfinite(samples)
    count = known.sum(axis=0).astype(np.float64)
    mean = np.where(known, samples, 0.0).sum(axis=0) / np.maximum(count, 1)
    squares = np.square(np.where(known, samples - mean, 0.0)).sum(axis=0)
    return Tally(count, mean, squares)


def tally_of_products(
    factors: Float[np.ndarray, "sample player"], outcomes: Float[np.ndarray, "sample column"]
) -> Tally:
    """The tally of ``factors[s, p] * outcomes[s, c]`` without writing the products down.

    Samples with an outcome of NaN in any column are left out.
    """
    known = np.isfinite(outcomes).all(axis=1)
    factors, outcomes = factors[known], outcomes[known]
    size = len(outcomes)
    total = factors.T @ outcomes
    mean = total / max(size, 1)
    squares = np.maximum(np.square(factors).T @ np.square(outcomes) - total * mean, 0.0)
    return Tally(np.full(mean.shape, float(size)), mean, squares)


def merge(first: Tally, second: Tally) -> Tally:
    """The tally of both parts; associative and commutative up to rounding."""
    count = first.count + second.count
    gap = second.mean - first.mean
    share = second.count / np.maximum(count, 1)
    squares = first.squares + second.squares + np.square(gap) * first.count * share
    return Tally(count, first.mean + gap * share, squares)


def standard_errors(found: Tally) -> Float[np.ndarray, "player column"]:
    """Standard error of every mean; NaN where there are fewer than two samples."""
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.sqrt(found.squares / (found.count - 1) / found.count)
    return np.where(found.count > 1, errors, np.nan)


def difference_of_means(inside: Tally, outside: Tally) -> tuple[np.ndarray, np.ndarray]:
    """Mean inside minus mean outside, and its standard error by Welch's formula; NaN where a side has no samples."""
    difference = np.where((inside.count > 0) & (outside.count > 0), inside.mean - outside.mean, np.nan)
    return difference, np.hypot(standard_errors(inside), standard_errors(outside))


def tally_where(
    chosen: Bool[np.ndarray, "sample player"], outcomes: Float[np.ndarray, "sample column"]
) -> Tally:
    """For every player the tally of the outcomes of those samples that it is chosen in.

    Samples with an outcome of NaN in any column are left out. Outcomes are centred first, so that a large common level
    costs no digits.
    """
    known = np.isfinite(outcomes).all(axis=1)
    inside, outcomes = chosen[known].astype(np.float64), outcomes[known]
    level = outcomes.mean(axis=0) if len(outcomes) else np.zeros(outcomes.shape[1])
    centred = outcomes - level
    count = np.repeat(inside.sum(axis=0)[:, None], outcomes.shape[1], axis=1)
    total = inside.T @ centred
    mean = total / np.maximum(count, 1)
    squares = np.maximum(inside.T @ np.square(centred) - total * mean, 0.0)
    return Tally(count, mean + level, squares)
