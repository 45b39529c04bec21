"""Per-example gradients of one block of parameters, kept as factors until somebody asks for the full matrix.

Three forms share one vocabulary (``full``, ``dot``, ``project``, …):

* :class:`Outer`: ``G_i = sum_t g_it a_it^T`` (linear layers and convolutions).
* :class:`Lookup`: the same with one-hot inputs, kept as indices (embeddings).
* :class:`Rows`: no structure, one row per example (norm layers, fallbacks, tied weights).

Which way of a dot product is cheaper is decided by :func:`ghost_is_cheaper`, a count of multiplications.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_CHUNK_ELEMENTS = 2**22
"""Of any one temporary: 16 MiB in float32. What is larger than 32 MiB is fetched from the system anew each time."""


@dataclass(frozen=True)
class Patches:
    """How a convolution cuts its input into patches, so that it can be written as a linear layer.

    Attributes:
        kernel: Height and width.
        stride: Of the patches.
        dilation: Within a patch.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]

    def cut(
        self, images: Float[Tensor, "example channel height width"]
    ) -> Float[Tensor, "example position in"]:
        """The patches themselves: as many times the input as a patch has pixels."""
        columns = F.unfold(images, self.kernel, dilation=self.dilation, stride=self.stride)
        return columns.transpose(1, 2)

    def project(
        self, images: Float[Tensor, "example channel height width"], right: Float[Tensor, "in feature"]
    ) -> Float[Tensor, "example position feature"]:
        """Projected patches, by a convolution with the projection as its kernels: no patch is ever formed."""
        kernels = right.T.reshape(right.shape[1], images.shape[1], *self.kernel)
        found = F.conv2d(images, kernels, stride=self.stride, dilation=self.dilation)
        return found.flatten(2).transpose(1, 2)


@dataclass(frozen=True, eq=False)
class Outer:
    """``G_i = sum_t g_it a_it^T``.

    Attributes:
        raw: What the layer reads: ``[example position in]``, or padded images where there are ``patches``.
        grads: Gradients with respect to the layer's outputs.
        bias: Whether a column of ones belongs to the inputs; it is not stored.
        patches: How a convolution cuts ``raw``; None for a linear layer.
    """

    raw: Tensor
    grads: Float[Tensor, "example position out"]
    bias: bool = False
    patches: Patches | None = None

    @functools.cached_property
    def inputs(self) -> Float[Tensor, "example position in"]:
        """Layer inputs, patches cut and the column of ones last."""
        inputs = self.raw if self.patches is None else self.patches.cut(self.raw)
        return F.pad(inputs, (0, 1), value=1.0) if self.bias else inputs

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the gradient matrix."""
        width = self.raw.shape[2]
        if self.patches is not None:
            width = self.raw.shape[1] * self.patches.kernel[0] * self.patches.kernel[1]
        return self.grads.shape[2], width + self.bias

    def __len__(self) -> int:
        return len(self.grads)

    def full(self) -> Float[Tensor, "example out in"]:
        """The gradient matrices themselves."""
        if self.grads.shape[1] == 1:
            return self.grads[:, 0, :, None] * self.inputs[:, 0, None, :]
        return self.grads.transpose(1, 2) @ self.inputs

    def input_products(self, other: "Outer") -> Float[Tensor, "row other"]:
        """Dot products of all inputs with all inputs of another, positions flattened."""
        if self.patches is not None or other.patches is not None or self.bias != other.bias:
            return self.inputs.flatten(0, 1) @ other.inputs.flatten(0, 1).T
        products = self.raw.flatten(0, 1) @ other.raw.flatten(0, 1).T
        return products.add_(1.0) if self.bias else products

    def projected_inputs(
        self, right: Float[Tensor, "in feature"]
    ) -> Float[Tensor, "example position feature"]:
        """Inputs times a matrix; neither ones nor patches are formed."""
        weights = right[:-1] if self.bias else right
        found = self.raw @ weights if self.patches is None else self.patches.project(self.raw, weights)
        return found + right[-1] if self.bias else found

    def slice(self, start: int, stop: int) -> "Outer":
        """The factors of a range of examples."""
        return replace(self, raw=self.raw[start:stop], grads=self.grads[start:stop])


@dataclass(frozen=True, eq=False)
class Lookup:
    """``G_i = sum_t onehot(index_it) g_it^T``: the gradient of an embedding, one row per vocabulary entry.

    Attributes:
        index: Row of each position; positions without gradient (padding) have a zero ``grads``.
        grads: Gradients with respect to the looked-up vectors.
        rows: Size of the vocabulary.
    """

    index: Int[Tensor, "example position"]
    grads: Float[Tensor, "example position out"]
    rows: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the gradient matrix."""
        return self.rows, self.grads.shape[2]

    def __len__(self) -> int:
        return len(self.grads)

    def full(self) -> Float[Tensor, "example row out"]:
        """The gradient matrices themselves, mostly zeros."""
        out = self.grads.new_zeros(len(self), self.rows, self.grads.shape[2])
        index = self.index[:, :, None].expand_as(self.grads)
        return out.scatter_add_(1, index, self.grads)

    def slice(self, start: int, stop: int) -> "Lookup":
        """The factors of a range of examples."""
        return Lookup(self.index[start:stop], self.grads[start:stop], self.rows)


