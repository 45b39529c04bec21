"""K-FAC and EK-FAC: the Fisher or Gauss-Newton matrix of each block in a Kronecker eigenbasis.

Sources: Martens & Grosse (2015), "Optimizing Neural Networks with Kronecker-factored Approximate Curvature",
section 3.1, eq. 2; George et al. (2018), "Fast Approximate Natural Gradient Descent in a Kronecker-factored
Eigenbasis", section 3.2 and theorem 2 for the corrected eigenvalues; Grosse et al. (2023), "Studying Large Language
Model Generalization with Influence Functions", eq. 16, 18 and 20.

Deviations. The bias is part of the layer as a last input column of ones, so its coupling with the weights is
exact. Positions whose output gradient is zero (padding) are left out of the input covariance. Embeddings have a
diagonal input covariance, so their input eigenbasis is the identity; a side wider than 8,192 is given one too. Blocks
without Kronecker structure (norm layers, fallbacks) use their full gradient covariance up to 1,024 parameters and its
diagonal beyond. What the other Kronecker factorisations add up instead of K-FAC's means is in ``factorisations.py``.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steelyard.errors import NumericsError
from steelyard.gradients.factorisations import Family, Moments, accumulate, add
from steelyard.gradients.factorisations import Weighted as Weighted
from steelyard.gradients.factors import _CHUNK_ELEMENTS, Factors, Lookup, Outer

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
            return self._rotated(factors)
        if isinstance(factors, Lookup):
            grads = factors.grads if self.right is None else factors.grads @ self.right.to(factors.grads)
            return Lookup(factors.index, grads, factors.rows).full()
        rows = factors.values if self.right is None else factors.values @ self.right.to(factors.values)
        return rows[:, None, :]

    def _rotated(self, factors: Outer) -> Float[Tensor, "example row column"]:
        grads, right = factors.grads, self.right
        inputs = factors.inputs if right is None else factors.projected_inputs(right.to(factors.raw))
        if self.left is None:
            return Outer(inputs, grads).full()
        left = self.left.to(grads)
        if grads.shape[1] <= inputs.shape[2]:
            return Outer(inputs, grads @ left).full()
        # More positions than columns: turning the whole gradients takes less than turning every position's.
        return (Outer(grads, inputs).full() @ left).transpose(1, 2)

    def turn(self, matrices: Float[Tensor, "example row column"]) -> Float[Tensor, "example row column"]:
        """From parameters into the eigenbasis: what :meth:`rotate` does, for matrices without factors."""
        if self.left is not None:
            matrices = self.left.T.to(matrices) @ matrices
        return matrices if self.right is None else matrices @ self.right.to(matrices)

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
            curvature = self.blocks[name].values.clamp_min(0.0)
            values = curvature + self.damping[name] + self.decay
            if not bool((values > 0).any() or curvature.any()):
                # No training gradient reaches the block (a fresh adapter): whatever its inverse, its influence is 0.
                self._inverse[name] = torch.zeros_like(values)
                return self._inverse[name]
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


def fit_bases(captured: Captured, family: Family = "kfac") -> dict[str, np.ndarray]:
    """Eigenvectors and Kronecker eigenvalues of every block: the first pass, and all of K-FAC.

    Args:
        captured: Gives batches of (pseudo-)gradients.
        family: Which Kronecker factors, see ``factorisations.py``.

    Returns:
        Arrays ``<block>|left``, ``<block>|right`` and ``<block>|<family>`` (eigenvalues of the Kronecker product).

    Source: Grosse et al. (2023), eq. 16 and 18.
    """
    moments: dict[str, Moments] = {}
    add_batch = accumulate(family)
    for batch in captured():
        for name, factors in batch.factors.items():
            moment = moments.setdefault(name, Moments())
            moment.examples += len(factors) if batch.first else 0
            add_batch(moment, factors, batch)
    arrays: dict[str, np.ndarray] = {}
    for name, moment in moments.items():
        found = _decompose(moment)
        arrays[f"{name}|{family}"] = found.pop("values")
        arrays.update({f"{name}|{key}": value for key, value in found.items()})
    return arrays


def _decompose(moment: Moments) -> dict[str, np.ndarray]:
    if moment.right is None:
        raise NumericsError("no gradient reached a block.", fix="check that the loss depends on the model.")
    examples = max(1, moment.examples)
    positions = moment.positions if moment.positions > 0 else 1.0
    if moment.left is None:  # no Kronecker structure
        values, vectors = _eigen(moment.right / examples)
        return {"values": values[None], **({} if vectors is None else {"right": vectors})}
    left_values, left = _eigen(moment.left / examples)
    right_values, right = _eigen(moment.right / positions)
    found = {"values": np.outer(left_values, right_values)}
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


def fit_eigenvalues(
    captured: Captured, bases: Mapping[str, np.ndarray], family: Family = "kfac"
) -> dict[str, np.ndarray]:
    """Corrected eigenvalues in given bases: the second pass, which makes K-FAC into EK-FAC.

    ``values_kl = mean_i (left_k^T G_i right_l)^2``; where an example has several output gradients, their squares
    are summed.

    Returns:
        Arrays ``<block>|e<family>``.

    Source: Grosse et al. (2023), eq. 20; George et al. (2018), theorem 2.
    """
    found = mean_squares(captured, eigen_blocks(bases, family))
    return {f"{name}|e{family}": squares for name, squares in found.items()}


def mean_squares(captured: Captured, blocks: Mapping[str, EigenBlock]) -> dict[str, np.ndarray]:
    """``[row column]`` per block: weighted mean over the examples of their squared gradients in an eigenbasis."""
    sums: dict[str, Tensor] = {}
    examples = 0
    for batch in captured():
        examples += len(batch) if batch.first else 0
        for name, factors in batch.factors.items():
            sums[name] = add(sums.get(name), _squares(blocks[name], factors, batch.weights))
    return {name: (total / max(1, examples)).numpy() for name, total in sums.items()}


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
        kind: Which eigenvalues: a family's own (``"kfac"``) or its corrected ones (``"ekfac"``).
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
