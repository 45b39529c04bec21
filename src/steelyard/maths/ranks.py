"""Rank statistics, vectorised over columns: midranks, Spearman's correlation, area under the ROC curve."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Order:
    """Every column of a matrix sorted once, with its groups of equal values.

    Attributes:
        rows: ``int64["item column"]`` Row positions in ascending order of value.
        first: ``int64["item column"]`` For each sorted place, the first place of its group of equal values.
        last: ``int64["item column"]`` Likewise the last place.
    """

    rows: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @property
    def constant(self) -> np.ndarray:
        """``bool[" column"]`` Columns with a single distinct value."""
        return self.last[0] == len(self.last) - 1


def sort_columns(values: Float[np.ndarray, "item column"]) -> Order:
    """Sort every column once; ranks for any multiplicity of the rows then cost one cumulative sum.

    Cost: one sort per column.
    """
    rows = np.argsort(values, axis=0, kind="stable")
    ordered = np.take_along_axis(values, rows, axis=0)
    place = np.broadcast_to(np.arange(len(values))[:, None], values.shape)
    starts = np.ones(values.shape, dtype=bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    ends = np.ones(values.shape, dtype=bool)
    ends[:-1] = starts[1:]
    first = np.maximum.accumulate(np.where(starts, place, 0), axis=0)
    last = np.minimum.accumulate(np.where(ends, place, len(values) - 1)[::-1], axis=0)[::-1]
    return Order(rows, first, last)


def midranks(order: Order) -> Float[np.ndarray, "item column"]:
    """Ranks from 1, equal values sharing their mean rank."""
    ranks = np.empty(order.rows.shape)
    np.put_along_axis(ranks, order.rows, (order.first + order.last + 2) / 2.0, axis=0)
    return ranks


def resampled_midranks(
    order: Order, column: int, counts: Float[np.ndarray, "draw item"]
) -> Float[np.ndarray, "draw item"]:
    """Ranks of one column in many resamples at once, when row i occurs ``counts[draw, i]`` times in a draw.

    A row of multiplicity 0 gets the rank between its neighbours, which no weighted sum over the rows sees.
    """
    rows = order.rows[:, column]
    total = np.zeros((len(counts), len(rows) + 1))
    np.cumsum(counts[:, rows], axis=1, out=total[:, 1:])
    ranks = np.empty(counts.shape)
    ranks[:, rows] = (total[:, order.first[:, column]] + total[:, order.last[:, column] + 1] + 1.0) / 2.0
    return ranks


def spearman(
    x: Float[np.ndarray, "item column"], y: Float[np.ndarray, "item column"]
) -> Float[np.ndarray, " column"]:
    """Spearman's rank correlation of each column of ``x`` with the same column of ``y``.

    Pearson's correlation of the midranks, so ties are exact and not approximated.

    Returns:
        One correlation per column; NaN where a column is constant in ``x`` or ``y``, never 0.

    Source: Spearman (1904); equal to ``scipy.stats.spearmanr`` column by column.
    """
    left, right = sort_columns(x), sort_columns(y)
    return _correlation(midranks(left).T, midranks(right).T, np.ones((1, len(x))))


def spearman_bootstrap(
    x: Float[np.ndarray, "item column"],
    y: Float[np.ndarray, "item column"],
    *,
    draws: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, " draw"]:
    """Bootstrap of the mean Spearman correlation over columns, resampling items and columns together.

    Every draw resamples the items (rows: subsets) with replacement and, independently, the columns (queries),
    then takes the mean over the drawn columns that are not constant. Resampling both margins of a crossed
    table never understates the variance of its mean (Owen 2007, section 3): each margin contributes its own
    part, and their interaction is counted more than once.

    Cost: one sort per column, then O(items · columns) per draw, vectorised over the draws.

    Returns:
        One mean per draw; a draw in which every column is constant is left out, so that there may be fewer.

    Source: Owen (2007), "The pigeonhole bootstrap"; ranks are recomputed in every draw, with multiplicity.
    """
    left, right = sort_columns(x), sort_columns(y)
    items, columns = x.shape
    rows = generator.multinomial(items, np.full(items, 1.0 / items), size=draws).astype(np.float64)
    picks = generator.multinomial(columns, np.full(columns, 1.0 / columns), size=draws).astype(np.float64)
    total, weight = np.zeros(draws), np.zeros(draws)
    for j in range(columns):
        values = _correlation(resampled_midranks(left, j, rows), resampled_midranks(right, j, rows), rows)
        known = np.isfinite(values)
        total[known] += picks[known, j] * values[known]
        weight[known] += picks[known, j]
    return total[weight > 0] / weight[weight > 0]


def fisher_interval(
    estimate: float, draws: Float[np.ndarray, " draw"], *, level: float = 0.95
) -> tuple[float, float]:
    """Interval of a correlation from its bootstrap draws, normal on Fisher's z scale around the estimate.

    Percentiles of the draws would not do: resampling repeats items, repeated items tie, and ties pull rank
    correlations towards 0, so that the percentile interval of a high correlation can lie wholly below it.
    Only the spread of the draws is used, on the scale where it hardly depends on the correlation. That scale has
    no end: draws of few items that happen to be 1 count as .9999, or they alone would set the spread.

    Source: Fisher (1921); normal bootstrap interval: Davison & Hinkley (1997), section 5.2.
    """
    from scipy.special import ndtri

    edge = 1 - 1e-4
    if abs(estimate) > edge:
        worst = float(np.quantile(np.abs(draws), 0.5 - level / 2)) * float(np.sign(estimate))
        return (min(worst, estimate), 1.0) if estimate > 0 else (-1.0, max(worst, estimate))
    spread = float(np.arctanh(np.clip(draws, -edge, edge)).std(ddof=1))
    centre = float(np.arctanh(np.clip(estimate, -edge, edge)))
    half = float(ndtri(0.5 + level / 2)) * spread
    if half == 0:
        return estimate, estimate
    return min(estimate, float(np.tanh(centre - half))), max(estimate, float(np.tanh(centre + half)))


def _correlation(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pearson's correlation along the last axis, each row weighted by the row of ``counts`` beside it."""
    total = counts.sum(axis=1, keepdims=True)
    x = x - (counts * x).sum(axis=1, keepdims=True) / total
    y = y - (counts * y).sum(axis=1, keepdims=True) / total
    spread = np.sqrt((counts * x * x).sum(axis=1) * (counts * y * y).sum(axis=1))
    # Midranks are multiples of 1/2: the spread of a constant column is 0 up to rounding of the mean.
    known = spread > 1e-9 * total[:, 0]
    return np.where(known, (counts * x * y).sum(axis=1) / np.where(known, spread, 1.0), np.nan)


