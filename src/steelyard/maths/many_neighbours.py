"""The nearest neighbours of queries among many subsets of one data set, from one sorted list per query.

Leaving an example out does not move the others, so the neighbours in a subset are the first present ones of the
full list, of which only the beginning is needed where subsets are large. Only ties can differ from a search of its own:
among equally near examples, whom a search takes depends on how it goes about it. Where that matters is told.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

_TIE = 1e-9
_BLOCK = 4 * 2**20  # pairs of a subset and a place in a list that are looked at together
_SURE = 6.0  # standard deviations beyond the expected place: one list in 10^9 ends too early
_WORD = 64  # bits
_MANTISSA, _BIAS = 52, 1023  # of floating-point numbers of 64 bits
_ALIKE = 1.5  # subsets whose lists are read to depths further apart are not looked at together


@dataclass(frozen=True, eq=False)
class Nearest:
    """The k nearest present examples of every query in every subset.

    Attributes:
        rows: Positions of the examples, nearest first; meaningless where a fit has not ``enough``.
        distances: Their distances.
        enough: Whether the subset has k examples, and every list was long enough to find them.
        tied: Whether there is a further one as near as the k-th and of another kind.
    """

    rows: Int[np.ndarray, "fit query k"]
    distances: Float[np.ndarray, "fit query k"]
    enough: Bool[np.ndarray, " fit"]
    tied: Bool[np.ndarray, "fit query"]


def nearest_in_subsets(
    order: Int[np.ndarray, "query place"],
    distances: Float[np.ndarray, "query place"],
    present: Bool[np.ndarray, "fit example"],
    k: int,
    *,
    kinds: Int[np.ndarray, " example"] | None = None,
) -> Nearest:
    """Walk down every query's list until k examples of the subset are found.

    Lists may be the beginnings of the whole ones: then a fit that would have to read on has not ``enough``.

    Cost: about (k + 3 √k) / share bytes looked at per fit and query, for subsets of that share of the examples; where
        neighbours tie at the k-th place, the whole list.

    Args:
        order: Examples by distance from each query, nearest first.
        distances: In the same order.
        present: Which examples each subset has.
        k: How many neighbours.
        kinds: Examples of one kind are interchangeable: a tie among them does not matter. None: all differ.

    Example:
        >>> order, distances = np.array([[2, 0, 1]]), np.array([[0.1, 0.2, 0.4]])
        >>> nearest_in_subsets(order, distances, np.array([[True, True, False]]), k=1).rows
        array([[[0]]])
    """
    fits, queries = len(present), len(order)
    counts = np.count_nonzero(present, axis=1)
    enough, whole = counts >= k, order.shape[1] == present.shape[1]
    rows, near = np.zeros((fits, queries, k), dtype=np.int64), np.zeros((fits, queries, k))
    ties = np.zeros((fits, queries), dtype=bool)
    lists = _Lists.ending(order, distances, kinds, present.shape[1])
    # The example that ends every list belongs to every subset.
    present = np.concatenate([present, np.ones((fits, 1), dtype=bool)], axis=1)
    able = np.flatnonzero(enough)
    able = able[np.argsort(counts[able], kind="stable")]
    start = lists.order.shape[1] * np.arange(queries)[None, :, None]
    for part, depth in _parts(able, _depths(counts[able] / max(1, present.shape[1] - 1), k), queries):
        depth = min(depth, lists.order.shape[1])
        places = _places(lists.order, present[part], k + 1, depth)
        flat = places + start
        rows[part] = lists.order.take(flat[:, :, :k])
        away = lists.distances.take(flat)
        near[part] = away[:, :, :k]
        if not whole:
            # Whoever is not in the list is at least as far as its last.
            last = _tied(distances[None, :, -1], away[:, :, k - 1]) | (places[:, :, k] == order.shape[1])
            enough[part] = ~last.any(axis=1)
        fit, query = np.nonzero(_tied(away[:, :, k], away[:, :, k - 1]) & enough[part, None])
        mixed = _mixed(lists, present, part[fit], query, places[fit, query, k - 1])
        ties[part[fit[mixed]], query[mixed]] = True
    return Nearest(rows, near, enough, ties)


def places_needed(present: Bool[np.ndarray, "fit example"], k: int) -> Int[np.ndarray, " fit"]:
    """How long every query's list must be to hold k present ones and one more, almost surely; at most all."""
    total = present.shape[1]
    share = np.maximum(np.count_nonzero(present, axis=1), 1) / max(1, total)
    return np.minimum(_depths(share, k, _SURE) + 1, total)


