"""How changes of training inputs change the loss of trusted queries (Koh & Liang 2017, section 2.2)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from steelyard.collect.solving import open_system, ready, scalar_damping, signed_queries
from steelyard.errors import CapabilityError
from steelyard.gradients.solvers import conjugate_gradient
from steelyard.problem import Problem
from steelyard.run import Run

_TOLERANCE = 1e-4
_ITERATIONS = 100


@dataclass(frozen=True, eq=False)
class InputInfluence:
    """What training examples and their inputs do to the mean measurement of the queries.

    Attributes:
        examples: Removing the example makes the queries worse by so much.
        inputs: Derivative of how much worse the queries are in every number of the example's input.
    """

    examples: Float[np.ndarray, " example"]
    inputs: Float[np.ndarray, "row ..."]


def input_influence(
    problem: Problem, run: Run, rows: np.ndarray | None = None, *, method: str, damping: float | int | str
) -> InputInfluence:
    r"""Influence of examples on the mean query, and of the inputs of those in ``rows``.

    With :math:`v = H^{-1} \nabla f` for the mean query, a small change of an input moves the optimum by
    :math:`-H^{-1} \nabla_x \nabla_\theta \ell\, \delta`, hence how much worse the queries are by
    :math:`-\nabla_x (v^T \nabla_\theta \ell) \delta`.

    Cost: products with the curvature until conjugate gradients have converged; two more passes for inputs.

    Args:
        problem: A network with one input column of real numbers.
        run: Where the explained model is kept.
        rows: Whose inputs; all if None.
        method: Who asks, for errors.
        damping: As for ``cg``.

    Raises:
        CapabilityError: If the learner is no network, or its input is not one column of real numbers.
    """
    train = problem.train
    if len(train.inputs) != 1 or np.asarray(train.input()[:1]).dtype.kind != "f":
        raise CapabilityError(
            f"{method} changes inputs that are real numbers; {train.source} has {list(train.inputs)}.",
            fix="use clean with inffeed or label_consensus for other data.",
        )
    system = open_system(problem, run, method=method, curvature="auto", precision="auto")
    value, _ = scalar_damping(system, damping)
    right = signed_queries(system, problem.query).mean(dim=0, keepdim=True)
    found = conjugate_gradient(
        system.damped(value + system.decay),
        right,
        tolerance=_TOLERANCE,
        iterations=_ITERATIONS,
        told=lambda: None,
    )
    engine = system.engine
    values = engine.products(train, ready(system, found.vectors))[:, 0] * train.weights()
    chosen = train if rows is None else train.take(rows)
    vector, count = found.vectors[0], len(system.curvature.examples)
    parameters = [dict(engine.model.named_parameters())[name] for name in engine.names]
    parts = []
    run.spend(gradients=2 * len(chosen))
    for batch in engine.batches(chosen):
        inputs = batch[train.inputs[0]].detach().requires_grad_()
        batch = {**batch, train.inputs[0]: inputs}
        with torch.enable_grad():
            losses = problem.learner.loss_function(engine.model, batch)  # type: ignore[attr-defined]
            slopes = torch.autograd.grad(losses.sum(), parameters, create_graph=True)
            along = torch.cat([slope.flatten() for slope in slopes]) @ vector
            (pull,) = torch.autograd.grad(along, inputs)
        parts.append(-pull.detach().numpy() / count)
    return InputInfluence(np.asarray(values, dtype=np.float64), np.concatenate(parts))
