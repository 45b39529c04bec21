"""A training by the loop of ``torch_training``, step by step and back: what ``gradients.replay`` differentiates.

Forward, a step is the loop's own arithmetic on its own batches under its own random numbers. Back, it is the graph of
the batch gradient, through which all queries' cotangents are pulled at once, and the transposed update of
``torch_adjoint``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from steelyard.errors import ModelError
from steelyard.gradients.replay import Cotangent, Pulled, State
from steelyard.learners.recipes import Single
from steelyard.learners.torch_adjoint import transposed_update
from steelyard.learners.torch_course import Course, legs
from steelyard.learners.torch_steps import new_slots, split, update
from steelyard.learners.torch_training import LossFunction, batch_losses, mean_loss, trainable_parameters

_PULLED_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a training.

    Attributes:
        recipe: Of its stage.
        places: Positions of its batch within ``Course.rows``.
        rate: Learning rate.
        number: Within its stage, from 1.
    """

    recipe: Single
    places: Int[np.ndarray, " place"]
    rate: float
    number: int


class TorchTraining:
    """One training, ready to be run step by step; a class because its module is loaded with state after state.

    Args:
        start: Gives the untrained module; called under the seed.
        loss: ``(model, batch) -> [batch]``.
        course: Examples, weights, recipe and seed.
        examples: How many examples there are, absent ones included.

    Raises:
        ModelError: If the parameters are of several number types or devices.
    """

    def __init__(
        self, start: Callable[[], nn.Module], loss: LossFunction, course: Course, examples: int
    ) -> None:
        self._loss, self._course, self._examples = loss, course, examples
        self._plan = tuple(_steps(course))
        self._device = course.table.device
        with self._random(None):
            torch.default_generator.manual_seed(course.seed)
            if self._device.type == "cuda":
                torch.cuda.manual_seed(course.seed)
            self._model = start().train()
            random = self._random_state()
        self._parameters = trainable_parameters(self._model)
        if len({(p.dtype, p.device) for p in self._parameters.values()}) > 1:
            raise ModelError(
                "the trained parameters are of several number types or on several devices, so a training cannot "
                "be replayed.",
                fix="move the model to one number type and device, or use source or ekfac.",
            )
        self._values = torch.cat([p.detach().reshape(-1) for p in self._parameters.values()])
        self._first = State(self._values.clone(), (), random)
        for parameter, piece in zip(
            self._parameters.values(), split(self._values, self._parameters).values(), strict=True
        ):
            parameter.data = piece
        self._buffers = {name: value.clone() for name, value in self._model.named_buffers()}
        self._saved = 0

    @property
    def steps(self) -> int:
        """How many steps it takes."""
        return len(self._plan)

    @property
    def examples(self) -> int:
        """How many examples there are, absent ones included."""
        return self._examples

    @property
    def visits(self) -> int:
        """How many examples all its batches hold together."""
        return sum(len(step.places) for step in self._plan)

    @property
    def names(self) -> tuple[str, ...]:
        """Trained parameters, in the order of the flat vectors."""
        return tuple(self._parameters)

    def begin(self) -> State:
        """The state before the first step."""
        return self._first

    def advance(self, state: State, step: int) -> State:
        """The state after a step.

        Raises:
            ModelError: If a parameter gets no gradient, or the step changes a buffer such as a running mean.
        """
        plan = self._plan[step]
        with self._at(state):
            mean = mean_loss(self._model, self._loss, self._course, plan.places, self._batch(plan))
            gradient = self._flat(torch.autograd.grad(mean, self._list, allow_unused=True))
            random = self._random_state()
        if step == 0:
            self._check_buffers()
        values, slots = state.values.clone(), self._slots(state, plan, copy=True)
        update(plan.recipe, values, gradient, slots, rate=plan.rate, step=plan.number)
        return State(values, slots, random)

    def batch_of(self, step: int) -> tuple[Int[np.ndarray, " row"], float]:
        """Rows of the examples in a step's batch, and its learning rate."""
        plan = self._plan[step]
        return self._course.rows[plan.places], plan.rate

    def ask(self, state: State, question: Callable[[nn.Module], Tensor]) -> Tensor:
        """What the module says at a state, in evaluation mode and without gradients."""
        with self._at(state), torch.no_grad():
            self._model.eval()
            try:
                return question(self._model)
            finally:
                self._model.train()

    def end(self, values: Float[Tensor, "query param"]) -> Cotangent:
        """The cotangent at the final state, from the gradients of the measurements."""
        values = values.to(self._values)
        return Cotangent(values, new_slots(self._plan[-1].recipe, values))

    def pull_back(self, state: State, step: int, cotangent: Cotangent) -> Pulled:
        """The cotangent before a step, and the derivatives in the weights of its batch.

        The batch gradient is a function of parameters and weights; pulling a cotangent through it gives the
        Hessian-vector product and every example's dot product with it in one pass.
        """
        plan = self._plan[step]
        with self._at(state), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            weights = self._weights(plan.places).requires_grad_()
            with self._counting():
                losses = batch_losses(self._model, self._loss, self._batch(plan), len(plan.places))
                mean = (weights * losses).sum() / len(plan.places)
            gradients = torch.autograd.grad(mean, self._list, create_graph=True, allow_unused=True)
            flat = self._flat(gradients)
            slots = self._slots(state, plan, copy=False)
            through, before = transposed_update(
                plan.recipe, state.values, flat, slots, cotangent, rate=plan.rate, step=plan.number
            )
            product, by_weight = self._pull(gradients, weights, through)
        values = before.values.add_(product)
        if plan.number == 1:  # a stage begins with a new optimiser, whatever the last one remembered
            slots = new_slots(self._plan[step - 1].recipe, values) if step else ()
            before = Cotangent(values, slots)
        return Pulled(before, self._course.rows[plan.places], by_weight)

    @property
    def _list(self) -> list[nn.Parameter]:
        return list(self._parameters.values())

    def _pull(
        self, gradients: tuple[Tensor, ...], weights: Tensor, through: Float[Tensor, "query param"]
    ) -> tuple[Float[Tensor, "query param"], Float[Tensor, "query row"]]:
        inputs = (*self._parameters.values(), weights)
        sizes = [p.numel() for p in self._parameters.values()]

        def pull(vector: Tensor) -> tuple[Tensor, Tensor]:
            pieces = [piece.view_as(p) for piece, p in zip(vector.split(sizes), self._list, strict=True)]
            found = torch.autograd.grad(gradients, inputs, pieces, retain_graph=True, materialize_grads=True)
            return torch.cat([part.reshape(-1) for part in found[:-1]]), found[-1]

        # The graph of a gradient holds about three times what its forward pass saved; so does its transpose.
        bytes_each = 6 * self._saved + 4 * self._values.nbytes
        chunk = max(1, min(len(through), _PULLED_BYTES // max(1, bytes_each)))
        values, by_weight = torch.func.vmap(pull, chunk_size=chunk, randomness="same")(through)
        return values, by_weight

    def _batch(self, plan: Step) -> dict[str, Tensor]:
        return dict(self._course.table.batch(self._course.rows[plan.places]))

    def _weights(self, places: np.ndarray) -> Tensor:
        if self._course.weights is None:
            return torch.ones(len(places), dtype=self._values.dtype, device=self._values.device)
        return self._course.weights[torch.from_numpy(places).to(self._device)].clone()

    def _slots(self, state: State, plan: Step, *, copy: bool) -> tuple[Tensor, ...]:
        if plan.number == 1:
            return new_slots(plan.recipe, state.values)
        return tuple(slot.clone() for slot in state.slots) if copy else state.slots

    def _flat(self, gradients: tuple[Tensor | None, ...]) -> Tensor:
        pieces: list[Tensor] = []
        for name, gradient in zip(self._parameters, gradients, strict=True):
            if gradient is None or gradient.is_sparse:
                what = "a sparse gradient" if gradient is not None else "no gradient"
                raise ModelError(
                    f"{name} gets {what} in some step, where torch.optim does something else than a plain step.",
                    fix="freeze it (requires_grad_(False)) if it is unused; use sparse=False; or use source.",
                )
            pieces.append(gradient.detach().reshape(-1))
        return torch.cat(pieces)

    def _check_buffers(self) -> None:
        for name, value in self._model.named_buffers():
            if not torch.equal(value, self._buffers[name]):
                raise ModelError(
                    f"training changes the buffer {name}, as batch normalisation does with its running means; "
                    "derivatives through it are not followed.",
                    fix="use GroupNorm or LayerNorm, or source or ekfac.",
                )

    @contextmanager
    def _at(self, state: State) -> Iterator[None]:
        """The module with the parameters and random numbers of a state."""
        with torch.no_grad():
            self._values.copy_(state.values)
        with self._random(state.random), torch.inference_mode(mode=False), torch.enable_grad():
            yield

    @contextmanager
    def _random(self, state: tuple[Tensor, ...] | None) -> Iterator[None]:
        cuda = self._device.type == "cuda"
        with torch.random.fork_rng(devices=[self._device] if cuda else []):
            if state is not None:
                torch.set_rng_state(state[0])
                if cuda:
                    torch.cuda.set_rng_state(state[1], self._device)
            yield

    def _random_state(self) -> tuple[Tensor, ...]:
        if self._device.type == "cuda":
            return torch.get_rng_state(), torch.cuda.get_rng_state(self._device)
        return (torch.get_rng_state(),)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Count once what a forward pass saves, to choose how many queries go through a graph at once."""
        if self._saved:
            yield
            return

        def count(tensor: Tensor) -> Tensor:
            self._saved += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            yield


def _steps(course: Course) -> Iterator[Step]:
    for leg in legs(course):
        number = 0
        for epoch in range(leg.recipe.epochs):
            order = leg.order(epoch, course.seed)
            for begin in range(0, len(order), leg.size):
                rate = float(leg.rates[number])
                number += 1
                yield Step(leg.recipe, order[begin : begin + leg.size], rate, number)
