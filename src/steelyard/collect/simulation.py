"""Recorded runs: which examples each step of a training held, and what the queries measured after it."""

import hashlib
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from steelyard.errors import CapabilityError
from steelyard.gradients.engine import Differentiable
from steelyard.maths.simulation import Course
from steelyard.problem import HasReplay, Problem, require
from steelyard.run import Run

_EVALUATED = 256


@runtime_checkable
class Steps(Protocol):
    """A training that can be gone through step by step and asked after each; ``learners.torch_replay`` makes one."""

    @property
    def steps(self) -> int:
        """How many steps it takes."""
        ...

    def begin(self) -> Any:
        """The state before the first step."""
        ...

    def advance(self, state: Any, step: int) -> Any:
        """The state after a step."""
        ...

    def batch_of(self, step: int) -> tuple[np.ndarray, float]:
        """Rows of the examples in a step's batch, and its learning rate."""
        ...

    def ask(self, state: Any, question: Any) -> Tensor:
        """What the module says at a state."""
        ...


def recorded_run(problem: Problem, run: Run, *, seed: int, method: str) -> Course:
    """One training, with the queries measured before it and after every step; kept in the run folder.

    Cost: one fit, and one forward pass of all queries per step.

    Args:
        problem: Learner, training examples, queries.
        run: Where the record is kept.
        seed: Of initialisation and batch order.
        method: Who asks, for errors.

    Raises:
        CapabilityError: If the training cannot be gone through step by step.
    """
    learner = require(problem.learner, HasReplay, method=method, instead="leave_one_out or memorization")
    facts = "|".join((*sorted(problem.checksums().values()), str(seed)))

    def compute() -> dict[str, np.ndarray]:
        training = learner.replay(problem.train, seed=seed)
        if not (isinstance(training, Steps) and isinstance(problem.learner, Differentiable)):
            raise CapabilityError(f"{method} needs a network that is trained here.", fix="use leave_one_out.")
        own: Differentiable = problem.learner

        def measure(model: nn.Module) -> Tensor:
            batches = own.batches(problem.query, _EVALUATED)
            return torch.cat([own.measurement_function(model, batch) for batch in batches]).double().cpu()

        state = training.begin()
        measured = [training.ask(state, measure).numpy()]
        plans = [training.batch_of(step) for step in range(training.steps)]
        for step in range(training.steps):
            state = training.advance(state, step)
            measured.append(training.ask(state, measure).numpy())
        run.spend(fits=1, gradients=(training.steps + 1) * len(problem.query) / 3)
        return {
            "rows": np.concatenate([rows for rows, _ in plans]),
            "ends": np.cumsum([len(rows) for rows, _ in plans]),
            "rates": np.array([rate for _, rate in plans]),
            "measured": np.stack(measured),
        }

    key = f"simulation/{hashlib.sha256(facts.encode()).hexdigest()[:24]}"
    kept = run.keep(key, compute)
    batches = tuple(np.split(np.asarray(kept["rows"]), np.asarray(kept["ends"])[:-1]))
    return Course(batches, np.asarray(kept["rates"]), np.asarray(kept["measured"]))
