"""What one small step on some training examples does to queries: the cheapest intervention on a trained model."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from steelyard.collect.gradients import gradients_at
from steelyard.errors import CapabilityError, NumericsError
from steelyard.gradients.engine import Differentiable, TorchGradients
from steelyard.problem import HasGradients, Problem, require
from steelyard.records import Examples
from steelyard.run import Run


def step_gains(
    problem: Problem, model: Any, groups: Sequence[np.ndarray], length: float, run: Run
) -> Float[np.ndarray, "group query"]:
    """How much better each query is after one gradient step on each group of training examples.

    Every step starts at the same model, goes along the negative gradient of the group's summed loss and is as long
    as ``length`` times the trained parameters: groups differ in the direction of the step alone.

    Cost: one gradient per example and one forward pass per query, for each group.

    Args:
        problem: Learner, training examples, queries.
        model: Where to start.
        groups: Rows of training examples.
        length: Length of the step, relative to that of the trained parameters.
        run: Where the outcome of each group is kept.

    Returns:
        Differences in the unit of the measurement, positive = better (a loss fell).

    Raises:
        CapabilityError: If the learner is no network's.
        NumericsError: If a gradient is zero or not finite.
    """
    require(problem.learner, HasGradients, method="a step on training examples", instead="verify.qld")
    engine = gradients_at(problem, model, run).gradients
    learner = problem.learner
    if not (isinstance(engine, TorchGradients) and isinstance(learner, Differentiable)):
        raise CapabilityError(
            f"a step needs the gradients of a network, which {type(learner).__name__} does not have.",
            fix="use verify.by_retraining or verify.qld.",
        )
    sign = -1.0 if problem.learner.measurement.lower_is_better else 1.0
    net, found = engine.model, np.empty((len(groups), len(problem.query)))
    facts = repr((problem.checksums(), problem.seed, length))
    key = f"steps/{hashlib.sha256(facts.encode()).hexdigest()[:16]}"

    def measured() -> dict[str, np.ndarray]:
        run.spend(gradients=len(problem.query) / 3)
        return {"values": _measure(learner, engine, problem.query)}

    before = np.asarray(run.keep(f"{key}/before", measured)["values"])
    with run.progress("steps", len(groups), unit="steps") as progress:
        for i, rows in enumerate(groups):
            name = f"{key}/{hashlib.sha256(np.sort(rows).astype(np.int64).tobytes()).hexdigest()[:16]}"
            kept = run.has(name)

            def moved(rows: np.ndarray = rows) -> dict[str, np.ndarray]:
                part = problem.train.take(np.sort(rows))
                run.spend(gradients=len(part))
                with _stepped(net, _gradient(learner, engine, part), length):
                    return measured()

            found[i] = sign * (np.asarray(run.keep(name, moved)["values"]) - before)
            progress.advance(1, kept=kept)
    return found


def _parameters(net: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


def _gradient(learner: Differentiable, engine: TorchGradients, part: Examples) -> list[Tensor]:
    """The gradient of the summed training loss."""
    parameters = _parameters(engine.model)
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for batch in engine.batches(part):
        with torch.enable_grad():
            loss = learner.loss_function(engine.model, batch).sum()
        for sums, grad in zip(total, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            if grad is not None:
                sums.add_(grad)
    return total


@contextmanager
def _stepped(net: nn.Module, gradient: list[Tensor], length: float) -> Iterator[None]:
    """The model after the step within the context, and as it was afterwards, to the bit."""
    parameters = _parameters(net)
    size = _norm(gradient)
    if not (np.isfinite(size) and size > 0):
        raise NumericsError(
            f"the gradient of a group of training examples has length {size}, so there is no step.",
            fix="look at these examples for extreme values, or leave out examples that nothing is learned from.",
        )
    rate = length * _norm(parameters) / size
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, grad in zip(parameters, gradient, strict=True):
                parameter.sub_(rate * grad)
        yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(parameters, kept, strict=True):
                parameter.copy_(values)


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack([tensor.detach().double().square().sum() for tensor in tensors]).sum().sqrt())


def _measure(learner: Differentiable, engine: TorchGradients, queries: Examples) -> np.ndarray:
    with torch.no_grad():
        parts = [learner.measurement_function(engine.model, batch) for batch in engine.batches(queries)]
    return torch.cat(parts).double().cpu().numpy()