@dataclass(frozen=True)
class Area:
    """Area under the ROC curve with its interval.

    Attributes:
        value: Chance that a marked item has the higher value than an unmarked one, ties counting one half.
        low: Lower end of the interval.
        high: Upper end of the interval.
        p_value: Two-sided, against 1/2.
    """

    value: float
    low: float
    high: float
    p_value: float


def auc(
    values: Float[np.ndarray, " item"], marked: Bool[np.ndarray, " item"], *, level: float = 0.95
) -> Area:
    """How well ``values`` separate the marked items from the others.

    The Mann-Whitney statistic divided by the number of pairs. The interval is DeLong's. Where that has no
    width (perfect separation, either way) the score-type interval of Newcombe is given instead, because a
    finite sample never proves an area of exactly 1.

    Cost: three sorts.

    Args:
        values: Higher means more likely to be marked.
        marked: The true state; both states must occur.
        level: Confidence level of the interval.

    Source: DeLong, DeLong & Clarke-Pearson (1988), eqs. 2-5; Newcombe (2006), method 5; p-value: Mann &
    Whitney (1947), exact for small samples without ties, else normal with tie correction.
    """
    from scipy.special import ndtri
    from scipy.stats import mannwhitneyu

    inside, outside = values[marked], values[~marked]
    m, n = len(inside), len(outside)
    joint = midranks(sort_columns(values[:, None]))[:, 0]
    # Placements: the share of the other group that lies below each item.
    placed_in = (joint[marked] - midranks(sort_columns(inside[:, None]))[:, 0]) / n
    placed_out = 1.0 - (joint[~marked] - midranks(sort_columns(outside[:, None]))[:, 0]) / m
    value = float(placed_in.mean())
    variance = sum(float(p.var(ddof=1)) / len(p) if len(p) > 1 else 0.25 for p in (placed_in, placed_out))
    quantile = float(ndtri(0.5 + level / 2))
    if variance > 0.0:
        half = quantile * variance**0.5
        low, high = max(0.0, value - half), min(1.0, value + half)
    else:
        low, high = _newcombe(value, m, n, quantile)
    p_value = 1.0 if np.ptp(values) == 0 else float(mannwhitneyu(inside, outside).pvalue)
    return Area(value, low, high, p_value)


def _newcombe(value: float, m: int, n: int, quantile: float) -> tuple[float, float]:
    from scipy.optimize import root_scalar

    pairs = (m + n) / 2 - 1

    def gap(theta: float) -> float:
        spread = 1 + pairs * (1 - theta) / (2 - theta) + pairs * theta / (1 + theta)
        return (value - theta) ** 2 - quantile**2 * theta * (1 - theta) * spread / (m * n)

    def root(low: float, high: float) -> float:
        return float(root_scalar(gap, bracket=(low, high), method="brentq").root)

    inner = 1e-12
    return (
        0.0 if value <= 0 else root(inner, value - inner),
        1.0 if value >= 1 else root(value + inner, 1 - inner),
    )


def detection_curve(
    values: Float[np.ndarray, " item"],
    marked: Bool[np.ndarray, " item"],
    inspected: Int[np.ndarray, " point"],
) -> Float[np.ndarray, " point"]:
    """Share of the marked items found when the highest ``inspected`` values are looked at.

    Equal values are looked at in random order: within a group of ties the curve is the expected line.
    """
    order = sort_columns(-values[:, None])
    found = np.concatenate([[0.0], np.cumsum(marked[order.rows[:, 0]])])
    corners = np.unique(np.concatenate([[0], order.last[:, 0] + 1]))
    return np.interp(inspected, corners, found[corners]) / max(1, int(marked.sum()))
