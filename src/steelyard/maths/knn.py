"""Nearest neighbours by blocked matrix products, and exact k-nearest-neighbour Shapley values.

One internal format: every (query, training example) pair becomes one 64-bit integer whose high bits are the
rounded squared distance and whose low bits are the position and, for Shapley values, whether the labels
agree. Sorting these integers sorts by distance, breaks ties by position, and brings the agreement along for
nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from steelyard.errors import DataError, SettingError, ShapeError

_BLOCK_BYTES = 48 * 2**20
_BYTES_PER_PAIR = 40  # distance key, agreement, tail sums, value and its transposed copy
_MIN_DROPPED_BITS = 22  # 30 of the 52 bits of a float64's fraction stay: distances tie when closer than 1e-9


@dataclass(frozen=True)
class Neighbours:
    """The nearest training examples of every query, nearest first.

    Attributes:
        rows: Positions among the training examples; equally near ones in order of position.
        distances: Euclidean distances.
    """

    rows: Int[np.ndarray, "query k"]
    distances: Float[np.ndarray, "query k"]


def nearest(
    train: Float[np.ndarray, "train feature"], query: Float[np.ndarray, "query feature"], k: int
) -> Neighbours:
    """The k nearest training examples of every query, by brute force.

    Cost: one matrix product and one partial sort; memory for one block of queries (about 48 MiB), never
    train x query. Deterministic: two distances that agree to nine digits are a tie, which position decides.

    Args:
        train: Vectors to search.
        query: Vectors to search for.
        k: How many neighbours; fewer come back if there are fewer training examples.

    Returns:
        Positions and Euclidean distances, nearest first.

    Raises:
        SettingError: If ``k`` is below 1.
        ShapeError: If the widths disagree.
        DataError: If a vector holds NaN or infinity, or there is no training vector.

    Example:
        >>> nearest(np.array([[0.0], [2.0], [5.0]]), np.array([[1.9]]), k=2).rows
        array([[1, 0]])
    """
    if k < 1:
        raise SettingError(f"k is {k}: it counts neighbours.", fix="give a k of at least 1.")
    k = min(k, len(train))
    pairs = _Pairs.of(train, query)
    rows = np.empty((len(query), k), dtype=np.int64)
    for part in _blocks(len(query), len(train)):
        keys = pairs.keys(part)
        if k < len(train):
            keys = np.partition(keys, k - 1, axis=1)[:, :k]
        rows[part] = (np.sort(keys, axis=1) & pairs.low) >> 1
    distances = np.empty((len(query), k))
    for part in _blocks(len(query), k * train.shape[1]):
        # Differences, not the expanded square, so that small distances keep all their digits.
        gaps = np.asarray(train[rows[part]], dtype=np.float64) - query[part, None, :]
        distances[part] = np.sqrt(np.einsum("qkf,qkf->qk", gaps, gaps))
    return Neighbours(rows, distances)


def knn_shapley(
    train: Float[np.ndarray, "train feature"],
    train_labels: Shaped[np.ndarray, " train"],
    query: Float[np.ndarray, "query feature"],
    query_labels: Shaped[np.ndarray, " query"],
    *,
    neighbours: int,
    share_ties: bool = True,
) -> Iterator[tuple[slice, Float[np.ndarray, "train block"]]]:
    r"""Exact Shapley value of every training example for every query of a k-NN classifier.

    The game of one query with label y: a set S of training examples is worth

    .. math:: v(S) = \frac1K \sum_{k=1}^{\min(K,|S|)} 1[y_{\alpha_k(S)} = y],

    the probability that the K-nearest-neighbour vote gives to the right label, where missing neighbours vote
    for nothing. With examples ranked 1..N by distance and m_i = 1 where labels agree, the source's recursion
    is summed in closed form:

    .. math:: s_i = \frac{m_i}{\max(K, i)} - \sum_{j>\max(i,K)} \frac{m_j}{j(j-1)},

    so that one sort and one reverse cumulative sum give all values of a query. For every query the values add
    up to v(all examples).

    Cost: one matrix product and one full sort per block of queries, about 0.1 µs per pair on one core.
    Memory: one block (about 48 MiB), never train x train and never more of train x query than the block.

    Args:
        train: Vectors of the training examples.
        train_labels: Their labels, of any type that compares.
        query: Vectors of the queries.
        query_labels: Their labels, of the same type.
        neighbours: K.
        share_ties: Whether equally distant examples share: the value is the mean over all orders of the tied
            examples, so that exact copies get equal values and row order does not matter. Otherwise the
            earlier row counts as nearer. Without ties both are the same.

    Returns:
        Consecutive blocks of queries and their values in accuracy (probability of the right label); positive:
        training on the example helps the query. The mean over queries is the value of the mean accuracy.

    Raises:
        SettingError: If ``neighbours`` is below 1.
        ShapeError: If vectors and labels disagree.
        DataError: If a vector holds NaN or infinity, or there is no training vector.

    Example:
        >>> x, y = np.array([[0.0], [1.0], [2.0]]), np.array([1, 0, 1])
        >>> next(knn_shapley(x, y, x[:1], y[:1], neighbours=1))[1].ravel().round(3)
        array([ 0.833, -0.167,  0.333])

    Source: Jia et al. (2019), "Efficient Task-Specific Data Valuation for Nearest Neighbor Algorithms",
    theorem 1. Deviations: closed form of the recursion (equal), fewer examples than K allowed (the last rank
    gets m_N min(K, N) / (N K)), tied distances shared.
    """
    if neighbours < 1:
        raise SettingError(f"neighbours is {neighbours}.", fix="give the number of neighbours, at least 1.")
    if len(train) != len(train_labels) or len(query) != len(query_labels):
        raise ShapeError(
            f"{len(train)} training vectors with {len(train_labels)} labels, {len(query)} query vectors with "
            f"{len(query_labels)} labels.",
            fix="give one label per vector.",
        )
    pairs = _Pairs.of(train, query)
    ranks = _Ranks.of(len(train), neighbours)
    return _shapley_blocks(pairs, ranks, train_labels, query_labels, share_ties=share_ties)


def knn_shapley_by(
    distances: Callable[[slice], Float[np.ndarray, "part train"]],
    train_labels: Shaped[np.ndarray, " train"],
    query_labels: Shaped[np.ndarray, " query"],
    *,
    neighbours: int,
) -> Iterator[tuple[slice, Float[np.ndarray, "train block"]]]:
    """:func:`knn_shapley` by any distance; equally distant examples share.

    Args:
        distances: From some of the queries to all training examples, 0 or more.
        train_labels: As there.
        query_labels: As there.
        neighbours: As there.

    Raises:
        SettingError: If ``neighbours`` is below 1.
    """
    if neighbours < 1:
        raise SettingError(f"neighbours is {neighbours}.", fix="give the number of neighbours, at least 1.")
    ranks = _Ranks.of(len(train_labels), neighbours)
    pairs = _Distances(distances, *_places(len(train_labels)))
    return _shapley_blocks(pairs, ranks, train_labels, query_labels, share_ties=True)


def _shapley_blocks(
    pairs: "_Pairs | _Distances",
    ranks: "_Ranks",
    train_labels: Shaped[np.ndarray, " train"],
    query_labels: Shaped[np.ndarray, " query"],
    *,
    share_ties: bool,
) -> Iterator[tuple[slice, Float[np.ndarray, "train block"]]]:
    for part in _blocks(len(query_labels), len(train_labels)):
        keys = pairs.keys(part)
        keys |= train_labels[None, :] == query_labels[part, None]
        keys.sort(axis=1)
        values = np.empty(keys.shape)
        for q, row in enumerate(keys):
            # One query at a time: a row and its temporaries stay in the processor's cache.
            values[q, (row & pairs.low) >> 1] = _shapley_of_sorted(
                row, ranks, pairs.low, share_ties=share_ties
            )
        yield part, values.T


@dataclass(frozen=True)
class _Ranks:
    """What the value of a rank is made of; index 0 is rank 1, and prefix sums have a leading 0."""

    own: np.ndarray  # 1 / max(K, i)
    later: np.ndarray  # 1 / (i (i - 1)) beyond rank K, else 0
    own_sums: np.ndarray
    later_sums: np.ndarray
    later_rank_sums: np.ndarray

    @classmethod
    def of(cls, count: int, neighbours: int) -> "_Ranks":
        rank = np.arange(1, count + 1, dtype=np.float64)
        own = 1.0 / np.maximum(rank, neighbours)
        later = np.where(rank > neighbours, 1.0 / (rank * np.maximum(rank - 1.0, 1.0)), 0.0)

        def sums(terms: np.ndarray) -> np.ndarray:
            return np.concatenate([[0.0], np.cumsum(terms)])

        return cls(own, later, sums(own), sums(later), sums(later * rank))


def _shapley_of_sorted(row: np.ndarray, ranks: _Ranks, low: int, *, share_ties: bool) -> np.ndarray:
    agrees = (row & 1).astype(np.float64)
    distance = row & ~low if share_ties else row
    starts = np.flatnonzero(distance[1:] != distance[:-1]) + 1
    if len(starts) == len(row) - 1:
        return agrees * ranks.own - _sums_after(agrees * ranks.later)
    return _shapley_with_ties(agrees, np.concatenate([[0], starts]), ranks)


def _shapley_with_ties(agrees: np.ndarray, starts: np.ndarray, ranks: _Ranks) -> np.ndarray:
    # Mean over all orders within each group of tied ranks. A member is at each rank equally often, and at
    # every other rank stands one of the others, which agrees in (agreeing - own) / (size - 1) of the cases.
    ends = np.append(starts[1:], len(agrees))
    size = ends - starts
    agreeing = np.add.reduceat(agrees, starts)
    spread = np.repeat(agreeing / size, size)
    after = _sums_after(spread * ranks.later)
    own = (ranks.own_sums[ends] - ranks.own_sums[starts]) / size
    # Sum over the ranks j of the group of (number of ranks of the group before j) / (j (j - 1)).
    behind = ranks.later_rank_sums[ends] - ranks.later_rank_sums[starts]
    behind -= (starts + 1) * (ranks.later_sums[ends] - ranks.later_sums[starts])
    behind /= size * np.maximum(size - 1, 1)
    return agrees * np.repeat(own + behind, size) - np.repeat(agreeing * behind + after[ends - 1], size)


def _sums_after(terms: np.ndarray) -> np.ndarray:
    after = np.zeros_like(terms)
    np.cumsum(terms[:0:-1], out=after[-2::-1])
    return after


@dataclass(frozen=True)
class _Pairs:
    """Both sides, widened so that one matrix product gives squared distances plus a constant per query."""

    train: np.ndarray
    query: np.ndarray
    position: np.ndarray
    low: int

    @classmethod
    def of(cls, train: np.ndarray, query: np.ndarray) -> "_Pairs":
        if train.ndim != 2 or query.ndim != 2 or train.shape[1] != query.shape[1]:
            raise ShapeError(
                f"training vectors have shape {train.shape}, query vectors {query.shape}.",
                fix="give two tables with the same number of features.",
            )
        if len(train) == 0:
            raise DataError("there are no training vectors.", fix="give at least one training example.")
        for role, table in (("training", train), ("query", query)):
            bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
            if len(bad):
                raise DataError(
                    f"{role} vector {bad[0]} holds NaN or infinity ({len(bad)} such vectors).",
                    fix="impute or remove these examples first.",
                )
        # Centred, the expanded square loses no digits to a common offset of the features.
        centre = train.mean(axis=0, dtype=np.float64)
        x, q = train - centre, query - centre
        norm = np.einsum("nf,nf->n", q, q)
        # The constant bounds the rounding step from below, so that exact copies of one vector always tie.
        wide_query = np.column_stack([-2.0 * q, np.ones(len(q)), norm * (1.0 + 2.0**-8)])
        wide_train = np.column_stack([x, np.einsum("nf,nf->n", x, x), np.ones(len(x))])
        return cls(wide_train, wide_query, *_places(len(x)))

    def keys(self, part: slice) -> np.ndarray:
        """``int64["query train"]`` Rounded squared distance in the high bits, then position, then a free bit."""
        return _keyed(self.query[part] @ self.train.T, self.position, self.low)


@dataclass(frozen=True)
class _Distances:
    """Distances that are given."""

    distances: Callable[[slice], np.ndarray]
    position: np.ndarray
    low: int

    def keys(self, part: slice) -> np.ndarray:
        """As those of :class:`_Pairs`."""
        return _keyed(np.array(self.distances(part), dtype=np.float64, order="C"), self.position, self.low)


def _places(count: int) -> tuple[np.ndarray, int]:
    """Positions as keys have them, and the mask of the bits below the distance."""
    bits = max(_MIN_DROPPED_BITS, count.bit_length() + 1)
    return np.arange(count, dtype=np.int64) << 1, (1 << bits) - 1


def _keyed(distances: np.ndarray, position: np.ndarray, low: int) -> np.ndarray:
    # The bits of non-negative floats sort like the floats.
    keys = distances.view(np.int64)
    keys += (low >> 1) + 1
    keys &= np.int64(2**63 - 1) & ~np.int64(low)
    keys |= position
    return keys


def _blocks(queries: int, width: int) -> Iterator[slice]:
    size = max(1, _BLOCK_BYTES // (_BYTES_PER_PAIR * max(1, width)))
    for start in range(0, queries, size):
        yield slice(start, min(start + size, queries))
