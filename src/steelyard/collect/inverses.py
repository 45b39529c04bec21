"""Query sides with the inverse of the damped curvature applied, one function per way of inverting it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from steelyard.collect.gradients import Fitted
from steelyard.collect.solving import System, ready, scalar_damping, signed_queries, solve_queries
from steelyard.errors import NumericsError, SettingError
from steelyard.gradients.products import batches_of
from steelyard.gradients.queries import QuerySide
from steelyard.gradients.solvers import (
    Apply,
    Pairs,
    Solution,
    conjugate_gradient,
    lanczos,
    largest_eigenvalue,
    low_rank_solve,
    nystrom,
    stochastic_neumann,
)
from steelyard.run.seeds import generator

_POWER_ITERATIONS = 20
_SAFETY = 1.1
_DOUBLINGS = 6
_SAMPLED_BATCHES = 4


@dataclass(frozen=True, eq=False)
class Inverted:
    """The query side, ready for products, and what was resolved on the way.

    Attributes:
        fitted: The model and its gradients.
        side: Queries with the inverse applied.
        resolved: Plain values for the record.
    """

    fitted: Fitted
    side: QuerySide
    resolved: Mapping[str, Any]


def by_conjugate_gradient(
    system: System, asked: object, *, damping: float | int | str, tolerance: float, iterations: int
) -> Inverted:
    """Solve for every query to a tolerance."""
    value, reason = scalar_damping(system, damping)
    apply = system.damped(value + system.decay)

    def solver(right: Tensor) -> Solution:
        with system.run.progress("conjugate gradient", iterations) as progress:
            return conjugate_gradient(
                apply, right, tolerance=tolerance, iterations=iterations, told=progress.advance
            )

    side, told = solve_queries(system, asked, solver)
    return Inverted(system.fitted, side, _record(system, value, reason) | told)


def by_lissa(  # noqa: PLR0913 - the settings of the method
    system: System,
    asked: object,
    *,
    damping: float | int | str,
    scale: float | int | str,
    iterations: int,
    batch_size: int,
    repeats: int,
) -> Inverted:
    """Solve for every query by Neumann series over minibatches, the same for all queries.

    Raises:
        NumericsError: If the series diverges at a given scale, or at 64 times the automatic one.
        SettingError: If there is no damping and no penalty, or the scale is not positive.
    """
    value, reason = scalar_damping(system, damping)
    shift = positive_shift(system, value)
    if scale != "auto" and (isinstance(scale, str) or scale <= 0):
        raise SettingError(f"scale={scale!r}", fix='give "auto" or a positive number.')
    apply = system.damped(shift)
    top = _largest(system, shift, batch_size)
    first = _SAFETY * top if scale == "auto" else float(scale)
    used: list[float] = []

    def chain(right: Tensor, number: int, factor: float) -> Tensor:
        samples = sampled(system, shift, batch_size, number)
        with system.run.progress("LiSSA", iterations) as progress:
            return stochastic_neumann(
                lambda: next(samples),
                right,
                precondition=lambda vectors: vectors / factor,
                start=right / factor,
                longest=1.001 / shift,
                iterations=iterations,
                told=progress.advance,
            )

    def converged(right: Tensor, doublings: int) -> tuple[Tensor, float]:
        factor = first * 2**doublings
        try:
            return torch.stack([chain(right, number, factor) for number in range(repeats)]).mean(0), factor
        except NumericsError:
            if scale != "auto" or doublings == _DOUBLINGS:
                raise
            return converged(right, doublings + 1)

    def solver(right: Tensor) -> Solution:
        x, factor = converged(right, 0)
        used.append(factor)
        size = right.norm(dim=1).clamp_min(torch.finfo(right.dtype).tiny)
        return Solution(x, (right - apply(x)).norm(dim=1) / size, iterations)

    side, told = solve_queries(system, asked, solver)
    if told["residual_largest"] > 1:
        system.run.note(
            f"LiSSA has not converged: a residual is {told['residual_largest']:.2g} of its right-hand side. "
            "More iterations, larger batches, more damping, or cg."
        )
    facts = {"scale": max(used, default=first), "largest_eigenvalue": top}
    return Inverted(system.fitted, side, _record(system, value, reason) | told | facts)


def by_eigenpairs(  # noqa: PLR0913 - the settings of both methods
    system: System,
    method: Literal["arnoldi", "nystrom"],
    *,
    damping: float | int | str,
    rank: int,
    steps: int,
    start: Literal["gaussian", "columns"],
    complement: bool,
    seed: int,
) -> Inverted:
    """Apply the inverse of a curvature of low rank plus damping; the eigenpairs are kept and serve all queries."""
    value, reason = scalar_damping(system, damping)
    shift = positive_shift(system, value)
    if rank < 1:
        raise SettingError(f"rank={rank}", fix="give a positive number of eigenpairs.")
    key = f"{system.key}/{method}-{rank}-{steps}-{start}-{seed}"
    products = system.damped(0.0)

    def compute() -> dict[str, np.ndarray]:
        with system.run.progress(f"{method} eigenpairs", steps if method == "arnoldi" else rank) as progress:
            if method == "arnoldi":
                found = lanczos(
                    products,
                    lambda number: system.random(number, "arnoldi", str(seed)),
                    steps=steps,
                    rank=rank,
                    told=progress.advance,
                )
            else:
                found = nystrom(products, _sketch(system, rank, start, seed))
        return {"values": found.values.numpy(), "vectors": found.vectors.numpy()}

    kept = system.run.keep(key, compute)
    pairs = Pairs(torch.from_numpy(np.array(kept["values"])), torch.from_numpy(np.array(kept["vectors"])))
    if not len(pairs.values):
        raise NumericsError(
            f"{method}: the curvature has no positive eigenvalue.",
            fix="check that the loss depends on the model.",
        )
    right = signed_queries(system, system.problem.query)
    x = low_rank_solve(pairs, right, shift, complement=complement)
    # One query's residual is one product; every query's would cost more than all the rest.
    left = (right[:1] - system.damped(shift)(x[:1])).norm()
    facts = {
        "pairs": len(pairs.values),
        "largest_eigenvalue": float(pairs.values[0]),
        "smallest_eigenvalue_kept": float(pairs.values[-1]),
        "residual_first_query": float(left / right[0].norm().clamp_min(torch.finfo(right.dtype).tiny)),
    }
    return Inverted(system.fitted, ready(system, x), _record(system, value, reason) | facts)


def positive_shift(system: System, damping: float) -> float:
    """Damping plus penalty.

    Raises:
        SettingError: If both are zero.
    """
    if damping + system.decay <= 0:
        raise SettingError(
            "damping=0, and the training has no penalty, so that the curvature may have no inverse.",
            fix='use damping="auto" or a positive number.',
        )
    return damping + system.decay


def sampled(system: System, shift: float | Tensor, batch_size: int, number: int) -> Iterator[Apply]:
    """Products with the damped curvature of one minibatch after another; the same sequence for the same number."""
    count = len(system.curvature.examples)
    draws = batches_of(count, batch_size, generator(system.problem.seed, "minibatches", number))
    whole = system.damped(shift)
    for rows in draws:
        if len(rows) == count:
            yield whole
            continue
        part = system.curvature.of(rows)

        def apply(vectors: Tensor, part: Apply = part, size: int = len(rows)) -> Tensor:
            system.run.spend(gradients=size * (1 + 4 / 3 * len(vectors)))
            return part(vectors) + shift * vectors

        yield apply


def largest_preconditioned(
    system: System, shift: float | Tensor, precondition: Apply, batch_size: int
) -> float:
    """Largest eigenvalue of the preconditioned damped curvature, over the whole and a few minibatches."""
    draws = sampled(system, shift, batch_size, -1)
    products = [system.damped(shift), *[next(draws) for _ in range(_SAMPLED_BATCHES)]]
    start = system.random(0, "power")

    def composed(apply: Apply) -> Apply:
        return lambda vectors: precondition(apply(vectors))

    return max(largest_eigenvalue(composed(apply), start, _POWER_ITERATIONS) for apply in products)


def _largest(system: System, shift: float, batch_size: int) -> float:
    def compute() -> dict[str, np.ndarray]:
        return {"value": np.array(largest_preconditioned(system, 0.0, lambda v: v, batch_size))}

    key = f"{system.key}/largest-eigenvalue-{batch_size}"
    return float(system.run.keep(key, compute)["value"]) + shift


def _sketch(system: System, rank: int, kind: Literal["gaussian", "columns"], seed: int) -> Tensor:
    size = system.engine.size
    draws = generator(seed, "nystrom", kind)
    dtype = next(system.engine.model.parameters()).dtype
    if kind == "columns":
        chosen = np.sort(draws.permutation(size)[: min(rank, size)])
        return torch.nn.functional.one_hot(torch.from_numpy(chosen), size).to(dtype)
    normal = torch.from_numpy(draws.standard_normal((size, min(rank, size))))
    return torch.linalg.qr(normal).Q.T.contiguous().to(dtype)


def _record(system: System, damping: float, reason: str) -> dict[str, Any]:
    return {**system.resolved, "damping": damping, "damping_reason": reason, "l2": system.decay}
