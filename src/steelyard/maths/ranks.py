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


def midranks(
    order: Order, counts: Float[np.ndarray, " item"] | None = None
) -> Float[np.ndarray, "item column"]:
    """Ranks from 1, equal values sharing their mean rank, when row i occurs ``counts[i]`` times.

    Args:
        order: From :func:`sort_columns`.
        counts: Multiplicity of every row; once each if None. A row of multiplicity 0 gets the rank between
            its neighbours, which no weighted sum over the rows sees.
    """
    shape = order.rows.shape
    weights = np.ones(shape) if counts is None else counts[order.rows]
    total = np.concatenate([np.zeros((1, shape[1])), np.cumsum(weights, axis=0)])
    below = np.take_along_axis(total, order.first, axis=0)
    upto = np.take_along_axis(total, order.last + 1, axis=0)
    ranks = np.empty(shape)
    np.put_along_axis(ranks, order.rows, (below + upto + 1.0) / 2.0, axis=0)
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
    return _correlation(midranks(left), midranks(right), np.ones(len(x)))


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

    Cost: one sort per column, then O(items · columns) per draw.

    Returns:
        One mean per draw; a draw in which every column is constant is left out, so that there may be fewer.

    Source: Owen (2007), "The pigeonhole bootstrap"; ranks are recomputed in every draw, with multiplicity.
    """
    left, right = sort_columns(x), sort_columns(y)
    items, columns = x.shape
    found: list[float] = []
    for _ in range(draws):
        rows = generator.multinomial(items, np.full(items, 1.0 / items)).astype(np.float64)
        picks = generator.multinomial(columns, np.full(columns, 1.0 / columns)).astype(np.float64)
        values = _correlation(midranks(left, rows), midranks(right, rows), rows)
        picks[np.isnan(values)] = 0.0
        if picks.sum():
            found.append(float(np.nansum(values * picks) / picks.sum()))
    return np.array(found, dtype=np.float64)


def _correlation(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    total = counts.sum()
    x = x - (counts @ x) / total
    y = y - (counts @ y) / total
    spread = np.sqrt((counts @ (x * x)) * (counts @ (y * y)))
    # Midranks are multiples of 1/2: the spread of a constant column is 0 up to rounding of the mean.
    known = spread > 1e-9 * max(1.0, total)
    return np.where(known, (counts @ (x * y)) / np.where(known, spread, 1.0), np.nan)


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
