"""What being in a random subset does: differences of means over fits that saw an example and fits that did not."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Effects:
    """Differences of means, with what they rest on.

    Attributes:
        values: Mean with the example minus mean without it; NaN where one side has no fit.
        errors: Standard error of the difference, variances of both sides apart; NaN where a side has fewer than two.
        seen: How many valid fits saw each example.
        fits: How many valid fits there are.
    """

    values: Float[np.ndarray, "train query"]
    errors: Float[np.ndarray, "train query"]
    seen: Int[np.ndarray, " train"]
    fits: int


def subset_effects(masks: Bool[np.ndarray, "fit train"], outcomes: Float[np.ndarray, "fit query"]) -> Effects:
    """Effect of every example on every query.

    Cost: two products of ``train x fit`` with ``fit x query``.

    Args:
        masks: Who was in.
        outcomes: Of every fit; a row with NaN is a fit that failed and is left out.
    """
    valid = np.isfinite(outcomes).all(axis=1)
    inside, values = masks[valid].astype(np.float64), outcomes[valid]
    values = values - values.mean(axis=0)  # so that squares lose no digits to a common level
    count, seen = len(values), inside.sum(axis=0)[:, None]
    sums, squares = inside.T @ values, inside.T @ values**2
    with np.errstate(divide="ignore", invalid="ignore"):
        within, without = sums / seen, (values.sum(axis=0) - sums) / (count - seen)
        spread_in = np.maximum(squares / seen - within**2, 0.0) / (seen - 1)
        rest = (values**2).sum(axis=0) - squares
        spread_out = np.maximum(rest / (count - seen) - without**2, 0.0) / (count - seen - 1)
        errors = np.sqrt(spread_in + spread_out)
    errors[(seen[:, 0] < 2) | (count - seen[:, 0] < 2)] = np.nan
    return Effects(within - without, errors, seen[:, 0].astype(np.int64), count)


def own_effects(masks: Bool[np.ndarray, "fit train"], outcomes: Float[np.ndarray, "fit train"]) -> Effects:
    """Effect of every example on itself: the diagonal of :func:`subset_effects`, without the rest of the matrix."""
    valid = np.isfinite(outcomes).all(axis=1)
    inside, values = masks[valid], outcomes[valid]
    values = values - values.mean(axis=0)
    seen, count = inside.sum(axis=0), len(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = [np.where(side, values, 0.0).sum(axis=0) / side.sum(axis=0) for side in (inside, ~inside)]
        spreads = [
            np.where(side, (values - mean) ** 2, 0.0).sum(axis=0) / side.sum(axis=0) / (side.sum(axis=0) - 1)
            for side, mean in zip((inside, ~inside), means, strict=True)
        ]
        errors = np.sqrt(spreads[0] + spreads[1])
    errors[(seen < 2) | (count - seen < 2)] = np.nan
    return Effects((means[0] - means[1])[:, None], errors[:, None], seen.astype(np.int64), count)