@dataclass(frozen=True, eq=False)
class _Lists:
    """Every query's list, ended by an example that is infinitely far, so that there is always one beyond the k-th."""

    order: Int[np.ndarray, "query place"]
    distances: Float[np.ndarray, "query place"]
    kinds: Int[np.ndarray, " example"]

    @staticmethod
    def ending(order: np.ndarray, distances: np.ndarray, kinds: np.ndarray | None, examples: int) -> "_Lists":
        queries, total = len(order), examples
        own = np.arange(total) if kinds is None else kinds
        return _Lists(
            np.concatenate([order, np.full((queries, 1), total)], axis=1),
            np.concatenate([distances, np.full((queries, 1), np.inf)], axis=1),
            np.concatenate([own, [-1]]),
        )


def _depths(share: np.ndarray, k: int, deviations: float = 3.0) -> Int[np.ndarray, " fit"]:
    """How far to read for k + 1 present ones: some standard deviations beyond where they are expected."""
    return np.ceil((k + 1 + deviations * np.sqrt((k + 1) * (1.0 - share))) / share).astype(np.int64)


def _parts(able: np.ndarray, depths: np.ndarray, queries: int) -> Iterator[tuple[np.ndarray, int]]:
    """Subsets, smallest first, in parts that are read to about the same depth."""
    low = 0
    while low < len(able):
        depth = int(depths[low])
        alike = int(np.searchsorted(-depths, -depth / _ALIKE, side="right"))
        high = max(low + 1, min(alike, low + _BLOCK // (queries * depth + 1)))
        yield able[low:high], depth
        low = high


def _places(
    order: np.ndarray, present: np.ndarray, count: int, depth: int
) -> Int[np.ndarray, "fit query count"]:
    """Where in its list every query meets the first present ones; its end for those that it does not meet."""
    fits, queries = len(present), len(order)
    there = np.take(present, order[:, :depth].ravel(), axis=1).reshape(fits * queries, depth)
    found, enough = _first(there, count)
    left = np.flatnonzero(~enough)
    while len(left) and depth < order.shape[1]:  # a list that met too few is read again, twice as far
        depth = min(2 * depth, order.shape[1])
        step = max(1, _BLOCK // depth)
        for low in range(0, len(left), step):
            pairs = left[low : low + step]
            fit, query = np.divmod(pairs, queries)
            found[pairs], enough[pairs] = _first(present[fit[:, None], order[query, :depth]], count)
        left = left[~enough[left]]
    for pair in left:
        fit, query = divmod(int(pair), queries)
        met = np.flatnonzero(present[fit, order[query]])
        found[pair] = np.pad(met, (0, count - len(met)), constant_values=order.shape[1] - 1)
    return found.reshape(fits, queries, count)


def _first(there: Bool[np.ndarray, "row place"], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first places of every row that are true, and whether there are so many.

    Places are packed into words, of which the lowest bit is the first place: a few operations on one number per row,
    where a search through bytes looks at all of them.
    """
    rows, width = there.shape
    packed = np.packbits(there, axis=1, bitorder="little")
    ends = -(-max(1, width) // _WORD)
    words = np.zeros((rows, ends * _WORD // 8), dtype=np.uint8)
    words[:, : packed.shape[1]] = packed
    words = words.view("<u8")
    at, left = np.zeros(rows, dtype=np.int64), words[:, 0].copy()
    places = np.zeros((rows, count), dtype=np.int64)
    for k in range(count):
        empty = np.flatnonzero(left == 0)
        while len(empty):
            at[empty] += 1
            empty = empty[at[empty] < ends]
            left[empty] = words[empty, at[empty]]
            empty = empty[left[empty] == 0]
        rest = left & (left - np.uint64(1))
        # What is gone is a power of two, which as a floating-point number is nothing but its exponent.
        exponents = (left ^ rest).astype(np.float64).view(np.int64) >> _MANTISSA
        np.add(exponents, _WORD * at - _BIAS, out=places[:, k])
        left = rest
    return places, at < ends


def _tied(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    slack = _TIE * np.clip(second, 1.0, 1e300)  # the end of a list is infinitely far
    return (first <= second + slack) & (first >= second - slack)


def _mixed(
    lists: _Lists, present: np.ndarray, fit: np.ndarray, query: np.ndarray, last: np.ndarray
) -> Bool[np.ndarray, " pair"]:
    """Whether those that are present and as near as the k-th, of which not all fit in, are of several kinds."""
    found = np.zeros(len(fit), dtype=bool)
    step = max(1, _BLOCK // (8 * lists.order.shape[1]))
    for low in range(0, len(fit), step):
        part = slice(low, low + step)
        order, away = lists.order[query[part]], lists.distances[query[part]]
        kinds, own = lists.kinds[order], np.arange(len(order))
        same = present[fit[part, None], order] & _tied(away, away[own, last[part], None])
        found[part] = (same & (kinds != kinds[own, last[part], None])).any(axis=1)
    return found
