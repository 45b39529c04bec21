"""Sparse projections of factored gradients: a few entries, with random signs, added up in groups.

Source: Hu et al. (2025), "GraSS: Scalable Data Attribution with Gradient Sparsification and Sparse Projection",
arXiv:2505.18976: a random mask, then a sparse Johnson-Lindenstrauss transform with one entry per coordinate
(section 3), and the factorised form for linear layers (FactGraSS), which masks both factors first.

Deviations. Every group has the same number of entries (the paper hashes each entry into a group by itself): as
unbiased, less variance, and neither atomic additions nor an order that depends on the device. Features are scaled
by the root of parameters over entries, so that dot products are estimates of dot products of gradients.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steelyard.gradients.factors import _CHUNK_ELEMENTS, Factors, Lookup, Outer, Rows
from steelyard.gradients.signs import Projection, drawn, rademacher, sides


@dataclass(frozen=True, eq=False)
class SparseProjector:
    """Which entries of one block's gradient matrix are added up, with which signs; the same for every batch.

    Attributes:
        rows: Row of every drawn entry, group by group; in a factored draw its place in ``kept[0]``.
        columns: Column of every drawn entry, likewise.
        signs: Sign times scale of every drawn entry; 0 fills the last group.
        width: Groups, which is numbers per example.
        kept: Rows and columns that are cut out of the factors before anything else, or None.
    """

    rows: Int[Tensor, " slot"]
    columns: Int[Tensor, " slot"]
    signs: Float[Tensor, " slot"]
    width: int
    kept: tuple[Tensor, Tensor] | None = None

    def __call__(self, factors: Factors) -> Float[Tensor, "example feature"]:
        """Projected gradients."""
        positions = 1 if isinstance(factors, Rows) else factors.grads.shape[1]
        full = isinstance(factors, Lookup)
        per_example = factors.shape[0] * factors.shape[1] if full else positions * len(self.signs)
        step = max(1, _CHUNK_ELEMENTS // max(1, per_example))
        pieces = [self._piece(factors.slice(i, i + step)) for i in range(0, len(factors), step)]
        return torch.cat(pieces) if len(pieces) != 1 else pieces[0]

    def matrices(self, full: Float[Tensor, "example row column"]) -> Float[Tensor, "example feature"]:
        """Projected gradients from full ones."""
        if self.kept is not None:
            full = full[:, self.kept[0]][:, :, self.kept[1]]
        return self._grouped(full[:, self.rows, self.columns])

    def write(self, factors: Factors, out: Float[Tensor, "example feature"]) -> None:
        """Projected gradients into a slice of a larger array."""
        out.copy_(self(factors))

    def gram(self) -> Float[Tensor, "feature feature"]:
        """``P^T P``, in float64: diagonal, because no entry is in two groups."""
        return torch.diag(self.signs.double().square().view(self.width, -1).sum(1))

    def _piece(self, factors: Factors) -> Tensor:
        if isinstance(factors, Rows | Lookup):
            return self.matrices(factors.full())
        grads, inputs = factors.grads, factors.inputs
        if self.kept is not None:
            return self._grouped(
                Outer(inputs[:, :, self.kept[1]], grads[:, :, self.kept[0]]).full()[
                    :, self.rows, self.columns
                ]
            )
        products = grads[:, :, self.rows] * inputs[:, :, self.columns]
        return self._grouped(products.sum(1))

    def _grouped(self, entries: Float[Tensor, "example slot"]) -> Float[Tensor, "example feature"]:
        return (entries * self.signs.to(entries)).unflatten(1, (self.width, -1)).sum(2)


def sparse_projector(
    projection: Projection, shape: tuple[int, int], *, name: str, like: Tensor
) -> SparseProjector:
    """The projector of one block.

    A block with no more entries than are kept is kept as it is.

    Args:
        projection: What was asked for.
        shape: Rows and columns of the block's gradient matrix.
        name: Name of the block; decides entries and signs together with the seed.
        like: A tensor of the device and number type to use.

    Source: Hu et al. (2025), section 3.
    """
    rows, columns = shape
    if rows * columns <= projection.dimension:
        every = torch.arange(rows * columns, device=like.device)
        ones = torch.ones(rows * columns, dtype=like.dtype, device=like.device)
        return SparseProjector(every // columns, every % columns, ones, rows * columns)
    kept = None
    if projection.kind == "factored-sparse" and rows > 1:
        kept = _cut(projection, shape, name, like)
        rows, columns = len(kept[0]), len(kept[1])
    width = min(projection.dimension, rows * columns)
    group = min(projection.mask, math.ceil(rows * columns / width))
    count = min(rows * columns, width * group)
    entries = drawn(rows * columns, count, seed=projection.seed, name=f"{name}/entries")
    signs = torch.zeros(width * group)
    chosen = torch.from_numpy(rademacher(1, count, seed=projection.seed, name=f"{name}/signs")[0])
    signs[:count] = chosen * math.sqrt(shape[0] * shape[1] / count)
    places = torch.zeros(width * group, dtype=torch.int64)
    places[:count] = torch.from_numpy(entries)
    places = places.to(like.device)
    return SparseProjector(places // columns, places % columns, signs.to(like), width, kept)


def _cut(projection: Projection, shape: tuple[int, int], name: str, like: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns with about ``mask`` times dimension entries between them."""
    wanted = sides(shape, projection.dimension * projection.mask)
    found = (
        drawn(total, count, seed=projection.seed, name=f"{name}/{role}")
        for total, count, role in zip(shape, wanted, ("rows", "columns"), strict=True)
    )
    rows, columns = (torch.from_numpy(index).to(like.device) for index in found)
    return rows, columns
