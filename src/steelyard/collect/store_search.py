"""Asking a gradient store: products with query rows, streamed shard by shard, and the best rows of each query.

Scores are ``w_i phi_q^T M phi_i`` with M the inverse of the damped second moment of the stored rows (influence, as
LoGra has it), or plain products, or cosines. Memory holds one piece of a shard and the best rows, never the matrix
of scores.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float

from steelyard.collect.store import Shard, Store, restored, write_array
from steelyard.errors import NumericsError, SettingError, ShapeError
from steelyard.maths.blockwise import Blockwise, factorise, mean_eigenvalue
from steelyard.records.top import Extremes, extremes, merge

Relation = Literal["influence", "dot", "cosine"]
_PIECE_BYTES = 4 * 2**20


@dataclass(frozen=True, eq=False)
class Found:
    """The best rows of every query.

    Attributes:
        high: Proponents, best first.
        low: Opponents, strongest first.
    """

    high: Extremes
    low: Extremes


@dataclass(frozen=True, eq=False)
class LowRank:
    """Query rows as few rows times coefficients.

    Attributes:
        basis: ``[rank, feature]``
        coefficients: ``[query, rank]``
        error: Euclidean length of what was left out, as a share of the whole.
    """

    basis: Float[np.ndarray, "rank feature"]
    coefficients: Float[np.ndarray, "query rank"]
    error: float


def low_rank(queries: Float[np.ndarray, "query feature"], energy: float | int) -> LowRank:
    """The least number of directions that hold a share of the squared length of a batch of queries.

    Many queries about one matter point in few directions: a pass over the store then costs as much as that many
    queries. With fewer directions than queries nothing else changes.

    Cost: one singular value decomposition.

    Args:
        queries: Ready for products.
        energy: Share of the squared length to hold, in (0, 1]; 1 keeps all.

    Raises:
        SettingError: If the share is outside.
    """
    if not 0 < energy <= 1:
        raise SettingError(f"energy={energy}.", fix="give a share in (0, 1], such as 0.9999.")
    left, sizes, right = np.linalg.svd(queries.astype(np.float64), full_matrices=False)
    held = np.cumsum(sizes**2)
    total = float(held[-1]) if len(held) else 0.0
    rank = len(sizes) if energy == 1 or total == 0 else int(np.searchsorted(held, energy * total) + 1)
    rank = max(1, min(rank, len(sizes)))
    error = 0.0 if total == 0 else float(np.sqrt(max(0.0, 1 - held[rank - 1] / total)))
    return LowRank(right[:rank].astype(np.float32), (left[:, :rank] * sizes[:rank]).astype(np.float32), error)


def second_moments(store: Store) -> tuple[np.ndarray, ...]:
    """Weighted mean of ``phi phi^T`` per layer over the stored rows; kept beside them until rows are appended.

    Cost: one pass over the store and the squares of the layers' widths in multiplications per row.
    """
    path = store.folder / f"moments-{len(store)}.npy"
    columns, widths = store.manifest.columns, store.manifest.widths
    if path.exists():
        flat = np.load(path, allow_pickle=False).astype(np.float64)
        pieces = np.split(flat, np.cumsum([width * width for width in widths])[:-1])
        return tuple(piece.reshape(width, width) for piece, width in zip(pieces, widths, strict=True))
    total = [np.zeros((width, width)) for width in widths]
    for start, rows in pieces_of(store):
        weighted = rows * store.weights[start : start + len(rows), None].astype(np.float32)
        for matrix, part in zip(total, columns, strict=True):
            matrix += weighted[:, part].T @ rows[:, part]
    present = max(1, int((store.weights > 0).sum()))
    found = tuple(matrix / present for matrix in total)
    for old in store.folder.glob("moments-*.npy"):
        old.unlink()
    write_array(store.folder, path, np.concatenate([matrix.ravel() for matrix in found]).astype(np.float32))
    return found


def curvature(
    store: Store, grams: tuple[np.ndarray, ...], damping: float | int | Literal["auto"]
) -> Blockwise:
    """``n (F + l2 P^T P + damping I)`` of the stored rows, factorised.

    Args:
        store: For rows, weights and penalty.
        grams: ``P^T P`` per layer.
        damping: Added to every eigenvalue of the mean; ``"auto"`` is a tenth of the mean eigenvalue of each layer.

    Raises:
        SettingError: If the damping is negative or an unknown word.
        NumericsError: If a layer's matrix is not positive definite.
    """
    if damping != "auto" and (isinstance(damping, str) or damping < 0):
        raise SettingError(f"damping={damping!r}", fix='give "auto" or a number that is not negative.')
    present, total = int((store.weights > 0).sum()), []
    for matrix, gram in zip(second_moments(store), grams, strict=True):
        value = 0.1 * mean_eigenvalue(matrix) if damping == "auto" else float(damping)
        value = value or float(not matrix.any())
        total.append(present * (matrix + store.manifest.l2 * gram + value * np.eye(len(matrix))))
    return factorise(store.manifest.columns, total, store.manifest.names)


def search(
    store: Store, queries: Float[np.ndarray, "query feature"] | LowRank, k: int, *, cosine: bool = False
) -> Found:
    """The k best and the k worst rows of every query.

    Cost: one pass over the store; two multiplications per number and query (or direction).

    Args:
        store: To search.
        queries: Ready for products: signed, with the inverse curvature applied, of length one for cosines.
        k: How many rows of each side; fewer come back if there are fewer.
        cosine: Divide by the rows' lengths instead of multiplying by their weights.

    Raises:
        SettingError: If ``k`` is not positive.
        NumericsError: If a score is not finite.
    """
    if k < 1:
        raise SettingError(f"k={k}.", fix="ask for at least one example per query.")
    count = len(queries.coefficients) if isinstance(queries, LowRank) else len(queries)
    nothing = (0, count)
    high = low = Extremes(np.zeros(nothing, dtype=np.int64), np.zeros(nothing, dtype=np.float32))
    for start, scores in products(store, queries, cosine=cosine):
        best, worst = (extremes([(start, scores)], k, highest=highest) for highest in (True, False))
        high, low = merge(high, best, k, highest=True), merge(low, worst, k, highest=False)
    return Found(high, low)


def products(
    store: Store, queries: Float[np.ndarray, "query feature"] | LowRank, *, cosine: bool = False
) -> Iterator[tuple[int, Float[np.ndarray, "row query"]]]:
    """Scores shard by shard, with the position of the first row; see :func:`search`.

    Raises:
        ShapeError: If queries and store differ in width.
        NumericsError: If a score is not finite.
    """
    rows = queries.basis if isinstance(queries, LowRank) else queries
    if rows.shape[1] != store.width:
        raise ShapeError(
            f"queries have {rows.shape[1]} features, the store has {store.width}.",
            fix="take the queries' features with the settings of the store.",
        )
    wide = np.ascontiguousarray(rows, dtype=np.float32)
    unit = np.divide(1.0, store.lengths, out=np.zeros(len(store), np.float32), where=store.lengths > 0)
    scale = unit if cosine else store.weights.astype(np.float32)
    for shard in store.shards():
        # Few queries against many rows: this order is the faster one in every BLAS that was tried.
        with np.errstate(over="ignore", invalid="ignore"):  # refused below, by name
            found = np.concatenate([wide @ piece.T for piece in _restored(store, shard)], axis=1)
            found = found.T * scale[shard.start : shard.start + len(shard.data), None]
            if isinstance(queries, LowRank):
                found = found @ queries.coefficients.T
        _check_finite(store, shard.start, found)
        yield shard.start, found


def pieces_of(store: Store) -> Iterator[tuple[int, Float[np.ndarray, "row feature"]]]:
    """All rows in float32, some MiB at a time, with the position of the first; each piece until the next is asked."""
    for shard in store.shards():
        start = shard.start
        for piece in _restored(store, shard):
            yield start, piece
            start += len(piece)


def _restored(store: Store, shard: Shard) -> Iterator[Float[np.ndarray, "row feature"]]:
    """A shard in float32: as it is, or piece by piece through one buffer that stays in the cache."""
    step = max(16, _PIECE_BYTES // (4 * store.width))
    scales, data = shard.scales, shard.data
    if scales is None:
        yield data
        return
    runs = _runs(store.manifest.widths)
    source = torch.from_numpy(data)
    buffer = torch.empty(min(step, len(data)), store.width)
    factors = torch.from_numpy(scales)
    for start in range(0, len(data), step):
        piece = buffer[: len(data[start : start + step])]
        piece.copy_(source[start : start + step])
        for layers, columns, width in runs:
            alike = piece[:, columns].unflatten(1, (-1, width))
            alike.mul_(factors[start : start + step, layers, None])
        yield piece.numpy()


def _runs(widths: Sequence[int]) -> list[tuple[slice, slice, int]]:
    """Neighbouring layers of one width: their places, their columns, and the width."""
    runs: list[tuple[slice, slice, int]] = []
    layer = column = 0
    for width, group in itertools.groupby(widths):
        count = len(list(group))
        runs.append((slice(layer, layer + count), slice(column, column + count * width), width))
        layer, column = layer + count, column + count * width
    return runs


def _check_finite(store: Store, start: int, scores: Float[np.ndarray, "row query"]) -> None:
    if not np.isfinite(scores).all():
        row, query = (int(place[0]) for place in np.nonzero(~np.isfinite(scores)))
        raise NumericsError(
            f"{store.folder}: the score of example {str(store.ids[start + row])!r} for query {query} is "
            f"{scores[row, query]}.",
            fix="check the store with `steelyard index info --check`, and the query for extreme values.",
        )


def rows_at(store: Store, positions: np.ndarray) -> Float[np.ndarray, "row feature"]:
    """Single rows in float32, by ascending position."""
    out = np.empty((len(positions), store.width), dtype=np.float32)
    for shard in store.shards():
        first, last = np.searchsorted(positions, [shard.start, shard.start + len(shard.data)])
        own = positions[first:last] - shard.start
        scales = None if shard.scales is None else shard.scales[own]
        out[first:last] = restored(shard.data[own], scales, store.manifest.columns)
    return out


def checked_relation(name: str) -> Relation:
    """The name, known to be one of the relations between query and row.

    Raises:
        SettingError: If it is not.
    """
    for known in get_args(Relation):
        if name == known:
            return known
    raise SettingError(f"score={name!r}.", fix=f"choose one of {', '.join(get_args(Relation))}.")
