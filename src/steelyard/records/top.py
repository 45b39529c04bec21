"""The k highest and k lowest rows of every column of a matrix that is seen block by block."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Extremes:
    """Rows with the highest or the lowest values of each column.

    Attributes:
        rows: ``int64[" k query"]`` Row positions, best first; ties go to the earlier row.
        values: ``float[" k query"]`` Their values.
    """

    rows: np.ndarray
    values: np.ndarray


def extremes(blocks: Iterable[tuple[int, np.ndarray]], k: int, *, highest: bool) -> Extremes:
    """The k extreme rows per column, holding one block and k rows at a time.

    Cost: O(rows · columns) comparisons plus a partial sort per block; memory O((block + k) · columns).

    Args:
        blocks: Pairs of the first row's position and ``float[" row query"]`` values, in row order.
        k: How many rows to keep per column; fewer come back if there are fewer rows.
        highest: Whether to keep the highest (True) or the lowest values.
    """
    rows = values = None
    for start, block in blocks:
        block = np.asarray(block)
        index = np.broadcast_to(np.arange(start, start + len(block))[:, None], block.shape)
        if values is not None and rows is not None:
            block, index = np.concatenate([values, block]), np.concatenate([rows, index])
        if len(block) > 4 * k:
            block, index = _thin(block, index, k, highest=highest)
        rows, values = _keep(block, index, k, highest=highest)
    if rows is None or values is None:
        return Extremes(np.zeros((0, 0), dtype=np.int64), np.zeros((0, 0)))
    return Extremes(rows, values)


def merge(first: Extremes, second: Extremes, k: int, *, highest: bool) -> Extremes:
    """The k extreme rows per column among those of two disjoint sets of rows."""
    rows = np.concatenate([first.rows, second.rows])
    return Extremes(*_keep(np.concatenate([first.values, second.values]), rows, k, highest=highest))


def top_frame(
    train_ids: np.ndarray, query_ids: np.ndarray, *, proponents: Extremes, opponents: Extremes
) -> "pl.DataFrame":
    """Proponents and opponents as a table: query by query, proponents first, strongest first.

    Returns:
        Columns ``query_id``, ``side``, ``rank`` (1 is strongest), ``train_id``, ``score``.
    """
    import polars as pl

    frames: list[pl.DataFrame] = []
    for side, found in (("proponent", proponents), ("opponent", opponents)):
        k = len(found.rows)
        frames.append(
            pl.DataFrame(
                {
                    "query_id": np.repeat(query_ids, k),
                    "side": [side] * (k * len(query_ids)),
                    "rank": np.tile(np.arange(1, k + 1), len(query_ids)),
                    "train_id": train_ids[found.rows.T.ravel()],
                    "score": found.values.T.ravel(),
                }
            )
        )
    order = pl.DataFrame({"query_id": query_ids, "_order": np.arange(len(query_ids))})
    return (
        pl.concat(frames)
        .join(order, on="query_id", maintain_order="left")
        .sort("_order", "side", "rank", descending=[False, True, False])
        .drop("_order")
    )


def _thin(block: np.ndarray, index: np.ndarray, k: int, *, highest: bool) -> tuple[np.ndarray, np.ndarray]:
    # A partial sort leaves ties in any order, so every row that ties with the k-th is kept for the exact sort.
    kth = np.partition(-block if highest else block, k - 1, axis=0)[k - 1]
    wanted = (-block if highest else block) <= kth
    rows = np.flatnonzero(wanted.any(axis=1))
    return block[rows], index[rows]


def _keep(block: np.ndarray, index: np.ndarray, k: int, *, highest: bool) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((index, -block if highest else block), axis=0)[:k]
    return np.take_along_axis(index, order, axis=0), np.take_along_axis(block, order, axis=0)
