"""The query side of dot products: gradients of queries, with a metric applied once, whole or of low rank.

A gradient matrix of rank k is ``sum_j u_j v_j^T``: the very form of factors with k positions. So a query of low
rank is an ``Outer`` that takes k (rows + columns) numbers instead of rows times columns, and every product that
works on factors works on it.

Source: Grosse et al. (2023), "Studying Large Language Model Generalization with Influence Functions", section
3.2.2 (low-rank approximation of preconditioned query gradients). Deviations: the singular vectors come from an
eigendecomposition of the smaller Gram matrix; the share of the gradient that is lost is measured and recorded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steelyard.gradients.factors import (
    _CHUNK_ELEMENTS,
    Factors,
    Lookup,
    Outer,
    Rows,
    flat,
    full_dot,
    ghost_dot,
    ghost_is_cheaper,
)


@dataclass(frozen=True, eq=False)
class QuerySide:
    """Query gradients made ready for dot products with training gradients.

    Attributes:
        blocks: Per block the factors, or full rows where those are cheaper or a metric was applied.
        count: Number of queries.
        compact: Blocks that are kept at low rank; they are never made whole for all queries at once.
        lost: ``float64[" query"]`` Length of what low rank left out, over the length of the whole, in the
            Euclidean norm; zeros where nothing was left out.
    """

    blocks: Mapping[str, Factors]
    count: int
    compact: frozenset[str] = frozenset()
    lost: np.ndarray = field(default_factory=lambda: np.zeros(0))


class Gathered:
    """Query gradients of one batch after another, until they are put together.

    Args:
        rank: Most singular vectors per query and block; None to keep gradients whole.
    """

    def __init__(self, rank: int | None) -> None:
        self._rank = rank
        self._parts: dict[str, list[Factors]] = {}
        self._compact: set[str] = set()
        self._squares: list[Float[Tensor, "two query"]] = []

    def add(self, found: Mapping[str, Factors], matrices: Mapping[str, Tensor]) -> None:
        """One batch: factors as captured and signed, and full matrices of the blocks that a metric was applied to."""
        squares = torch.zeros(2, len(next(iter(found.values()))), dtype=torch.float64)
        for name, factors in found.items():
            kept: Factors = factors if name not in matrices else Rows(matrices[name].flatten(1))
            if self._rank is not None:
                kept, lost, whole = self._short(name, factors, matrices.get(name), self._rank)
                squares += torch.stack([lost, whole]).cpu()
            self._parts.setdefault(name, []).append(kept)
        self._squares.append(squares)

    def _short(
        self, name: str, factors: Factors, matrix: Tensor | None, rank: int
    ) -> tuple[Factors, Tensor, Tensor]:
        full = factors.full() if matrix is None else matrix
        whole = full.double().square().sum(dim=(1, 2))
        rows, columns = full.shape[1:]
        if isinstance(factors, Rows) or not _worth(rank, rows, columns):
            return Rows(full.flatten(1)), torch.zeros_like(whole), whole
        self._compact.add(name)
        kept, lost = low_rank(full, min(rank, rows, columns))
        return kept, lost, whole

    def side(self, order: np.ndarray | None = None) -> QuerySide:
        """Everything that was added; with ``order``, row i of the result is row ``order[i]`` of what was added."""
        blocks = {name: concatenated(pieces) for name, pieces in self._parts.items()}
        squares = torch.cat(self._squares, 1).numpy()
        if order is not None:
            blocks = {name: chosen(factors, order) for name, factors in blocks.items()}
            squares = squares[:, order]
        lost = np.sqrt(squares[0] / np.maximum(squares[1], np.finfo(np.float64).tiny))
        return QuerySide(blocks, squares.shape[1], frozenset(self._compact), lost)


def _worth(rank: int, rows: int, columns: int) -> bool:
    return rank * (rows + columns) < rows * columns


def low_rank(matrices: Float[Tensor, "query row column"], rank: int) -> tuple[Outer, Float[Tensor, " query"]]:
    """The best approximations of that rank, as factors with ``rank`` positions, and the squares of what is lost.

    Cost: one eigendecomposition of the smaller side per query.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    tall = matrices if wide else matrices.transpose(1, 2)  # [query, smaller, larger]
    # In float64: the Gram matrix squares the ratio of the largest to the smallest singular value.
    precise = tall.double()
    vectors = torch.linalg.eigh(precise @ precise.transpose(1, 2)).eigenvectors[:, :, -rank:].transpose(1, 2)
    other = vectors @ precise  # [query, rank, larger]
    lost = (precise.square().sum(dim=(1, 2)) - other.square().sum(dim=(1, 2))).clamp_min(0.0)
    left, right = (vectors, other) if wide else (other, vectors)
    return Outer(right.to(matrices), left.to(matrices)), lost


def scaled(factors: Factors, scale: Float[Tensor, " example"]) -> Factors:
    """Every example's gradient times its own number."""
    if isinstance(factors, Rows):
        return Rows(factors.values * scale.to(factors.values)[:, None])
    grads = factors.grads * scale.to(factors.grads)[:, None, None]
    if isinstance(factors, Lookup):
        return Lookup(factors.index, grads, factors.rows)
    return replace(factors, grads=grads)


def chosen(factors: Factors, order: np.ndarray) -> Factors:
    """The factors of the examples at those positions, in that order."""
    index = torch.from_numpy(order)
    if isinstance(factors, Rows):
        return Rows(factors.values[index.to(factors.values.device)])
    index = index.to(factors.grads.device)
    if isinstance(factors, Lookup):
        return Lookup(factors.index[index], factors.grads[index], factors.rows)
    return replace(factors, raw=factors.raw[index], grads=factors.grads[index])


def concatenated(pieces: Sequence[Factors]) -> Factors:
    """Factors of several batches as those of one; whole gradients where lengths differ."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    same = len({p.grads.shape[1] for p in pieces if not isinstance(p, Rows)}) <= 1
    if isinstance(first, Rows) or not same:
        return Rows(torch.cat([flat(piece) for piece in pieces]))
    grads = torch.cat([p.grads for p in pieces if not isinstance(p, Rows)])
    if isinstance(first, Lookup):
        return Lookup(torch.cat([p.index for p in pieces if isinstance(p, Lookup)]), grads, first.rows)
    return replace(first, raw=torch.cat([p.raw for p in pieces if isinstance(p, Outer)]), grads=grads)


def dot(factors: Factors, other: Factors, *, compact: bool) -> tuple[Float[Tensor, "example query"], Factors]:
    """Products with one block of the query side, and that block in the form to use from now on.

    Args:
        factors: Training gradients.
        other: The queries.
        compact: Whether the queries must stay as they are, because whole they might not fit into memory.
    """
    if isinstance(other, Rows):
        return full_dot(factors, other.values), other
    if ghost_is_cheaper(factors, other):
        return ghost_dot(factors, other), other
    if compact:
        return _piecewise(factors, other), other
    rows = Rows(flat(other))
    return full_dot(factors, rows.values), other if isinstance(other, Lookup) else rows


def _piecewise(factors: Factors, other: Outer | Lookup) -> Tensor:
    # Queries are made whole a few at a time: once per batch of training examples, not once per example.
    step = max(1, _CHUNK_ELEMENTS // max(1, other.shape[0] * other.shape[1]))
    pieces = [full_dot(factors, flat(other.slice(i, i + step))) for i in range(0, len(other), step)]
    return torch.cat(pieces, 1) if len(pieces) != 1 else pieces[0]
