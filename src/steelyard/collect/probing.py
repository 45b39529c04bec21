"""Local probing: what one step of training on an example, or on several in turn, does to the queries."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steelyard.collect.gradients import gradients_at
from steelyard.errors import CapabilityError, NumericsError
from steelyard.gradients.engine import Differentiable, TorchGradients
from steelyard.problem import HasGradients, Problem, require
from steelyard.records import Examples
from steelyard.run import Run


@dataclass(frozen=True, eq=False)
class Probe:
    """A network that can be stepped and put back.

    Attributes:
        learner: Knows loss and measurement.
        engine: Knows the module and how to batch.
        queries: What is measured after each step.
        sign: +1 where a higher measurement is better.
        rate: Learning rate of a step.
        run: Whose meter counts.
    """

    learner: Differentiable
    engine: TorchGradients
    queries: Examples
    sign: float
    rate: float
    run: Run
    _start: list[np.ndarray] = field(default_factory=list)

    def gains(self, examples: Examples) -> Float[np.ndarray, "step query"]:
        """How much better the queries are after each of the steps, taken in turn, one example each; then all put back.

        Raises:
            NumericsError: If a measurement is not finite after a step.
        """
        parameters = [p for p in self.engine.model.parameters() if p.requires_grad]
        kept = [p.detach().clone() for p in parameters]
        measured = [self._measured_at_start()]
        try:
            for row in range(len(examples)):
                batch = next(iter(self.engine.batches(examples.take(slice(row, row + 1)))))
                with torch.enable_grad():
                    loss = self.learner.loss_function(self.engine.model, batch).sum()
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                with torch.no_grad():
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        if gradient is not None:
                            parameter.sub_(self.rate * gradient)
                measured.append(self._measure())
        finally:
            with torch.no_grad():
                for parameter, values in zip(parameters, kept, strict=True):
                    parameter.copy_(values)
        self.run.spend(gradients=len(examples) * (1 + len(self.queries) / 3))
        found = self.sign * np.diff(np.stack(measured), axis=0)
        bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(bad):
            raise NumericsError(
                f"a measurement is not finite after a step on example {str(examples.ids[bad[0]])!r}.",
                fix="lower rate=, or look at this example for extreme values.",
            )
        return found

    def _measured_at_start(self) -> np.ndarray:
        # Every group starts at the same model, which is put back to the bit.
        if not self._start:
            self._start.append(self._measure())
            self.run.spend(gradients=len(self.queries) / 3)
        return self._start[0]

    def _measure(self) -> np.ndarray:
        with torch.no_grad():
            parts: list[Tensor] = [
                self.learner.measurement_function(self.engine.model, batch)
                for batch in self.engine.batches(self.queries)
            ]
        return torch.cat(parts).double().cpu().numpy()


def probe_groups(  # noqa: PLR0913 - a problem, where to start, on what, how far
    problem: Problem, model: Any, groups: Sequence[np.ndarray], run: Run, *, rate: float | int, method: str
) -> Float[np.ndarray, "group member query"]:
    """What each step of a short training on a group adds to every query; every group starts at the same model.

    Cost: per step one gradient and one forward pass of all queries. Each hundred groups are kept in the run folder.

    Args:
        problem: Learner, training examples, queries.
        model: Where to start.
        groups: Rows of training examples in order of training, equally many in each.
        run: Where gains are kept.
        rate: Learning rate of a step, whose gradient is that of one example's loss.
        method: Who asks, for errors.

    Returns:
        Gains in the unit of the measurement; positive = the query became better (a loss fell).

    Raises:
        CapabilityError: If the learner is no network's.
        NumericsError: If a measurement is not finite after a step.
    """
    require(problem.learner, HasGradients, method=method, instead="leave_one_out or memorization")
    engine, learner = gradients_at(problem, model, run).gradients, problem.learner
    if not (isinstance(engine, TorchGradients) and isinstance(learner, Differentiable)):
        raise CapabilityError(
            f"{method} takes steps of training, which needs a network; {type(learner).__name__} is none.",
            fix="use leave_one_out, memorization or gauss_newton.",
        )
    sign = -1.0 if problem.learner.measurement.lower_is_better else 1.0
    probe = Probe(learner, engine, problem.query, sign, float(rate), run)
    state = hashlib.sha256()
    for parameter in engine.model.parameters():
        state.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    parts: list[np.ndarray] = []
    with run.progress("probing", len(groups), unit="groups") as progress:
        for start in range(0, len(groups), 100):
            block = groups[start : start + 100]
            facts = (problem.checksums(), float(rate), state.hexdigest(), [rows.tolist() for rows in block])
            key = f"probing/{hashlib.sha256(repr(facts).encode()).hexdigest()[:24]}"

            def compute(block: Sequence[np.ndarray] = block) -> dict[str, np.ndarray]:
                return {"values": np.stack([probe.gains(problem.train.take(rows)) for rows in block])}

            parts.append(np.asarray(run.keep(key, compute)["values"]))
            progress.advance(len(block))
    return np.concatenate(parts)
