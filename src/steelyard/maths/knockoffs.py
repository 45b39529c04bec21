"""Knock-offs (Candès et al. 2018): which of many features matter, with a bound on the share of false ones.

A knock-off of a feature is a copy that stands in the same relation to all other features but was drawn without looking
at the outcome. A feature that matters wins against its knock-off more often than by chance; one that does not wins and
loses alike, so that the losers tell how many of the winners won by luck. Where features were drawn independently, as
coalitions are, a second draw from the same law is an exact knock-off.

Sources: Barber & Candès (2015), "Controlling the False Discovery Rate via Knockoffs", for the filter; Candès, Fan,
Janson & Lv (2018), "Panning for Gold: Model-X Knockoffs for High-dimensional Controlled Variable Selection".
"""

import numpy as np
from jaxtyping import Bool, Float

from steelyard.maths.regression import Kind, linear_models


def knockoff_wins(
    features: Float[np.ndarray, "row feature"],
    copies: Float[np.ndarray, "row feature"],
    outcomes: Float[np.ndarray, "row column"],
    *,
    kind: Kind,
    draw: np.random.Generator,
) -> Float[np.ndarray, "feature column"]:
    """Absolute weight of every feature minus that of its knock-off, in one regression on both, for every outcome.

    Cost: that of ``linear_models`` with twice the features.

    Args:
        features: As drawn.
        copies: Their knock-offs.
        outcomes: One column per regression.
        kind: Penalty.
        draw: Decides for every pair which of the two comes first, so that ties of the solver favour neither.
    """
    count = features.shape[1]
    first = draw.random(count) < 0.5
    both = np.concatenate([np.where(first, features, copies), np.where(first, copies, features)], axis=1)
    weights = np.abs(linear_models(both, outcomes, kind=kind).weights)
    return np.where(first[:, None], 1.0, -1.0) * (weights[:count] - weights[count:])


def knockoff_filter(
    wins: Float[np.ndarray, "feature column"], *, rate: float
) -> Bool[np.ndarray, "feature column"]:
    r"""Features selected for every outcome, of which a share of at most ``rate`` is expected to be false.

    Selected is what wins by at least the smallest t > 0 with

    .. math:: \frac{1 + \#\{j : W_j \le -t\}}{\max(1, \#\{j : W_j \ge t\})} \le rate.

    Because of the 1, either nothing or at least 1 / rate features are selected.
    """
    chosen = np.zeros(wins.shape, dtype=bool)
    for column, won in enumerate(wins.T):
        for t in np.unique(np.abs(won[won != 0])):
            if (1 + (won <= -t).sum()) / max(1, (won >= t).sum()) <= rate:
                chosen[:, column] = won >= t
                break
    return chosen
