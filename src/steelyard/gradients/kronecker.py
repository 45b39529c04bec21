"""K-FAC and EK-FAC: the Fisher or Gauss-Newton matrix of each block in a Kronecker eigenbasis.

Sources: Martens & Grosse (2015), "Optimizing Neural Networks with Kronecker-factored Approximate Curvature";
George et al. (2018), "Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis", eq. 9 for the
corrected eigenvalues; Grosse et al. (2023), "Studying Large Language Model Generalization with Influence
Functions", section 3.2.

Deviations. The bias is part of the layer as a last input column of ones, so its coupling with the weights is
exact. Positions whose output gradient is zero (padding) are left out of the input covariance. Embeddings have a
diagonal input covariance, so their input eigenbasis is the identity. Blocks without Kronecker structure (norm
layers, fallbacks) use their full gradient covariance up to 1,024 parameters and its diagonal beyond.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steelyard.errors import NumericsError, SettingError
from steelyard.gradients.factors import _CHUNK_ELEMENTS, Factors, Lookup, Outer, Rows

_LARGEST_DENSE = 1024


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


Captured = Callable[[], Iterator[Weighted]]


@dataclass(frozen=True, eq=False)
class EigenBlock:
    """The curvature of one block: ``sum_kl values_kl (left_k right_l^T)(left_k right_l^T)^T``, a mean over examples.

    Attributes:
        left: Eigenvectors on the output side, in columns; None for the identity.
        right: Eigenvectors on the input side, in columns; None for the identity.
        values: Eigenvalues.
    """

    left: Float[Tensor, "row row"] | None
    right: Float[Tensor, "column column"] | None
    values: Float[Tensor, "row column"]

    def rotate(self, factors: Factors) -> Float[Tensor, "example row column"]:
        """Gradients in the eigenbasis."""
        if isinstance(factors, Outer):
            grads = factors.grads if self.left is None else factors.grads @ self.left.to(factors.grads)
            inputs = (
                factors.inputs if self.right is None else factors.projected_inputs(self.right.to(factors.raw))
            )
            return Outer(inputs, grads).full()
        if isinstance(factors, Lookup):
            grads = factors.grads if self.right is None else factors.grads @ self.right.to(factors.grads)
            return Lookup(factors.index, grads, factors.rows).full()
        rows = factors.values if self.right is None else factors.values @ self.right.to(factors.values)
        return rows[:, None, :]

    def unrotate(self, matrices: Float[Tensor, "example row column"]) -> Float[Tensor, "example row column"]:
        """From the eigenbasis back to parameters."""
        if self.left is not None:
            matrices = self.left.to(matrices) @ matrices
        return matrices if self.right is None else matrices @ self.right.T.to(matrices)


@dataclass(frozen=True, eq=False)
class KroneckerMetric:
    """The inverse of the damped curvature of the *summed* training loss, block by block.

    ``M = (total (F + (decay + damping) I))^{-1}`` with F the mean Fisher or Gauss-Newton matrix.

    Attributes:
        blocks: Curvature per block.
        damping: Per block, added to every eigenvalue of the mean.
        decay: Coefficient of the l2 penalty in the mean training loss.
        total: Sum of the example weights: turns the mean into the sum.
    """

    blocks: Mapping[str, EigenBlock]
    damping: Mapping[str, float]
    decay: float
    total: float
    _inverse: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def inverse(self, name: str) -> Float[Tensor, "row column"]:
        """Inverse eigenvalues of a block.

        Raises:
            NumericsError: If an eigenvalue plus damping is not positive.
        """
        if name not in self._inverse:
            values = self.blocks[name].values.clamp_min(0.0) + self.damping[name] + self.decay
            if not bool((values > 0).all()):
                raise NumericsError(
                    f"the curvature of {name!r} has zero eigenvalues and there is no damping.",
                    fix='use damping="auto" or a positive number.',
                )
            self._inverse[name] = 1.0 / (self.total * values)
        return self._inverse[name]

    def apply(self, name: str, factors: Factors) -> Float[Tensor, "example row column"]:
        """``M g`` for every gradient of a block."""
        block = self.blocks.get(name)
        if block is None:
            return torch.zeros_like(factors.full())
        rotated = block.rotate(factors)
        return block.unrotate(rotated * self.inverse(name).to(rotated))

    def quadratic(self, name: str, factors: Factors) -> Float[Tensor, " example"]:
        """``g^T M g`` for every gradient of a block, in float64."""
        block = self.blocks.get(name)
        if block is None:
            return torch.zeros(len(factors), dtype=torch.float64)
        step = max(1, _CHUNK_ELEMENTS // max(1, block.values.numel()))
        inverse = self.inverse(name)
        parts = [
            (rotated.square().flatten(1) @ inverse.to(rotated).flatten()).double()
            for start in range(0, len(factors), step)
            for rotated in (block.rotate(factors.slice(start, start + step)),)
        ]
        return torch.cat(parts)


@dataclass(eq=False)
class _Covariance:
    """Running second moments of one block; sums, so that shards add up."""

    left: Tensor | None = None
    right: Tensor | None = None
    examples: int = 0
    positions: float = 0.0  # weighted, so that the input side is a weighted mean


def fit_bases(captured: Captured) -> dict[str, np.ndarray]:
    """Eigenvectors and Kronecker eigenvalues of every block: the first pass, and all of K-FAC.

    Args:
        captured: Gives batches of (pseudo-)gradients.

    Returns:
        Arrays ``<block>|left``, ``<block>|right`` and ``<block>|kfac`` (eigenvalues of the Kronecker product).
    """
    moments: dict[str, _Covariance] = {}
    for batch in captured():
        for name, factors in batch.factors.items():
            _accumulate(moments.setdefault(name, _Covariance()), factors, batch)
    arrays: dict[str, np.ndarray] = {}
    for name, moment in moments.items():
        arrays.update({f"{name}|{key}": value for key, value in _decompose(moment).items()})
    return arrays


def _accumulate(moment: _Covariance, factors: Factors, batch: Weighted) -> None:
    if batch.first:
        moment.examples += len(factors)
    if isinstance(factors, Rows):
        rows, weights = factors.values, _per_row(batch.weights, len(factors), 1)
        dense = rows.shape[1] <= _LARGEST_DENSE
        moment.right = _add(moment.right, _second(rows, weights) if dense else _diagonal(rows, weights))
        return
    positions = factors.grads.shape[1]
    weights = _per_row(batch.weights, len(factors), positions)
    grads = factors.grads.flatten(0, 1)
    outer = _second(grads, weights)
    if isinstance(factors, Lookup):
        moment.right = _add(moment.right, outer)
        if batch.first:
            live = (grads != 0).any(-1).to(grads.dtype)
            counts = torch.bincount(
                factors.index.flatten(), live if weights is None else live * weights, factors.rows
            )
            moment.left = _add(moment.left, counts)
            moment.positions += float(counts.sum())
        return
    moment.left = _add(moment.left, outer)
    if batch.first:
        inputs = factors.inputs.flatten(0, 1)
        if positions > 1:
            live = (grads != 0).any(-1)
            inputs, weights = inputs[live], None if weights is None else weights[live]
        moment.right = _add(moment.right, _second(inputs, weights))
        moment.positions += len(inputs) if weights is None else float(weights.sum())


def _per_row(weights: Tensor | None, examples: int, positions: int) -> Tensor | None:
    return None if weights is None else weights[:, None].expand(examples, positions).reshape(-1)


def _second(rows: Tensor, weights: Tensor | None) -> Tensor:
    return rows.T @ (rows if weights is None else rows * weights.to(rows)[:, None])


def _diagonal(rows: Tensor, weights: Tensor | None) -> Tensor:
    squares = rows.square()
    return (squares if weights is None else squares * weights.to(rows)[:, None]).sum(0)


def _add(total: Tensor | None, part: Tensor) -> Tensor:
    part = part.double()
    return part if total is None else total.add_(part)


def _decompose(moment: _Covariance) -> dict[str, np.ndarray]:
    if moment.right is None:
        raise NumericsError("no gradient reached a block.", fix="check that the loss depends on the model.")
    examples, positions = max(1, moment.examples), max(1.0, moment.positions)
    if moment.left is None:  # no Kronecker structure
        values, vectors = _eigen(moment.right / examples)
        return {"kfac": values[None], **({} if vectors is None else {"right": vectors})}
    if moment.left.dim() == 1:  # an embedding: the input side is diagonal
        values, vectors = _eigen(moment.right / examples)
        found = {"kfac": np.outer(moment.left.numpy() / positions, values)}
        return found if vectors is None else {**found, "right": vectors}
    left_values, left = _eigen(moment.left / examples)
    right_values, right = _eigen(moment.right / positions)
    found = {"kfac": np.outer(left_values, right_values)}
    return {**found, **{k: v for k, v in (("left", left), ("right", right)) if v is not None}}


def _eigen(matrix: Tensor) -> tuple[np.ndarray, np.ndarray | None]:
    if matrix.dim() == 1:
        return matrix.numpy(), None
    if not bool(torch.isfinite(matrix).all()):
        raise NumericsError(
            "a Kronecker factor is NaN or infinite.", fix="look for extreme activations, or use float64."
        )
    values, vectors = torch.linalg.eigh(matrix.cpu())
    return values.clamp_min(0.0).numpy(), vectors.numpy()


def fit_eigenvalues(captured: Captured, bases: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Corrected eigenvalues in given bases: the second pass, which makes K-FAC into EK-FAC.

    ``values_kl = mean_i (left_k^T G_i right_l)^2``; where an example has several output gradients, their squares
    are summed.

    Returns:
        Arrays ``<block>|ekfac``.
    """
    blocks = eigen_blocks(bases, "kfac")
    sums: dict[str, Tensor] = {}
    examples = 0
    for batch in captured():
        examples += len(batch) if batch.first else 0
        for name, factors in batch.factors.items():
            sums[name] = _add(sums.get(name), _squares(blocks[name], factors, batch.weights))
    return {f"{name}|ekfac": (total / max(1, examples)).numpy() for name, total in sums.items()}


