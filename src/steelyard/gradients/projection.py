"""Random projections of factored gradients, with the signs of ``signs.py``."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steelyard.gradients.factors import Factors, Lookup, Outer, Rows, full_dot
from steelyard.gradients.signs import Projection, rademacher, sides
from steelyard.gradients.sparse_projection import SparseProjector, sparse_projector


@runtime_checkable
class Projector(Protocol):
    """What makes the gradients of one block short."""

    @property
    def width(self) -> int:
        """Numbers per example."""
        ...

    def __call__(self, factors: Factors) -> Tensor:
        """``[example, feature]`` Projected gradients."""
        ...

    def matrices(self, full: Tensor) -> Tensor:
        """``[example, feature]`` The same from full gradients ``[example, row, column]``."""
        ...

    def write(self, factors: Factors, out: Tensor) -> None:
        """Projected gradients into a slice of a larger array."""
        ...

    def gram(self) -> Tensor:
        """``[feature, feature]`` ``P^T P``: what an l2 penalty on the parameters is on the features."""
        ...


@dataclass(frozen=True, eq=False)
class BlockProjector:
    """Projection matrices of one block, made once and applied to every batch.

    Attributes:
        left: ``[rows, kept_rows]`` or None where all rows are kept.
        right: ``[columns, kept_columns]``, or ``[rows * columns, dimension]`` for a dense projection.
        dense: Whether ``right`` acts on the flattened gradient.
        kept_rows: Rows that are left of the gradient matrix; 1 for a dense projection.
    """

    left: Tensor | None
    right: Tensor
    dense: bool
    kept_rows: int = 1

    @property
    def width(self) -> int:
        """Numbers per example."""
        return self.right.shape[1] * self.kept_rows

    def __call__(self, factors: Factors) -> Float[Tensor, "example feature"]:
        """Projected gradients."""
        if self.dense or isinstance(factors, Rows):
            return full_dot(factors, self.right.T)  # forms full gradients in pieces, never all of a batch
        if isinstance(factors, Lookup):
            inputs = _rows_of(self.left, factors)
            return torch.bmm(inputs.transpose(1, 2), factors.grads @ self.right).flatten(1)
        if _one_position(factors):
            grads, inputs = self._sides(factors)
            return (grads[:, :, None] * inputs[:, None, :]).flatten(1)
        grads = factors.grads if self.left is None else factors.grads @ self.left
        return torch.bmm(grads.transpose(1, 2), factors.projected_inputs(self.right)).flatten(1)

    def matrices(self, full: Float[Tensor, "example row column"]) -> Float[Tensor, "example feature"]:
        """Projected gradients from full ones."""
        if self.dense:
            return full.flatten(1) @ self.right
        kept = full if self.left is None else self.left.T @ full
        return (kept @ self.right).flatten(1)

    def gram(self) -> Float[Tensor, "feature feature"]:
        """``P^T P``, in float64."""
        right = self.right.double()
        inner = right.T @ right
        if self.dense:
            return inner
        left = torch.eye(self.kept_rows, dtype=torch.float64) if self.left is None else self.left.double()
        return torch.kron(left.T @ left, inner)

    def scaled(self, rows: Float[Tensor, " row"], columns: Float[Tensor, " column"]) -> "BlockProjector":
        """The projector of gradients whose rows and columns are multiplied by these numbers first.

        Cost per example: none, the numbers go into the matrices.
        """
        rows, columns = rows.to(self.right), columns.to(self.right)
        if self.dense:
            return replace(self, right=self.right * torch.outer(rows, columns).flatten()[:, None])
        left = torch.diag(rows) if self.left is None else self.left * rows[:, None]
        return replace(self, left=left, right=self.right * columns[:, None])

    def write(self, factors: Factors, out: Float[Tensor, "example feature"]) -> None:
        """Projected gradients into a slice of a larger array, without one of their own where possible.

        A small network's features take as long to allocate as to compute.
        """
        if not self.dense and isinstance(factors, Outer) and _one_position(factors):
            grads, inputs = self._sides(factors)
            if grads.device == out.device and grads.dtype == out.dtype:
                shape = (len(out), grads.shape[1], inputs.shape[1])
                torch.mul(grads[:, :, None], inputs[:, None, :], out=out.view(shape))
                return
        out.copy_(self(factors))

    def _sides(self, factors: Outer) -> tuple[Tensor, Tensor]:
        grads, inputs, right = factors.grads[:, 0], factors.raw[:, 0], self.right
        grads = grads if self.left is None else grads @ self.left
        return grads, torch.addmm(right[-1], inputs, right[:-1]) if factors.bias else inputs @ right


def _one_position(factors: Outer) -> bool:
    return factors.grads.shape[1] == 1 and factors.patches is None


def _rows_of(left: Tensor | None, factors: Lookup) -> Tensor:
    if left is None:
        return torch.nn.functional.one_hot(factors.index, factors.rows).to(factors.grads.dtype)
    return left[factors.index]


def block_projector(
    projection: Projection, shape: tuple[int, int], *, name: str, like: Tensor
) -> BlockProjector | SparseProjector:
    """The projector of one block.

    Scaled so that dot products of projected gradients are unbiased estimates of dot products of gradients.

    Args:
        projection: What was asked for.
        shape: Rows and columns of the block's gradient matrix.
        name: Name of the block; decides the signs together with the seed.
        like: A tensor of the device and number type to use.
    """
    if projection.kind in ("sparse", "factored-sparse"):
        return sparse_projector(projection, shape, name=name, like=like)
    rows, columns = shape

    def signs(n: int, k: int, role: str) -> Tensor:
        matrix = rademacher(n, k, seed=projection.seed, name=f"{name}/{role}") / np.sqrt(k)
        return torch.from_numpy(matrix.astype(np.float32)).to(like)

    if projection.kind == "dense":
        return BlockProjector(None, signs(rows * columns, projection.dimension, "dense"), dense=True)
    if rows == 1:
        kept = min(columns, projection.dimension)
        right = torch.eye(columns).to(like) if kept == columns else signs(columns, kept, "right")
        return BlockProjector(None, right, dense=True)
    kept_rows, kept_columns = sides(shape, projection.dimension)
    left = None if kept_rows == rows else signs(rows, kept_rows, "left")
    right = torch.eye(columns).to(like) if kept_columns == columns else signs(columns, kept_columns, "right")
    return BlockProjector(left, right, dense=False, kept_rows=kept_rows)