@dataclass(frozen=True, eq=False)
class Rows:
    """One gradient row per example.

    Attributes:
        values: The gradients.
    """

    values: Float[Tensor, "example param"]

    @property
    def shape(self) -> tuple[int, int]:
        """One row of all parameters, as a matrix shape."""
        return 1, self.values.shape[1]

    def __len__(self) -> int:
        return len(self.values)

    def full(self) -> Float[Tensor, "example 1 param"]:
        """The rows as matrices of one row."""
        return self.values[:, None, :]

    def slice(self, start: int, stop: int) -> "Rows":
        """The rows of a range of examples."""
        return Rows(self.values[start:stop])


Factors = Outer | Lookup | Rows


def flat(factors: Factors) -> Float[Tensor, "example param"]:
    """Full gradients, one row per example, the gradient matrix in row-major order."""
    return factors.full().flatten(1)


def ghost_is_cheaper(first: Factors, second: Factors) -> bool:
    """Whether a dot product from the factors takes fewer multiplications than one from full gradients.

    From factors: B1 B2 T1 T2 (in + out). From full gradients: (B1 T1 + B2 T2 + B1 B2) in out, where forming the
    second side once is charged to every call, which favours the factors slightly when there are many calls.
    """
    if isinstance(first, Rows) or isinstance(second, Rows):
        return False
    b1, t1, b2, t2 = len(first), first.grads.shape[1], len(second), second.grads.shape[1]
    rows, columns = first.shape
    width = columns if isinstance(first, Lookup) else rows + columns  # comparing indices is nearly free
    ghost = b1 * b2 * t1 * t2 * (width + (4 if isinstance(first, Lookup) else 0))
    full = (b1 * t1 + b2 * t2 + b1 * b2) * rows * columns
    return ghost <= full


def ghost_dot(first: Factors, second: Factors) -> Float[Tensor, "first second"]:
    """Dot products of all pairs of gradients from their factors.

    ``<G_i, G_j> = sum_{t,s} (a_it . a_js)(g_it . g_js)``. Cost: see :func:`ghost_is_cheaper`; temporaries are
    cut to 64 MiB pieces.
    """
    if isinstance(first, Rows) or isinstance(second, Rows):
        raise TypeError("rows have no factors; multiply them as matrices")
    if first.grads.shape[1] == second.grads.shape[1] == 1 and len(first) * len(second) <= _CHUNK_ELEMENTS:
        return _pairs(first, second)
    return _in_pieces(first, second, lambda one, other: _ghost(one, other).sum(dim=(1, 3)), dim=1)


def ghost_positions(first: Factors, second: Factors) -> Float[Tensor, "first position second"]:
    """The same before the sum over the positions of the first."""
    if isinstance(first, Rows) or isinstance(second, Rows):
        raise TypeError("rows have no factors; multiply them as matrices")
    return _in_pieces(first, second, lambda one, other: _ghost(one, other).sum(dim=3), dim=2)


