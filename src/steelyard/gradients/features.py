"""Projected gradients of chosen blocks, side by side, in a layout that is known before the first example.

What ``TorchGradients.features`` does for one projection, with what methods and stores need beside it: named parts,
a choice of layers, projection matrices of one's own (principal components), scaled gradients (second moments of an
optimiser) and gradients that are changed element by element before they are projected (Adam's direction).
"""

import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from steelyard.errors import SettingError
from steelyard.gradients.factors import _CHUNK_ELEMENTS, Factors, Lookup, Rows
from steelyard.gradients.kronecker import EigenBlock
from steelyard.gradients.projection import BlockProjector, Projector, block_projector
from steelyard.gradients.signs import Projection, rademacher, sides
from steelyard.gradients.sparse_projection import SparseProjector

_LARGEST_DENSE = 2**28
_LARGEST_VECTOR = 2**16
VECTORS = "vectors"
"""The part that norm layers and other vectors share."""

Transform = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Part:
    """Columns of the features that belong together.

    Attributes:
        name: Of the block, or of a group of blocks whose projected gradients are added up.
        columns: Where they are.
        projectors: Per block.
    """

    name: str
    columns: slice
    projectors: Mapping[str, Projector]

    def gram(self) -> Float[Tensor, "feature feature"]:
        """``P^T P``: what an l2 penalty on the parameters is on these features."""
        return torch.stack([projector.gram() for projector in self.projectors.values()]).sum(0)


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """From captured factors to features.

    Attributes:
        parts: In the order of their columns.
        dtype: Number type of the features.
    """

    parts: tuple[Part, ...]
    dtype: torch.dtype

    @property
    def width(self) -> int:
        """Numbers per example."""
        return self.parts[-1].columns.stop

    def __call__(
        self, found: Mapping[str, Factors], transform: Transform | None = None
    ) -> Float[Tensor, "example feature"]:
        """Features of one captured batch, on the CPU.

        Args:
            found: Factors per block.
            transform: Changes full gradient matrices ``[example, row, column]`` of a block before they are
                projected; they are formed in 64 MiB pieces.
        """
        out = torch.zeros(len(next(iter(found.values()))), self.width, dtype=self.dtype)
        for part in self.parts:
            columns = out[:, part.columns]
            alone = len(part.projectors) == 1
            for name, projector in part.projectors.items():
                if name not in found:  # this value does not depend on the block
                    continue
                if alone and transform is None:
                    projector.write(found[name], columns)
                else:
                    columns.add_(_project(projector, name, found[name], transform).to(columns))
        return out


