"""The nearest neighbours of queries among many subsets of one data set, from one sorted list per query.

Leaving an example out does not move the others, so the neighbours in a subset are the first present ones of the
full list. Only ties can differ from a search of its own: among equally near examples, whom a search takes depends on
how it goes about it. Fits in which that matters are told.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

_TIE = 1e-9
_BLOCK_BYTES = 64 * 2**20
_AHEAD = 3


@dataclass(frozen=True, eq=False)
class Nearest:
    """The k nearest present examples of every query in every subset.

    Attributes:
        rows: Positions of the examples, nearest first; meaningless where ``settled`` is false.
        distances: Their distances.
        settled: Whether the subset has k examples, and no query has a further one as near as its k-th and of
            another kind.
    """

    rows: Int[np.ndarray, "fit query k"]
    distances: Float[np.ndarray, "fit query k"]
    settled: Bool[np.ndarray, " fit"]


def nearest_in_subsets(
    order: Int[np.ndarray, "query example"],
    distances: Float[np.ndarray, "query example"],
    present: Bool[np.ndarray, "fit example"],
    k: int,
    *,
    kinds: Int[np.ndarray, " example"] | None = None,
) -> Nearest:
    """Walk down every query's list until k examples of the subset are found.

    Cost: about k / share steps per fit and query, for subsets of that share of the examples.

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
    rows = np.zeros((fits, queries, k), dtype=np.int64)
    near = np.zeros((fits, queries, k))
    settled = np.count_nonzero(present, axis=1) >= k
    own = np.arange(order.shape[1]) if kinds is None else kinds
    listed = own[order]
    step = max(1, _BLOCK_BYTES // (10 * order.size))
    for low in range(0, fits, step):
        part = np.flatnonzero(settled[low : low + step]) + low
        if len(part):
            rows[part], near[part], settled[part] = _walk(order, distances, listed, present[part], k)
    return Nearest(rows, near, settled)


def _walk(
    order: np.ndarray, distances: np.ndarray, kinds: np.ndarray, present: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    total = order.shape[1]
    depth = min(total, int(_AHEAD * (k + 4) * total / max(1, present.sum(axis=1).min())))
    # One more than k, to see whether it is as near as the k-th; too short a list is walked again, twice as far.
    needed = np.minimum(k + 1, present.sum(axis=1))
    while True:
        there = present[:, order[:, :depth]]
        if depth == total or bool((there.sum(axis=2) >= needed[:, None]).all()):
            break
        depth = min(total, 2 * depth)
    count = np.cumsum(there, axis=2, dtype=np.int32)
    places = np.stack([np.argmax(count == j, axis=2) for j in range(1, k + 1)], axis=2)
    fits, queries = there.shape[:2]
    index = np.arange(queries)[None, :, None]
    rows, near = order[index, places], distances[index, places]
    last = near[:, :, -1:]
    same = there & (np.abs(distances[:, :depth] - last) <= _TIE * np.maximum(last, 1.0))
    own = kinds[np.arange(queries)[None, :], places[:, :, -1]]
    mixed = (same & (kinds[:, :depth] != own[:, :, None])).any(axis=2)
    # Only one beyond the k-th makes it a choice: either more of that distance are there than fit, or cannot be seen.
    full = count[:, :, -1] > k
    beyond = np.where(full, same.sum(axis=2) > (same & (count <= k)).sum(axis=2), False)
    unseen = same[:, :, -1] & (depth < total)
    return rows, near, ~((mixed & beyond) | unseen).any(axis=1)