def _squares(block: EigenBlock, factors: Factors, weights: Tensor | None) -> Tensor:
    if isinstance(factors, Outer) and factors.grads.shape[1] == 1:
        grads = (
            factors.grads[:, 0] if block.left is None else factors.grads[:, 0] @ block.left.to(factors.grads)
        )
        right = block.right
        inputs = factors.inputs if right is None else factors.projected_inputs(right.to(factors.raw))
        inputs = inputs[:, 0].square()
        return grads.square().T @ (inputs if weights is None else inputs * weights.to(inputs)[:, None])
    step = max(1, _CHUNK_ELEMENTS // max(1, block.values.numel()))
    total = torch.zeros(block.values.shape, dtype=torch.float64)
    for start in range(0, len(factors), step):
        squares = block.rotate(factors.slice(start, start + step)).square()
        if weights is not None:
            squares = squares * weights[start : start + step].to(squares)[:, None, None]
        total += squares.sum(0).cpu()
    return total


def eigen_blocks(arrays: Mapping[str, np.ndarray], kind: str) -> dict[str, EigenBlock]:
    """Blocks from the arrays of :func:`fit_bases` and :func:`fit_eigenvalues`.

    Args:
        arrays: As returned by the two, together.
        kind: ``"kfac"`` or ``"ekfac"``: which eigenvalues.
    """
    names = [key.removesuffix(f"|{kind}") for key in arrays if key.endswith(f"|{kind}")]

    def tensor(key: str) -> Tensor | None:
        return torch.from_numpy(np.array(arrays[key])) if key in arrays else None

    return {
        name: EigenBlock(
            tensor(f"{name}|left"),
            tensor(f"{name}|right"),
            torch.from_numpy(np.array(arrays[f"{name}|{kind}"])),
        )
        for name in names
    }


def resolve_damping(
    blocks: Mapping[str, EigenBlock], damping: float | int | str
) -> tuple[dict[str, float], str]:
    """Damping per block, and the reason in words.

    ``"auto"`` is a tenth of the mean eigenvalue of each block (Grosse et al. 2023, appendix D.3): it follows
    the scale of every layer and looks at the curvature only, never at a query or a metric of quality.

    Args:
        blocks: Curvature per block, means over examples.
        damping: ``"auto"``, or a number added to every eigenvalue of the *mean* curvature.

    Raises:
        SettingError: If the number is negative, or the word is not ``"auto"``.
    """
    if damping == "auto":
        return (
            {name: 0.1 * float(block.values.mean()) for name, block in blocks.items()},
            "0.1 x mean eigenvalue of each block",
        )
    if isinstance(damping, str) or damping < 0:
        raise SettingError(f"damping={damping!r}", fix='give "auto" or a number that is not negative.')
    return dict.fromkeys(blocks, float(damping)), "as given, the same for every block"
