"""Kronecker factors other than K-FAC's: trace-restricted K-FAC and Shampoo, from the same captured gradients.

With G the gradient matrix of an example at a layer and F the mean of ``vec(G) vec(G)^T``, all three have the form
``F ~ L kron R / scale``:

* K-FAC: means of ``g g^T`` and ``a a^T`` apart; right where inputs and output gradients are independent.
* tK-FAC (Gao et al. 2021, "A Trace-restricted Kronecker-Factored Approximation to Natural Gradient", theorem
  4.1, eq. 4.4 to 4.6): ``L = E[|a|^2 g g^T]``, ``R = E[|g|^2 a a^T]``, divided by ``E[|a|^2 |g|^2]``; the trace of F
  is kept exactly.
* Shampoo (Gupta et al. 2018, "Shampoo: Preconditioned Stochastic Tensor Optimization", algorithm 1): ``L = E[G G^T]``,
  ``R = E[G^T G]``, divided by their common trace. This square of Shampoo's preconditioner is one step of the power
  iteration for the closest Kronecker product (Morwani et al. 2024, "A New Perspective on Shampoo's Preconditioner",
  section 3); Shampoo itself uses ``L^(1/2) kron R^(1/2)``, its fourth roots squared.

For layers that see one position per example, tK-FAC and Shampoo are the same matrix. Deviations: positions count as
independent samples in tK-FAC, as they do in K-FAC; sums are over the whole training set instead of running means;
the row side of an embedding, and any side wider than 8,192 (the vocabulary of an output layer), keep their diagonal
alone, so that the eigenbasis on that side is the identity.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from steelyard.gradients.factors import _CHUNK_ELEMENTS, Factors, Lookup, Outer, Rows

Family = Literal["kfac", "tkfac", "shampoo"]
LARGEST_DENSE = 1024
_NARROW = 128  # matrices of fewer columns multiply at less than full speed
LARGEST_SIDE = 8192
"""Widest side of a layer whose second moments are kept whole: 0.5 GB, and a minute or two for its eigenvectors."""


@dataclass(frozen=True, eq=False)
class Weighted:
    """One batch of gradients on its way into second moments.

    Attributes:
        factors: Per block.
        weights: ``[" example"]`` Weight of every example in the training loss; None for ones.
        first: Whether these examples are seen for the first time: one example may come with several output
            gradients, whose second moments add up while its inputs count once.
    """

    factors: Mapping[str, Factors]
    weights: Tensor | None
    first: bool

    def __len__(self) -> int:
        return len(next(iter(self.factors.values())))


@dataclass(eq=False)
class Moments:
    """Running second moments of one block; sums, so that shards add up.

    Attributes:
        left: Output side; ``[row]`` where only the diagonal is kept, None for blocks without Kronecker structure.
        right: Input side, or all there is; ``[column]`` where only the diagonal is kept.
        examples: How many were seen; the output side is a mean over them.
        positions: What the input side is divided by, so that the Kronecker product is the mean over examples.
    """

    left: Tensor | None = None
    right: Tensor | None = None
    examples: int = 0
    positions: float = 0.0


Accumulate = Callable[[Moments, Factors, Weighted], None]


def accumulate(family: Family) -> Accumulate:
    """How a family adds the gradients of one block, which are part of a batch, to its moments."""
    return {"kfac": _kfac, "tkfac": _tkfac, "shampoo": _shampoo}[family]


def _kfac(moments: Moments, factors: Factors, batch: Weighted) -> None:
    if isinstance(factors, Rows):
        return _rows(moments, factors, batch.weights)
    per_row = _per_row(batch.weights, *factors.grads.shape[:2])
    grads = factors.grads.flatten(0, 1)
    live = _live(grads)
    outer = _side(grads, per_row)
    if isinstance(factors, Lookup):
        moments.right = add(moments.right, outer)
        if batch.first:
            present = live.to(grads.dtype)
            counts = torch.bincount(
                factors.index.flatten(), present if per_row is None else present * per_row, factors.rows
            )
            moments.left = add(moments.left, counts)
            moments.positions += float(counts.sum())
        return None
    moments.left = add(moments.left, outer)
    if batch.first:
        some = None if factors.grads.shape[1] == 1 or bool(live.all()) else live
        moments.right = add(moments.right, _inputs(factors, some, per_row))
        counted = torch.ones(len(grads)) if per_row is None else per_row
        moments.positions += float((counted if some is None else counted[some]).sum())
    return None


def _tkfac(moments: Moments, factors: Factors, batch: Weighted) -> None:
    if isinstance(factors, Rows):
        return _rows(moments, factors, batch.weights)
    per_row = _per_row(batch.weights, *factors.grads.shape[:2])
    grads = factors.grads.flatten(0, 1)
    sizes = _times(grads.square().sum(1), per_row)
    if isinstance(factors, Lookup):
        # A one-hot input has length one, so only the output gradient weighs.
        moments.right = add(moments.right, _side(grads, per_row))
        moments.left = add(moments.left, torch.bincount(factors.index.flatten(), sizes, factors.rows))
        moments.positions += float(sizes.sum())
        return None
    inputs = factors.inputs.flatten(0, 1)
    moments.left = add(moments.left, _side(grads, _times(inputs.square().sum(1), per_row)))
    moments.right = add(moments.right, _side(inputs, sizes))
    moments.positions += float((sizes * inputs.square().sum(1)).sum())
    return None


def _shampoo(moments: Moments, factors: Factors, batch: Weighted) -> None:
    if isinstance(factors, Outer) and factors.grads.shape[1] == 1:
        return _tkfac(moments, factors, batch)  # the same matrix, without forming the gradients
    if isinstance(factors, Rows):
        return _rows(moments, factors, batch.weights)
    step = max(1, _CHUNK_ELEMENTS // max(1, factors.shape[0] * factors.shape[1]))
    for start in range(0, len(factors), step):
        matrices = factors.slice(start, start + step).full()
        if batch.weights is not None:
            matrices = matrices * batch.weights[start : start + step].to(matrices).sqrt()[:, None, None]
        moments.right = add(moments.right, _side(matrices.flatten(0, 1), None))
        if isinstance(factors, Lookup):
            moments.left = add(moments.left, matrices.square().sum(dim=(0, 2)))
        else:
            moments.left = add(moments.left, _side(matrices.transpose(1, 2).flatten(0, 1), None))
        moments.positions += float(matrices.square().sum())
    return None


def _rows(moments: Moments, factors: Rows, weights: Tensor | None) -> None:
    rows = factors.values
    dense = rows.shape[1] <= LARGEST_DENSE
    moments.right = add(moments.right, second(rows, weights) if dense else _diagonal(rows, weights))


def _live(grads: Tensor) -> Tensor:
    """Which rows are not all zeros; most show it in their first number."""
    live = grads[:, 0] != 0
    rest = ~live
    if bool(rest.any()):
        live[rest] = (grads[rest] != 0).any(-1)
    return live


def _inputs(factors: Outer, live: Tensor | None, weights: Tensor | None) -> Tensor:
    """Second moments of a layer's inputs at these positions, all if None; its column of ones is not formed."""
    wide = factors.shape[1] > LARGEST_SIDE
    plain = factors.patches is None and not wide
    inputs = (factors.raw if plain else factors.inputs).flatten(0, 1)
    if live is not None:
        inputs, weights = inputs[live], None if weights is None else weights[live]
    if not plain or not factors.bias:
        return _side(inputs, weights)
    weighted = inputs if weights is None else inputs * weights.to(inputs)[:, None]
    width = inputs.shape[1]
    found = inputs.new_empty(width + 1, width + 1)
    torch.mm(inputs.T, weighted, out=found[:width, :width])
    found[width, :width] = found[:width, width] = weighted.sum(0)
    found[width, width] = len(inputs) if weights is None else weights.sum()
    return found


