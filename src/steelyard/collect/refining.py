"""Query sides with the exact damped Gauss-Newton matrix inverted, preconditioned by EK-FAC."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from steelyard.collect.curvature import FittedBlocks, kronecker_arrays
from steelyard.collect.held_out import held_out_damping
from steelyard.collect.inverses import Inverted, largest_preconditioned, sampled
from steelyard.collect.solving import System, open_system, scalar_damping, solve_queries
from steelyard.errors import SettingError
from steelyard.gradients.damping import resolve_damping
from steelyard.gradients.fisher import Fisher
from steelyard.gradients.kronecker import KroneckerMetric
from steelyard.gradients.products import narrow, with_metric
from steelyard.gradients.solvers import Apply, Solution, conjugate_gradient, stochastic_neumann
from steelyard.problem import Problem
from steelyard.run import Run

_SAFETY = 1.1
_LONGEST = 10.0


@dataclass(frozen=True)
class Refinement:
    """How EK-FAC is refined; the fields are those of ``score.EKFACCG``.

    Attributes:
        method: ``"cg"`` or ``"astra"``.
        scope: ``"model"`` or ``"layers"``.
        damping: A rule or a number.
        fisher: Of the preconditioner.
        iterations: At most so many.
        tolerance: Relative residual to stop at.
        batch_size: Examples per iteration of ASTRA.
    """

    method: Literal["cg", "astra"]
    scope: Literal["model", "layers"]
    damping: float | int | str
    fisher: Fisher | Literal["auto"]
    iterations: int
    tolerance: float
    batch_size: int


@dataclass(frozen=True, eq=False)
class _Damped:
    """A damping in the three forms that are needed.

    Attributes:
        blocks: Per block, for EK-FAC.
        shift: Per parameter, penalty included, for the exact matrix.
        told: For the record.
    """

    blocks: Mapping[str, float]
    shift: Tensor
    told: Mapping[str, Any]


def refined(
    problem: Problem,
    run: Run,
    asked: object,
    how: Refinement,
    *,
    precision: Literal["auto", "model", "float64"],
) -> Inverted:
    """EK-FAC's solution for every query, refined.

    Args:
        problem: Learner, training examples, queries.
        run: Where factors and solutions are kept.
        asked: The method, whose settings name what is kept.
        how: Its settings.
        precision: Number type that is computed in.

    Raises:
        CapabilityError: If the learner has no layers, or the loss no known curvature in the outputs.
        SettingError: If a setting has no meaning.
        NumericsError: If the iteration diverges.
    """
    if how.iterations < 0 or how.batch_size < 1:
        raise SettingError(
            f"iterations={how.iterations}, batch_size={how.batch_size}",
            fix="give iterations from 0 and a positive batch size.",
        )
    system = open_system(problem, run, method="EKFACCG", curvature="auto", precision=precision)
    system = _of_layers(system) if how.scope == "layers" else system
    blocks = kronecker_arrays(problem, system.fitted, run, kind="ekfac", fisher=how.fisher)
    damping = _damping(system, blocks, how.damping)
    metric = _metric(system, blocks, damping.blocks)

    def precondition(vectors: Tensor) -> Tensor:
        return with_metric(metric, vectors, system.positions)

    solver = _astra if how.method == "astra" else _cg
    side, told = solve_queries(system, asked, solver(system, how, damping.shift, precondition))
    fisher = {f"preconditioner_{name}": value for name, value in blocks.resolved.items()}
    resolved = {**system.resolved, **fisher, **damping.told, "l2": system.decay, "scope": how.scope, **told}
    return Inverted(system.fitted, side, resolved)


def _of_layers(system: System) -> System:
    """Without what couples blocks; needs gradients, so one backward pass per output or drawn labels."""
    curvature = system.curvature
    fisher = curvature.fisher
    if curvature.kind == "gauss_newton":
        fisher = "exact" if narrow(curvature) else "sampled"
    layers = tuple(place.flatten() for place in system.positions.values())
    parts = replace(curvature, kind="fisher", fisher=fisher, layers=layers)
    resolved = {**system.resolved, "curvature": f"diagonal blocks from {fisher} gradients"}
    return replace(system, curvature=parts, key=f"{system.key}-layers", resolved=resolved)


def _damping(system: System, blocks: FittedBlocks, damping: float | int | str) -> _Damped:
    if damping == "blocks":
        per_block, reason = resolve_damping(blocks.blocks, "auto")
        shift = torch.full((system.engine.size,), 1.0, dtype=next(system.engine.model.parameters()).dtype)
        for name, place in system.positions.items():
            # A parameter that no block of the preconditioner covers has no gradient either.
            shift[place.flatten()] = per_block.get(name, 1.0) + system.decay
        return _Damped(per_block, shift, {"damping": per_block, "damping_reason": reason})
    if damping == "heldout":

        def preconditioner(value: float) -> Apply:
            metric = _metric(system, blocks, dict.fromkeys(blocks.blocks, value))
            return lambda vectors: with_metric(metric, vectors, system.positions)

        value, reason = held_out_damping(system, preconditioner)
    else:
        value, reason = scalar_damping(system, damping)
    shift = torch.full((system.engine.size,), value + system.decay).to(next(system.engine.model.parameters()))
    return _Damped(dict.fromkeys(blocks.blocks, value), shift, {"damping": value, "damping_reason": reason})


def _metric(system: System, blocks: FittedBlocks, damping: Mapping[str, float]) -> KroneckerMetric:
    return KroneckerMetric(blocks.blocks, damping, system.decay, float(len(system.curvature.examples)))


def _cg(system: System, how: Refinement, shift: Tensor, precondition: Apply) -> Callable[[Tensor], Solution]:
    apply = system.damped(shift)

    def solver(right: Tensor) -> Solution:
        with system.run.progress("refining EK-FAC", how.iterations) as progress:
            return conjugate_gradient(
                apply,
                right,
                precondition=precondition,
                tolerance=how.tolerance,
                iterations=how.iterations,
                told=progress.advance,
            )

    return solver


def _astra(
    system: System, how: Refinement, shift: Tensor, precondition: Apply
) -> Callable[[Tensor], Solution]:
    apply = system.damped(shift)
    top = largest_preconditioned(system, shift, precondition, how.batch_size)
    step = min(1.0, 1.0 / (_SAFETY * top)) if top > 0 else 1.0
    longest = _LONGEST / float(shift.min())

    def solver(right: Tensor) -> Solution:
        samples = sampled(system, shift, how.batch_size, 0)
        with system.run.progress("refining EK-FAC", how.iterations) as progress:
            x = stochastic_neumann(
                lambda: next(samples),
                right,
                precondition=lambda vectors: step * precondition(vectors),
                start=precondition(right),
                longest=longest,
                iterations=how.iterations,
                averaged=max(1, how.iterations // 2),
                told=progress.advance,
            )
        size = right.norm(dim=1).clamp_min(torch.finfo(right.dtype).tiny)
        return Solution(x, (right - apply(x)).norm(dim=1) / size, how.iterations)

    return solver
