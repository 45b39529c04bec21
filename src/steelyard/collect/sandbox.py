"""A network at a fitted state that can be moved along gradients, asked, and put back, to try steps out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from steelyard.collect.gradients import gradients_at
from steelyard.errors import CapabilityError, NumericsError
from steelyard.gradients.engine import Differentiable, TorchGradients
from steelyard.gradients.fallback import Batch
from steelyard.problem import HasGradients, Problem, require
from steelyard.records import Examples
from steelyard.run import Run

Vector = Float[Tensor, " param"]
Optimiser = Literal["adam", "sgd"]


class Sandbox:
    """The network of a problem at a fitted state, in evaluation mode.

    Args:
        problem: Whose learner it is.
        model: Where to start.
        run: Whose meter counts.
        method: Who asks, for errors.

    Raises:
        CapabilityError: If the learner is no network's.
    """

    def __init__(self, problem: Problem, model: Any, run: Run, *, method: str) -> None:
        instead = "group_influence or leave_one_out"
        require(problem.learner, HasGradients, method=method, instead=instead)
        engine, learner = gradients_at(problem, model, run).gradients, problem.learner
        if not (isinstance(engine, TorchGradients) and isinstance(learner, Differentiable)):
            raise CapabilityError(
                f"{method} takes steps of training, which needs a network; {type(learner).__name__} is none.",
                fix=f"use {instead}.",
            )
        self._learner, self._engine, self._run = learner, engine, run
        self._parameters = [p for p in engine.model.parameters() if p.requires_grad]
        self.sign = -1.0 if problem.learner.measurement.lower_is_better else 1.0

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """The network within the context may be moved; afterwards it is as before, to the bit."""
        kept = [p.detach().clone() for p in self._parameters]
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, values in zip(self._parameters, kept, strict=True):
                    parameter.copy_(values)

    def losses(self, examples: Examples) -> Float[np.ndarray, " example"]:
        """Training losses, unweighted. Cost: a forward pass."""
        return self._ask(examples, of="loss")

    def measured(self, queries: Examples) -> Float[np.ndarray, " query"]:
        """Measurements. Cost: a forward pass."""
        return self._ask(queries, of="measurement")

    def gradient(self, examples: Examples, weights: Float[np.ndarray, " example"] | None = None) -> Vector:
        """Gradient of the weighted sum of training losses; of their mean without weights. Cost: one per example."""
        shares = np.full(len(examples), 1.0 / len(examples)) if weights is None else weights
        return self._gradient(examples, shares, of="loss")

    def target(self, queries: Examples) -> Vector:
        """Gradient of how bad the queries are on average: of minus the mean measurement where high is good."""
        return self._gradient(queries, np.full(len(queries), -self.sign / len(queries)), of="measurement")

    def along(self, examples: Examples, direction: Vector) -> Float[np.ndarray, " example"]:
        """Derivative of every training loss along a direction. Cost: four gradients per example."""
        self._run.spend(gradients=4 * len(examples))
        pieces = self._split(direction)
        found: list[Tensor] = []
        for batch in self._engine.batches(examples):
            # Fused attention has no second derivative.
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                losses = self._learner.loss_function(self.model, batch)
                shares = torch.ones_like(losses, requires_grad=True)
                sums = torch.autograd.grad(
                    losses, self._parameters, shares, create_graph=True, allow_unused=True
                )
                parts = [(g * v).sum() for g, v in zip(sums, pieces, strict=True) if g is not None]
                # Linear in the shares, so that its derivative by them is exact.
                found.append(torch.autograd.grad(torch.stack(parts).sum(), shares)[0])
        return torch.cat(found).double().cpu().numpy()

    def move(self, direction: Vector, rate: float | int) -> None:
        """Add ``rate`` times the direction to the parameters.

        Raises:
            NumericsError: If a parameter is no longer finite.
        """
        with torch.no_grad():
            for parameter, piece in zip(self._parameters, self._split(direction), strict=True):
                parameter.add_(piece, alpha=float(rate))
        if not all(bool(torch.isfinite(p).all()) for p in self._parameters):
            raise NumericsError("a step made a parameter NaN or infinite.", fix="lower rate=.")

    def unlearn(
        self, examples: Examples, *, epochs: int, rate: float | int, size: int, optimiser: Optimiser
    ) -> None:
        """Go up the mean training loss of the examples, batch by batch in the order of their ids.

        Cost: epochs gradients per example.
        """
        flat = torch.cat([p.detach().reshape(-1) for p in self._parameters])
        stepper = None
        if optimiser == "adam":
            flat.requires_grad_()
            stepper = torch.optim.Adam([flat], lr=float(rate), maximize=True)
        order = np.argsort(examples.ids, kind="stable")
        for _ in range(epochs):
            for start in range(0, len(order), size):
                up = self.gradient(examples.take(order[start : start + size]))
                if stepper is None:
                    self.move(up, rate)
                    continue
                flat.grad = up
                before = flat.detach().clone()
                stepper.step()
                self.move(flat.detach() - before, 1.0)

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self._engine.model

    def _split(self, flat: Vector) -> list[Tensor]:
        sizes = [p.numel() for p in self._parameters]
        return [piece.view_as(p) for piece, p in zip(flat.split(sizes), self._parameters, strict=True)]

    def _function(self, batch: Batch, *, of: Literal["loss", "measurement"]) -> Tensor:
        function = self._learner.loss_function if of == "loss" else self._learner.measurement_function
        return function(self.model, batch)

    def _ask(self, examples: Examples, *, of: Literal["loss", "measurement"]) -> np.ndarray:
        self._run.spend(gradients=len(examples) / 3)
        with torch.no_grad():
            parts = [self._function(batch, of=of) for batch in self._engine.batches(examples)]
        return torch.cat(parts).double().cpu().numpy()

    def _gradient(
        self, examples: Examples, shares: np.ndarray, *, of: Literal["loss", "measurement"]
    ) -> Vector:
        self._run.spend(gradients=len(examples))
        total = torch.cat([torch.zeros_like(p).reshape(-1) for p in self._parameters])
        start = 0
        for batch in self._engine.batches(examples):
            with torch.enable_grad():
                values = self._function(batch, of=of)
                part = torch.from_numpy(shares[start : start + len(values)]).to(values)
                grads = torch.autograd.grad((part * values).sum(), self._parameters, allow_unused=True)
            start += len(values)
            total += torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).reshape(-1)
                    for p, g in zip(self._parameters, grads, strict=True)
                ]
            )
        return total