def _side(rows: Tensor, weights: Tensor | None) -> Tensor:
    """Second moments of one side of a layer, whole or the diagonal alone."""
    return second(rows, weights) if rows.shape[1] <= LARGEST_SIDE else _diagonal(rows, weights)


def _diagonal(rows: Tensor, weights: Tensor | None) -> Tensor:
    return (rows.square() * _column(weights, rows)).sum(0)


def second(rows: Tensor, weights: Tensor | None) -> Tensor:
    """``[column column]`` Weighted sum of outer products of the rows; of a wide one, half is mirrored."""
    return _gram(rows, rows if weights is None else rows * weights.to(rows)[:, None])


def _gram(rows: Tensor, weighted: Tensor) -> Tensor:
    width = rows.shape[1]
    if width < 2 * _NARROW:
        return rows.T @ weighted
    half = width // 2
    found = rows.new_empty(width, width)
    found[:half, :half] = _gram(rows[:, :half], weighted[:, :half])
    found[half:, half:] = _gram(rows[:, half:], weighted[:, half:])
    torch.mm(rows[:, :half].T, weighted[:, half:], out=found[:half, half:])
    found[half:, :half] = found[:half, half:].T
    return found


def add(total: Tensor | None, part: Tensor) -> Tensor:
    """A running sum in float64."""
    part = part.double()
    return part if total is None else total.add_(part)


def _per_row(weights: Tensor | None, examples: int, positions: int) -> Tensor | None:
    return None if weights is None else weights[:, None].expand(examples, positions).reshape(-1)


def _times(values: Tensor, weights: Tensor | None) -> Tensor:
    return values if weights is None else values * weights.to(values)


def _column(weights: Tensor | None, rows: Tensor) -> Tensor | float:
    return 1.0 if weights is None else weights.to(rows)[:, None]
