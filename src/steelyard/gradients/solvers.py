"""Solving ``A x = b`` for many right-hand sides when only products with the damped curvature A are to be had.

* Conjugate gradient (Hestenes & Stiefel 1952), with a preconditioner; Martens (2010) for networks.
* LiSSA (Agarwal et al. 2017, "Second-Order Stochastic Optimization for Machine Learning in Linear Time", eq. 9;
  Koh & Liang 2017, section 3): a Neumann series over minibatches.
* ASTRA (Wang et al. 2025, "Better Training Data Attribution via Better Inverse Hessian-Vector Products",
  arXiv:2507.14740, section 3, eq. 9): the same series, preconditioned. Deviation: the iterates of the second half
  are averaged (Polyak & Juditsky 1992) instead of tuning a schedule of step sizes, and the step size comes from the
  largest eigenvalue of the preconditioned curvature, not from the user.
* Arnoldi (Schioppa et al. 2021, "Scaling Up Influence Functions", arXiv:2112.03052, section 3.2): largest eigenpairs.
  Deviation: for a symmetric matrix the iteration is Lanczos'; the basis is orthogonalised twice against all of
  itself, because in floating point Lanczos loses orthogonality and then finds eigenvalues twice.
* Nyström (Hataya & Yamada 2023, "Nyström Method for Accurate and Scalable Implicit Differentiation", eq. 6, from drawn
  columns; Frangella, Tropp & Udell 2021, algorithm 2.1, from a Gaussian sketch).

Everything works on rows: a vector is a row of ``[vector param]``, and so is a solution.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steelyard.errors import NumericsError

Apply = Callable[[Tensor], Tensor]
Told = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Solution:
    """What a solver reached.

    Attributes:
        vectors: One solution per right-hand side.
        residuals: ``|A x - b| / |b|`` of each, with A over all examples.
        iterations: How many were used.
    """

    vectors: Float[Tensor, "vector param"]
    residuals: Float[Tensor, " vector"]
    iterations: int


@dataclass(frozen=True, eq=False)
class Pairs:
    """Eigenpairs of a curvature, largest first.

    Attributes:
        values: Eigenvalues, not negative.
        vectors: Eigenvectors of length one, in rows.
    """

    values: Float[Tensor, " pair"]
    vectors: Float[Tensor, "pair param"]


def nothing() -> None:
    """Tell nobody about an iteration."""


def identity(vectors: Tensor) -> Tensor:
    """No preconditioner."""
    return vectors


def conjugate_gradient(  # noqa: PLR0913 - system, preconditioner, two ways to stop, one to tell
    apply: Apply,
    right: Float[Tensor, "vector param"],
    *,
    precondition: Apply = identity,
    tolerance: float = 1e-6,
    iterations: int = 100,
    told: Told = nothing,
) -> Solution:
    """Solve by preconditioned conjugate gradient, every right-hand side on its own.

    A right-hand side that has reached the tolerance takes no further part, so that its solution does not depend on
    which others it was solved together with.

    Cost: one product per unfinished right-hand side and iteration, and one each for the residual in the end.

    Args:
        apply: Products with A, symmetric and positive definite.
        right: Right-hand sides.
        precondition: Products with an approximate inverse of A, symmetric and positive definite. The first iterate
            is this inverse applied to the right-hand side.
        tolerance: Stop at this relative residual.
        iterations: Stop after so many.
        told: Called once per iteration.

    Raises:
        NumericsError: If A or the preconditioner turns out not to be positive definite, or something overflows.
    """
    size = _lengths(right).clamp_min(torch.finfo(right.dtype).tiny)
    x = precondition(right) if precondition is not identity else torch.zeros_like(right)
    r = right - apply(x) if precondition is not identity else right.clone()
    z = precondition(r)
    d, rz = z.clone(), (r * z).sum(1)
    used = 0
    for used in range(1, iterations + 1):
        live = torch.nonzero(_lengths(r) > tolerance * size).flatten()
        if not len(live):
            used -= 1
            break
        product = apply(d[live])
        along = (d[live] * product).sum(1)
        _check_positive(along, rz[live])
        step = (rz[live] / along)[:, None]
        x[live] += step * d[live]
        r[live] -= step * product
        z[live] = precondition(r[live])
        after = (r[live] * z[live]).sum(1)
        d[live] = z[live] + (after / rz[live])[:, None] * d[live]
        rz[live] = after
        told()
    return Solution(x, _lengths(right - apply(x)) / size, used)


def _check_positive(along: Tensor, size: Tensor) -> None:
    if not bool(torch.isfinite(along).all() and torch.isfinite(size).all()):
        raise NumericsError(
            "conjugate gradient: a product with the curvature is NaN or infinite.",
            fix='look for extreme activations, or use precision="float64".',
        )
    if not bool((along > 0).all()):
        raise NumericsError(
            "conjugate gradient: the damped curvature is not positive definite.",
            fix='use curvature="gauss_newton", or a larger damping.',
        )


def stochastic_neumann(  # noqa: PLR0913 - system, preconditioner, start, schedule
    sample: Callable[[], Apply],
    right: Float[Tensor, "vector param"],
    *,
    precondition: Apply,
    start: Float[Tensor, "vector param"],
    longest: float,
    iterations: int,
    averaged: int = 1,
    told: Told = nothing,
) -> Float[Tensor, "vector param"]:
    """``x <- x + P (b - A_t x)`` with a new sample ``A_t`` of A in every iteration.

    With ``P = 1 / scale`` this is LiSSA; with a preconditioner times a step size, ASTRA.

    Args:
        sample: Gives products with the A of the next minibatch.
        right: Right-hand sides.
        precondition: P, step size included.
        start: First iterates.
        longest: Length relative to the right-hand side's that no iterate can have unless the iteration diverges.
        iterations: How many.
        averaged: The result is the mean of this many last iterates.
        told: Called once per iteration.

    Raises:
        NumericsError: If the iterates grow beyond ``longest``.

    Source: Agarwal et al. (2017), eq. 9; Wang et al. (2025), eq. 9.
    """
    x, total = start.clone(), torch.zeros_like(start)
    bound = longest * _lengths(right)
    for step in range(iterations):
        x = x + precondition(right - sample()(x))
        if not bool((_lengths(x) <= bound).all()):
            raise NumericsError(
                f"the Neumann series diverges: after {step + 1} of {iterations} iterations the solution is longer "
                "than any solution of the damped system can be.",
                fix='use scale="auto" or a larger scale, larger batches or a larger damping; or cg, which needs none.',
            )
        if step >= iterations - averaged:
            total += x
        told()
    return total / max(1, min(averaged, iterations)) if iterations else x


def largest_eigenvalue(apply: Apply, start: Float[Tensor, "one param"], iterations: int = 20) -> float:
    """The largest eigenvalue by power iteration: the Rayleigh quotient, a lower bound."""
    vector, value = start / _lengths(start)[:, None], 0.0
    for _ in range(iterations):
        product = apply(vector)
        value = float((vector * product).sum())
        size = _lengths(product)
        if not bool(torch.isfinite(size).all()):
            raise NumericsError(
                "a product with the curvature is NaN or infinite.",
                fix='look for extreme activations, or use precision="float64".',
            )
        if float(size) == 0.0:
            return 0.0
        vector = product / size[:, None]
    return value


def lanczos(
    apply: Apply,
    start: Callable[[int], Float[Tensor, "one param"]],
    *,
    steps: int,
    rank: int,
    told: Told = nothing,
) -> Pairs:
    """The largest eigenpairs by Lanczos iteration with full reorthogonalisation.

    Cost: one product per step, and ``2 steps^2 param`` multiplications; memory ``steps`` vectors.

    Args:
        apply: Products with a symmetric matrix.
        start: A random vector for every number; a further one is asked for where the Krylov space closes, so that
            repeated eigenvalues are found too.
        steps: Dimension of the Krylov space; no more than there are parameters.
        rank: How many pairs to keep; those with eigenvalues that are not positive are dropped.
        told: Called once per step.

    Source: Schioppa et al. (2021), section 3.2.
    """
    width = start(0).shape[1]
    steps = min(steps, width)
    basis = start(0).new_zeros(steps, width)
    diagonal, beside = basis.new_zeros(steps), basis.new_zeros(max(0, steps - 1))
    draws, done = 1, steps
    basis[0] = start(0)[0] / start(0).norm()
    largest = 0.0
    for k in range(steps):
        product = apply(basis[k : k + 1])[0]
        diagonal[k] = product @ basis[k]
        told()
        if k + 1 == steps:
            break
        rest = _orthogonal(product, basis[: k + 1])
        length = float(rest.norm())
        largest = max(largest, float(diagonal[k].abs()), length)
        if length <= 10 * torch.finfo(basis.dtype).eps * largest * width**0.5:
            fresh = start(draws)[0]
            draws += 1
            rest, length = _orthogonal(fresh, basis[: k + 1]), 0.0
            if float(rest.norm()) <= 1e-6 * float(fresh.norm()):
                done = k + 1
                break
        beside[k] = length
        basis[k + 1] = rest / rest.norm()
    matrix = torch.diag(diagonal[:done])
    if done > 1:
        matrix += torch.diag(beside[: done - 1], 1) + torch.diag(beside[: done - 1], -1)
    values, vectors = torch.linalg.eigh(matrix)
    keep = torch.nonzero(values > 0).flatten().flip(0)[:rank]
    return Pairs(values[keep], vectors[:, keep].T @ basis[:done])


def _orthogonal(vector: Tensor, basis: Tensor) -> Tensor:
    for _ in range(2):  # "twice is enough" (Kahan; Parlett 1980)
        vector = vector - (basis @ vector) @ basis
    return vector


def nystrom(apply: Apply, sketch: Float[Tensor, "vector param"]) -> Pairs:
    """Eigenpairs of the Nyström approximation ``(A S)(S^T A S)^+ (A S)^T``, never larger than A.

    Cost: one product per vector of the sketch, all at once, and ``2 vectors^2 param`` multiplications.

    Args:
        apply: Products with a symmetric, positive semi-definite matrix.
        sketch: Orthonormal rows: random directions, or unit vectors for drawn columns.

    Source: Hataya & Yamada (2023), eq. 6; Frangella, Tropp & Udell (2021), algorithm 2.1.
    """
    columns = apply(sketch)
    core = columns @ sketch.T
    values, vectors = torch.linalg.eigh((core + core.T) / 2)
    # What is below the noise of the products is no curvature; its pseudo-inverse would be noise made large.
    sound = values > 10 * torch.finfo(values.dtype).eps * len(values) * values.abs().max()
    half = (vectors[:, sound] / values[sound].sqrt()).T @ columns
    _, singular, directions = torch.linalg.svd(half, full_matrices=False)
    return Pairs(singular.square(), directions)


def low_rank_solve(
    pairs: Pairs, right: Float[Tensor, "vector param"], shift: float, *, complement: bool
) -> Float[Tensor, "vector param"]:
    """``(V diag(values) V^T + shift I)^{-1} b``; without the complement of V, its part within V alone.

    Args:
        pairs: Eigenpairs.
        right: Right-hand sides.
        shift: Damping and penalty; positive.
        complement: Whether directions outside V, where the curvature is taken for 0, count with ``1 / shift``.
    """
    along = right @ pairs.vectors.T
    inside = (along / (pairs.values + shift)) @ pairs.vectors
    return inside + (right - along @ pairs.vectors) / shift if complement else inside


def _lengths(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=1)
