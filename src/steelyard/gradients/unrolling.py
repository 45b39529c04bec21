"""A stretch of training with constant curvature, in closed form: what it does to a perturbation of the parameters.

With gradient steps of learning rates eta_k on a loss of constant curvature H, a perturbation of the parameters shrinks
to ``exp(-tau H)`` of itself over the stretch, tau the sum of the eta_k; and a constant extra gradient g, added to every
step, moves the parameters by ``-(1 - exp(-tau H)) / H g``. Both are functions of the eigenvalues of H alone.

Adaptive optimisers precondition by a diagonal P, so P H takes the place of H: ``P^(1/2) K P^(-1/2)`` with the symmetric
``K = P^(1/2) H P^(1/2)``, whose eigenvalues the same functions apply to.

Source: Bae et al. (2024), "Training Data Attribution via Approximate Unrolled Differentiation", arXiv:2405.12186,
section 3.2, eq. 16, and appendix D on preconditioned optimisers. Deviations: K itself is factored (Kronecker
eigenbases of preconditioned gradients, eigenvalues corrected), where the paper takes a diagonal Hessian for the
exponential and EK-FAC for the inverse; ``eta K`` is the sum of the scheduled learning rates.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steelyard.errors import NumericsError
from steelyard.gradients.factors import _CHUNK_ELEMENTS, Factors, Rows
from steelyard.gradients.kronecker import Captured, EigenBlock
from steelyard.gradients.taps import Block

_LARGEST_BASIS = 4096  # a wider side keeps the identity as its basis


@dataclass(frozen=True, eq=False)
class Segment:
    """Constant curvature for a stretch of training.

    Attributes:
        blocks: Eigenvectors and eigenvalues of the (preconditioned) curvature of the mean loss, by block.
        horizon: Sum of the effective learning rates.
        decay: Added to every eigenvalue: the penalty of the mean loss, or decoupled weight decay.
        roots: Square root of the preconditioner by block; empty where there is none.
    """

    blocks: Mapping[str, EigenBlock]
    horizon: float
    decay: float = 0.0
    roots: Mapping[str, Float[Tensor, "row column"]] = field(default_factory=dict)

    def respond(
        self, name: str, matrices: Float[Tensor, "query row column"]
    ) -> Float[Tensor, "query row column"]:
        """``P^(1/2) (1 - exp(-tau K)) / K P^(1/2) v`` for every row of a block."""
        root = self.roots.get(name)
        inner = matrices if root is None else matrices * root.to(matrices)
        moved = self._apply(name, inner, self._response)
        return moved if root is None else moved * root.to(matrices)

    def carry(
        self, name: str, matrices: Float[Tensor, "query row column"]
    ) -> Float[Tensor, "query row column"]:
        """``P^(-1/2) exp(-tau K) P^(1/2) v``: cotangents after the stretch as cotangents before it."""
        root = self.roots.get(name)
        if root is None:
            return self._apply(name, matrices, self._remainder)
        root = root.to(matrices)
        inverse = torch.where(root > 0, 1.0 / root, 0.0)
        moved = self._apply(name, matrices * root, self._remainder) * inverse
        # Parameters that no gradient ever reached do not move but for their decay.
        return torch.where(root > 0, moved, matrices * float(np.exp(-self.horizon * self.decay)))

    def _apply(self, name: str, matrices: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        block = self.blocks.get(name)
        if block is None:  # no gradient reaches it: curvature 0
            return matrices * float(function(torch.zeros((), dtype=torch.float64)))
        left = None if block.left is None else block.left.to(matrices)
        right = None if block.right is None else block.right.to(matrices)
        rotated = matrices if left is None else left.T @ matrices
        rotated = rotated if right is None else rotated @ right
        rotated = rotated * function(block.values).to(matrices)
        rotated = rotated if left is None else left @ rotated
        return rotated if right is None else rotated @ right.T

    def _response(self, values: Tensor) -> Tensor:
        exponent = self.horizon * (values.clamp_min(0.0) + self.decay)
        # (1 - exp(-x)) / x is 1 - x/2 near 0.
        share = torch.where(
            exponent > 1e-8, -torch.expm1(-exponent) / exponent.clamp_min(1e-8), 1 - exponent / 2
        )
        return self.horizon * share

    def _remainder(self, values: Tensor) -> Tensor:
        return torch.exp(-self.horizon * (values.clamp_min(0.0) + self.decay))


def unrolled(
    segments: tuple[Segment, ...], name: str, matrices: Float[Tensor, "query row column"]
) -> Iterator[Float[Tensor, "query row column"]]:
    """For every segment, from the last to the first: what a training gradient in it is multiplied with.

    Args:
        segments: In the order of training.
        name: Of the block.
        matrices: Query gradients of the block, at the end of training.

    Source: Bae et al. (2024), section 3.2; eq. 16 for what is carried on.
    """
    for segment in reversed(segments):
        yield segment.respond(name, matrices)
        matrices = segment.carry(name, matrices)


def block_matrix(
    block: Block | None, name: str, factors: Factors, tensors: Mapping[str, Tensor]
) -> Float[Tensor, "row column"]:
    """A tensor per parameter, laid out as the gradient of a block is.

    Args:
        block: The tapped layer; None for a parameter by itself.
        name: Of the parameter, where there is no layer.
        factors: Captured gradients of the block, for its shape.
        tensors: By name of parameter.
    """
    if block is None:
        return tensors[name].reshape(1, -1)
    if isinstance(factors, Rows):
        return torch.cat([tensors[part].reshape(-1) for part in block.parameters])[None]
    rows, columns = factors.shape
    parts: list[Tensor] = []
    if block.weight is not None:
        stored = tensors[block.weight]
        width = columns - (block.bias is not None)
        parts.append(stored.reshape(width, rows).T if block.transposed else stored.reshape(rows, width))
    if block.bias is not None:
        parts.append(tensors[block.bias].reshape(rows, 1))
    return torch.cat(parts, 1)


def fit_preconditioned(
    captured: Captured, roots: Mapping[str, Float[Tensor, "row column"]], penalty: float
) -> dict[str, np.ndarray]:
    """Kronecker eigenbases and corrected eigenvalues of ``P^(1/2) (H + penalty) P^(1/2)`` per block.

    Bases are those of the second moments of preconditioned gradients along either side; eigenvalues their mean
    squares in these bases. A penalty inside the preconditioner (Adam's, not AdamW's) adds its exact diagonal.

    Cost: two passes; per gradient and block two products of the full gradient matrix with a basis.

    Args:
        captured: Gives batches of (pseudo-)gradients.
        roots: Square root of the preconditioner by block.
        penalty: Coefficient of the l2 term that the optimiser preconditions.

    Returns:
        Arrays ``<block>|left``, ``<block>|right``, ``<block>|ekfac``, as of ``kronecker.fit_eigenvalues``.

    Raises:
        NumericsError: If a second moment is not finite.
    """
    moments: dict[str, list[Tensor | None]] = {}
    for name, matrices, _ in _scaled(captured, roots):
        rows, columns = matrices.shape[1:]
        sides = moments.setdefault(name, [None, None])
        if 1 < rows <= _LARGEST_BASIS:
            sides[0] = _add(sides[0], torch.einsum("brc,bsc->rs", matrices, matrices))
        if 1 < columns <= _LARGEST_BASIS:
            sides[1] = _add(sides[1], torch.einsum("brc,brd->cd", matrices, matrices))
    bases = {name: [_basis(name, side) for side in sides] for name, sides in moments.items()}
    squares: dict[str, Tensor] = {}
    examples: dict[str, int] = {}
    for name, matrices, count in _scaled(captured, roots):
        squares[name] = squares.get(name, torch.zeros(())) + _rotated(bases[name], matrices).square().sum(0)
        examples[name] = examples.get(name, 0) + count
    arrays: dict[str, np.ndarray] = {}
    for name, total in squares.items():
        left, right = bases[name]
        values = total / max(1, examples[name])
        if penalty:
            squared = [None if side is None else side.square() for side in (left, right)]
            values = values + penalty * _rotated(squared, roots[name].double().square()[None])[0]
        arrays[f"{name}|ekfac"] = values.numpy()
        arrays |= {
            f"{name}|{side}": v.numpy() for side, v in (("left", left), ("right", right)) if v is not None
        }
    return arrays


def _scaled(
    captured: Captured, roots: Mapping[str, Tensor]
) -> Iterator[tuple[str, Float[Tensor, "example row column"], int]]:
    """Preconditioned gradients in float64, a bounded number at a time, times the roots of their weights."""
    for batch in captured():
        for name, factors in batch.factors.items():
            root = roots[name].double()
            step = max(1, _CHUNK_ELEMENTS // root.numel())
            for start in range(0, len(factors), step):
                piece = factors.slice(start, start + step)
                matrices = piece.values[:, None, :] if isinstance(piece, Rows) else piece.full()
                matrices = matrices.double().cpu() * root
                if batch.weights is not None:
                    part = batch.weights[start : start + step].double().cpu()
                    matrices = matrices * part.sqrt()[:, None, None]
                yield name, matrices, len(matrices) if batch.first else 0


def _rotated(bases: list[Tensor | None], matrices: Tensor) -> Tensor:
    left, right = bases
    matrices = matrices if left is None else left.T @ matrices
    return matrices if right is None else matrices @ right


def _add(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)


def _basis(name: str, moment: Tensor | None) -> Tensor | None:
    if moment is None:
        return None
    if not bool(torch.isfinite(moment).all()):
        raise NumericsError(
            f"the preconditioned curvature of {name!r} is NaN or infinite.",
            fix="look for extreme gradients, or use float64.",
        )
    return torch.linalg.eigh(moment).eigenvectors
