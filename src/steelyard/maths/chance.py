"""What a statistic is by chance: its values for exchangeable random scores, with an exact p-value."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_CELLS = 40_000_000


@dataclass(frozen=True, eq=False)
class Chance:
    """Values of a statistic for random scores.

    Attributes:
        draws: ``float64[" draw"]``
    """

    draws: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over the draws."""
        return float(self.draws.mean())

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Central interval of the draws."""
        low, high = np.quantile(self.draws, (0.5 - level / 2, 0.5 + level / 2))
        return float(low), float(high)

    def p_value(self, estimate: float) -> float:
        """One-sided: how often random scores reach the estimate, which counts as one of them.

        Exact if the scores are exchangeable under the null hypothesis: at most a share a of all random scores has a
        p-value of a or less, whatever the distribution.

        Source: Phipson & Smyth (2010), "Permutation P-values should never be zero".
        """
        reached = np.count_nonzero(self.draws >= estimate - 1e-12 * abs(estimate))
        return float((1 + reached) / (len(self.draws) + 1))


def permutations(items: int, draw: np.random.Generator, *, count: int = 199) -> Int[np.ndarray, "order item"]:
    """The identity and ``count`` random permutations; fewer, at least 39, where that many would take too much memory.

    Args:
        items: How many things to permute.
        draw: Source of randomness.
        count: Random permutations asked for.
    """
    affordable = int(np.clip(_CELLS // max(1, items), 39, count))
    found = np.empty((1 + affordable, items), dtype=np.int64)
    found[0] = np.arange(items)
    for row in found[1:]:
        row[:] = draw.permutation(items)
    return found


def places(column: Float[np.ndarray, " item"], draw: np.random.Generator) -> Int[np.ndarray, " item"]:
    """Place of every item when the highest comes first, from 1; equal values in random order."""
    order = np.lexsort((draw.random(len(column)), -column))
    found = np.empty(len(column), dtype=np.int64)
    found[order] = np.arange(1, len(column) + 1)
    return found


def share_interval(count: int, total: int, *, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share, however few were counted.

    Source: Clopper & Pearson (1934).
    """
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, total - count + 1))
    high = 1.0 if count == total else float(beta.ppf(1 - tail, count + 1, total - count))
    return low, high