def _in_pieces(
    first: "Outer | Lookup",
    second: "Outer | Lookup",
    multiply: Callable[["Outer | Lookup", "Outer | Lookup"], Tensor],
    dim: int,
) -> Tensor:
    t1, (b2, t2) = first.grads.shape[1], second.grads.shape[:2]
    few = max(1, _CHUNK_ELEMENTS // max(1, t1 * t2))
    step = max(1, _CHUNK_ELEMENTS // max(1, t1 * t2 * min(b2, few)))
    pieces = [
        torch.cat([multiply(part, second.slice(j, j + few)) for j in range(0, b2, few)], dim)
        for part in (first.slice(i, i + step) for i in range(0, len(first), step))
    ]
    return torch.cat(pieces) if len(pieces) != 1 else pieces[0]


def _ghost(first: "Outer | Lookup", second: "Outer | Lookup") -> Float[Tensor, "first t second s"]:
    (b1, t1), (b2, t2) = first.grads.shape[:2], second.grads.shape[:2]
    return _pairs(first, second).view(b1, t1, b2, t2)


def _pairs(first: "Outer | Lookup", second: "Outer | Lookup") -> Tensor:
    """``(a_it . a_js)(g_it . g_js)`` of all positions with all positions."""
    if isinstance(first, Lookup) and isinstance(second, Outer):
        # The second is a matrix of low rank over the whole table; its rows are the table's.
        at_rows = second.grads.flatten(0, 1).T[first.index.flatten()]
        return at_rows * (first.grads.flatten(0, 1) @ second.inputs.flatten(0, 1).T)
    products = first.grads.flatten(0, 1) @ second.grads.flatten(0, 1).T
    if isinstance(first, Lookup) and isinstance(second, Lookup):
        same = first.index.reshape(-1, 1) == second.index.reshape(1, -1)
        return products.masked_fill_(~same, 0.0)
    if isinstance(first, Outer) and isinstance(second, Outer):
        return products.mul_(first.input_products(second))
    raise TypeError("gradients of different blocks have no dot product")


def full_dot(factors: Factors, others: Float[Tensor, "second param"]) -> Float[Tensor, "first second"]:
    """Dot products with full gradients that already exist; this side is formed in 64 MiB pieces."""
    if isinstance(factors, Lookup):
        return _lookup_dot(factors, others)
    parameters = factors.shape[0] * factors.shape[1]
    step = max(1, _CHUNK_ELEMENTS // max(1, parameters))
    pieces = [flat(factors.slice(i, i + step)) @ others.T for i in range(0, len(factors), step)]
    return torch.cat(pieces) if len(pieces) != 1 else pieces[0]


def _lookup_dot(factors: Lookup, others: Tensor) -> Tensor:
    # Gathers the rows that occur instead of forming a dense gradient that is mostly zeros.
    table = others.unflatten(1, factors.shape)
    out = factors.grads.new_zeros(len(factors), len(others))
    positions, width = factors.grads.shape[1:]
    step = max(1, _CHUNK_ELEMENTS // max(1, len(others) * positions * width))
    for i in range(0, len(factors), step):
        piece = factors.slice(i, i + step)
        rows = table[:, piece.index.reshape(-1)].view(len(others), len(piece), positions, width)
        out[i : i + step] = torch.einsum("btd,qbtd->bq", piece.grads, rows)
    return out


def squared_norms(factors: Factors) -> Float[Tensor, " example"]:
    """Squared Euclidean norm of every gradient, from the factors where that is cheaper."""
    if isinstance(factors, Rows):
        return factors.values.square().sum(1)
    positions, (rows, columns) = factors.grads.shape[1], factors.shape
    if isinstance(factors, Outer) and positions == 1 and factors.patches is None:
        sizes = torch.linalg.vecdot(factors.raw[:, 0], factors.raw[:, 0]) + float(factors.bias)
        return sizes * factors.grads[:, 0].square().sum(1)
    if isinstance(factors, Outer) and positions * (rows + columns) >= rows * columns:
        return torch.cat([flat(part).square().sum(1) for part in _pieces(factors)])
    gram = factors.grads @ factors.grads.transpose(1, 2)
    if isinstance(factors, Lookup):
        return gram.masked_fill(factors.index[:, :, None] != factors.index[:, None, :], 0.0).sum(dim=(1, 2))
    return (gram * (factors.inputs @ factors.inputs.transpose(1, 2))).sum(dim=(1, 2))


def _pieces(factors: Factors) -> list[Factors]:
    step = max(1, _CHUNK_ELEMENTS // max(1, factors.shape[0] * factors.shape[1]))
    return [factors.slice(i, i + step) for i in range(0, len(factors), step)]


def join_positions(parts: list[Factors]) -> Factors:
    """One block whose layer was called several times: its gradients add up, so positions are concatenated."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    if isinstance(first, Outer):
        outers = [part for part in parts if isinstance(part, Outer)]
        return Outer(torch.cat([p.inputs for p in outers], 1), torch.cat([p.grads for p in outers], 1))
    if isinstance(first, Lookup):
        lookups = [part for part in parts if isinstance(part, Lookup)]
        return Lookup(
            torch.cat([p.index for p in lookups], 1), torch.cat([p.grads for p in lookups], 1), first.rows
        )
    rows = [part for part in parts if isinstance(part, Rows)]
    return Rows(torch.stack([p.values for p in rows]).sum(0))
