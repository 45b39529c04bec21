"""Exact derivatives of queries' measurements in the weights of training examples, back through a whole training.

A training is a chain of states s_0, s_1, ..., s_T (parameters and what the optimiser remembers), each a function of
the one before and of the weights of one batch. Reverse-mode differentiation needs the states in reverse order: a
forward run keeps every k-th, and each stretch between two is run again on the way back (Griewank & Walther 2000;
with k = sqrt(T) that is two square roots of T states in memory and one more training in time). All queries go back
together: one graph of the gradient per step, through which their cotangents are pulled in one vectorised pass.

Sources: Engstrom et al. (2025), "Optimizing ML Training with Metagradient Descent", arXiv:2503.13751, section
2.3 (REPLAY) and definition 2 with eq. 6 (metasmoothness); Ilyas & Engstrom (2025), "MAGIC: Near-Optimal
Data Attribution for Deep Learning", arXiv:2504.16430, which uses it with data weights as the metaparameters.

Deviations: states are kept at even distances instead of in a lazy k-ary tree (one recomputation instead of
log_k T); many queries share a pass; the update's transpose is written out, not traced.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from steelyard.errors import NumericsError


@dataclass(frozen=True, eq=False)
class State:
    """All that the rest of a training depends on, before one of its steps.

    Attributes:
        values: Parameters.
        slots: What the optimiser remembers: nothing, a velocity, or two moments.
        random: States of torch's generators.
    """

    values: Float[Tensor, " param"]
    slots: tuple[Tensor, ...]
    random: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Memory of the state."""
        return sum(tensor.nbytes for tensor in (self.values, *self.slots, *self.random))


@dataclass(frozen=True, eq=False)
class Cotangent:
    """Derivatives of the queries' measurements in a state.

    Attributes:
        values: In the parameters.
        slots: In what the optimiser remembers, each ``[query, param]``.
    """

    values: Float[Tensor, "query param"]
    slots: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Pulled:
    """What one step passes back.

    Attributes:
        cotangent: At the state before the step.
        rows: Examples of the batch, as positions among all examples.
        weights: Derivatives in their weights, by way of this step.
    """

    cotangent: Cotangent
    rows: Int[np.ndarray, " row"]
    weights: Float[Tensor, "query row"]


@runtime_checkable
class Training(Protocol):
    """A training that can be run again from any state, and back; ``learners.torch_replay`` makes one."""

    @property
    def steps(self) -> int:
        """How many steps it takes."""
        ...

    @property
    def examples(self) -> int:
        """How many examples there are, absent ones included."""
        ...

    @property
    def visits(self) -> int:
        """How many examples all its batches hold together."""
        ...

    def begin(self) -> State:
        """The state before the first step."""
        ...

    def advance(self, state: State, step: int) -> State:
        """The state after a step, by the arithmetic of the training itself."""
        ...

    def end(self, values: Float[Tensor, "query param"]) -> Cotangent:
        """The cotangent at the final state, from the gradients of the measurements."""
        ...

    def pull_back(self, state: State, step: int, cotangent: Cotangent) -> Pulled:
        """The cotangent before a step, from the state before it and the cotangent after it."""
        ...


@dataclass(frozen=True, eq=False)
class Recording:
    """A training that was run forward.

    Attributes:
        states: Every ``spacing``-th state, from the first.
        final: The last state.
        spacing: Steps between kept states.
    """

    states: tuple[State, ...]
    final: State
    spacing: int


_KEPT_BYTES = 2**29


def spacing_for(steps: int, state_bytes: int, budget: int = _KEPT_BYTES) -> int:
    """Steps between kept states: 1 where all states fit into the budget of bytes, else about sqrt(steps).

    Example:
        >>> spacing_for(100, state_bytes=10), spacing_for(100, state_bytes=10**9)
        (1, 10)
    """
    return 1 if steps * state_bytes <= budget else max(1, math.isqrt(steps - 1) + 1)


def record(training: Training, *, spacing: int | None = None) -> Recording:
    """Run a training forward and keep every ``spacing``-th state.

    Cost: one fit. Memory: ``steps / spacing`` states.

    Args:
        training: What to run.
        spacing: Steps between kept states; chosen from 512 MiB if None.

    Raises:
        NumericsError: If the parameters stop being finite; names the first kept state where they are not.
    """
    state = training.begin()
    kept: list[State] = []
    for step in range(training.steps):
        if spacing is None and step == 1:  # the first step made the optimiser's memory, which counts
            spacing = spacing_for(training.steps, state.nbytes)
        if step % (spacing or 1) == 0:
            kept.append(state)
        state = training.advance(state, step)
    if not bool(torch.isfinite(state.values).all()):
        raise NumericsError(
            f"the replayed parameters are NaN or infinite after {training.steps} steps.",
            fix="lower the learning rate or warm it up.",
        )
    return Recording(tuple(kept), state, spacing or 1)


def metagradients(
    training: Training,
    recording: Recording,
    gradients: Float[Tensor, "query param"],
    advance: Callable[[int], None] = lambda steps: None,
) -> Float64[np.ndarray, "query example"]:
    """Derivative of every query's measurement in the weight of every training example.

    Cost: per step one forward and backward pass that keeps its graph, one more where the state was not kept, and per
    query one pull through that graph (twice a gradient at most, a quarter for small networks, whose queries share
    matrix products). Memory: ``3 to 6 x queries x parameters`` numbers, and the states.

    Args:
        training: What to differentiate.
        recording: Its forward run, from :func:`record`.
        gradients: Of each query's measurement in the final parameters.
        advance: Told how many steps were finished.

    Returns:
        In the measurement's unit per unit of weight; batches stay divided by their size, as in training.

    Raises:
        NumericsError: If a derivative is not finite, naming the step.

    Source: Engstrom et al. (2025), arXiv:2503.13751, section 2.3.
    """
    cotangent = training.end(gradients)
    total = np.zeros((len(gradients), training.examples))
    for number in reversed(range(len(recording.states))):
        first = number * recording.spacing
        last = min(first + recording.spacing, training.steps)
        stretch = [recording.states[number]]
        for step in range(first, last - 1):
            stretch.append(training.advance(stretch[-1], step))
        for step in reversed(range(first, last)):
            pulled = training.pull_back(stretch.pop(), step, cotangent)
            cotangent = pulled.cotangent
            if not bool(torch.isfinite(pulled.weights).all()):
                raise NumericsError(
                    f"the derivative through step {step + 1} of {training.steps} is NaN or infinite: the training "
                    "amplifies changes without bound.",
                    fix="lower the learning rate, warm it up, or use source or ekfac.",
                )
            # A batch holds every example once at most, so no index occurs twice.
            total[:, pulled.rows] += pulled.weights.double().cpu().numpy()
            advance(1)
    return total