def _project(projector: Projector, name: str, factors: Factors, transform: Transform | None) -> Tensor:
    if transform is None:
        return projector(factors)
    rows, columns = factors.shape
    step = max(1, _CHUNK_ELEMENTS // max(1, rows * columns))
    pieces = [
        projector.matrices(transform(name, factors.slice(i, i + step).full()))
        for i in range(0, len(factors), step)
    ]
    return torch.cat(pieces)


@dataclass(frozen=True, eq=False)
class Layout:
    """What features shall be made of.

    Attributes:
        projection: Kind, numbers per part at most (in all for a dense one), seed.
        modules: Patterns of the blocks to use, as in a shell.
        bases: Projection matrices of one's own per block: left ``[row, kept]`` and right ``[column, kept]``.
        scales: Numbers that the rows and the columns of a block's gradient are multiplied by.
    """

    projection: Projection
    modules: tuple[str, ...] = ("*",)
    bases: Mapping[str, tuple[Tensor | None, Tensor]] = field(default_factory=dict)
    scales: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def feature_map(found: Mapping[str, Factors], layout: Layout) -> FeatureMap:
    """Projectors of the chosen blocks.

    Vectors (norm layers, and other parameters without a matrix shape of up to 65,536 numbers) share one part: kept
    as they are where they fit, else projected together by one Rademacher matrix.

    Args:
        found: Factors of any example, for names, shapes and number types.
        layout: What is asked for.

    Raises:
        SettingError: If no block matches, or a dense projection would not fit into memory.
    """
    names = select(sorted(found), layout.modules)
    projection = layout.projection
    dtype = torch.promote_types(_like(found[names[0]]).dtype, torch.float32)
    if projection.kind == "dense":
        size = sum(math.prod(found[name].shape) for name in names)
        if size * projection.dimension > _LARGEST_DENSE:
            raise SettingError(
                f"a dense projection of {size:,} parameters to {projection.dimension} takes "
                f"{size * projection.dimension * 4 / 2**30:.1f} GiB.",
                fix='use projection="two-sided", or a smaller dimension.',
            )
        projectors = {name: _of_block(layout, name, found[name]) for name in names}
        return FeatureMap((Part("all", slice(0, projection.dimension), projectors),), dtype)
    vectors = [name for name in names if _is_vector(found[name])]
    groups: list[tuple[str, Mapping[str, Projector]]] = [
        (name, {name: _of_block(layout, name, found[name])}) for name in names if name not in vectors
    ]
    if vectors:
        groups.append((VECTORS, _of_vectors(layout, {name: found[name] for name in vectors})))
    parts: list[Part] = []
    start = 0
    for name, projectors in groups:
        width = next(iter(projectors.values())).width
        parts.append(Part(name, slice(start, start + width), projectors))
        start += width
    return FeatureMap(tuple(parts), dtype)


def select(names: Iterable[str], patterns: tuple[str, ...]) -> list[str]:
    """Names that match any pattern.

    Raises:
        SettingError: If a pattern matches nothing; lists some names.
    """
    names = list(names)
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise SettingError(
                f"no layer matches {pattern!r}.",
                fix=f"patterns are as in a shell; the {len(names)} layers are "
                f"{', '.join(names[:8])}{', …' if len(names) > 8 else ''}.",
            )
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def _is_vector(factors: Factors) -> bool:
    return isinstance(factors, Rows) and factors.shape[1] <= _LARGEST_VECTOR


def _like(factors: Factors) -> Tensor:
    return factors.values if isinstance(factors, Rows) else factors.grads


def _of_block(layout: Layout, name: str, factors: Factors) -> Projector:
    projection, like = layout.projection, _like(factors)
    if name in layout.bases:
        left, right = layout.bases[name]
        kept = factors.shape[0] if left is None else left.shape[1]
        left = None if left is None else left.to(like)
        found = BlockProjector(left, right.to(like), dense=False, kept_rows=kept)
    elif projection.kind == "dense":
        found = block_projector(projection, factors.shape, name=name, like=like)
    else:
        found = block_projector(_suited(projection, factors), factors.shape, name=name, like=like)
    if name not in layout.scales:
        return found
    if isinstance(found, SparseProjector):
        raise SettingError("a sparse projection of scaled gradients.", fix="use a two-sided projection.")
    return found.scaled(*layout.scales[name])


def _suited(projection: Projection, factors: Factors) -> Projection:
    """The kind that a block takes: some blocks are not served by the one asked for."""
    if isinstance(factors, Lookup):
        # A mask over the vocabulary would miss nearly every word of nearly every text.
        return Projection(projection.dimension, "two-sided", projection.seed)
    if isinstance(factors, Rows) and projection.kind == "two-sided":
        # One large parameter without factors: a matrix of parameters by dimension would not fit.
        group = math.ceil(factors.shape[1] / projection.dimension)
        return Projection(projection.dimension, "sparse", projection.seed, mask=group)
    return projection


def _of_vectors(layout: Layout, vectors: Mapping[str, Factors]) -> dict[str, Projector]:
    projection = layout.projection
    total = sum(factors.shape[1] for factors in vectors.values())
    width = min(total, projection.dimension)
    found: dict[str, Projector] = {}
    start = 0
    for name, factors in vectors.items():
        size, like = factors.shape[1], _like(factors)
        if total <= projection.dimension:
            right = torch.eye(total)[start : start + size]
        else:
            signs = rademacher(size, width, seed=projection.seed, name=f"{name}/vector")
            right = torch.from_numpy(signs) / math.sqrt(width)
        projector = BlockProjector(None, right.to(like), dense=True)
        found[name] = projector.scaled(*layout.scales[name]) if name in layout.scales else projector
        start += size
    return found


def principal_bases(
    blocks: Mapping[str, EigenBlock], found: Mapping[str, Factors], projection: Projection
) -> dict[str, tuple[Tensor | None, Tensor]]:
    """Top eigenvectors of each layer's output-gradient and input covariances, as many as a projection keeps.

    Vectors have none, and those of an embedding are unit vectors on the vocabulary's side, which would drop every
    rare word: they are not in the result, so that they are projected at random.

    Args:
        blocks: Eigenvectors in columns; the order is that of the marginal sums of the eigenvalues.
        found: Factors of any example, for names and shapes.
        projection: How many to keep, as :func:`signs.sides` splits it.
    """
    bases: dict[str, tuple[Tensor | None, Tensor]] = {}
    for name, factors in found.items():
        block = blocks.get(name)
        if isinstance(factors, Rows | Lookup) or block is None or block.left is None or block.right is None:
            continue
        kept_rows, kept_columns = sides(factors.shape, projection.dimension)
        top_rows = block.values.sum(1).argsort(descending=True, stable=True)[:kept_rows]
        top_columns = block.values.sum(0).argsort(descending=True, stable=True)[:kept_columns]
        bases[name] = block.left[:, top_rows], block.right[:, top_columns]
    return bases
