"""Dot products of gradients: grad-dot, grad-cos, and TracIn (Pruthi et al. 2020, arXiv:2002.08484)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from steelyard.collect.fits import explained
from steelyard.collect.gradients import (
    Fitted,
    gradients_at,
    open_gradients,
    products_and_lengths,
    split_products,
    training_products,
)
from steelyard.gradients.parts import By, Split
from steelyard.learners.recipes import Adam, AdamW
from steelyard.problem import HasCheckpoints, HasGradients, HasSpans, Problem, require
from steelyard.records import Cost
from steelyard.run import Run
from steelyard.score.driver import MethodCard
from steelyard.score.influence import measured_unit, score_all, whole_queries

_INSTEAD = "leave_one_out, knn_shapley or embedding_cosine"


@dataclass(frozen=True, eq=False)
class Sided:
    """A model's gradients with the query side made ready.

    Attributes:
        fitted: The model and its gradients.
        side: The queries, as ``Gradients.prepare`` gives them.
    """

    fitted: Fitted
    side: Any


def _similarity(method: object, problem: Problem) -> str:
    """A similarity."""
    return "rank"


def _one_gradient_each(method: object, problem: Problem) -> Cost:
    """One gradient per example and query."""
    return Cost(gradients=len(problem.train) + len(problem.query))


def _sided(problem: Problem, run: Run, *, method: str, unit_norm: bool) -> Sided:
    fitted = open_gradients(problem, run, method=method, instead=_INSTEAD)
    run.spend(gradients=len(problem.query))
    return Sided(fitted, fitted.gradients.prepare(problem.query, unit_norm=unit_norm))


@dataclass(frozen=True)
class GradDot:
    """``g_q^T g_i``: the first-order change of the query's measurement under one plain gradient step on i.

    Positive: the step improves the query. ``unit="rank"``: the length of the step is anybody's guess.

    Source: Charpiat et al. (2019), "Input Similarity from the Neural Network Perspective", eq. 1.
    """

    card: ClassVar[MethodCard] = MethodCard(
        paper="Charpiat et al. 2019, Input Similarity from the Neural Network Perspective",
        needs="gradients",
        cost="n + q gradients",
        good_for="a first look in the time of one epoch; large-gradient examples dominate",
    )
    __call__ = score_all
    unit = _similarity
    predict = _one_gradient_each
    queries_at_once = whole_queries

    def prepare(self, problem: Problem, run: Run) -> Sided:
        """Query gradients at the explained model."""
        return _sided(problem, run, method="GradDot", unit_norm=False)

    def score(self, problem: Problem, state: Sided, rows: slice) -> Float[np.ndarray, "row query"]:
        """Dot products of these rows, times their training weights."""
        return training_products(problem, state.fitted, state.side, rows)

    def split(self, problem: Problem, state: Sided, rows: Int[np.ndarray, " row"], by: By) -> Split:
        """Dot products of these rows part by part."""
        return split_products(state.fitted, problem.train.take(rows), state.side, by)


@dataclass(frozen=True)
class GradCos:
    """Cosine between the gradients of query and training example: grad-dot without the lengths.

    Source: Charpiat et al. (2019), "Input Similarity from the Neural Network Perspective", eq. 5.
    """

    card: ClassVar[MethodCard] = MethodCard(
        paper="Charpiat et al. 2019, Input Similarity from the Neural Network Perspective",
        needs="gradients",
        cost="n + q gradients, norms from the factors",
        good_for="similar examples in the model's eyes, without the pull of large gradients",
    )
    __call__ = score_all
    unit = _similarity
    predict = _one_gradient_each
    queries_at_once = whole_queries

    def prepare(self, problem: Problem, run: Run) -> Sided:
        """Query gradients of length one."""
        return _sided(problem, run, method="GradCos", unit_norm=True)

    def score(self, problem: Problem, state: Sided, rows: slice) -> Float[np.ndarray, "row query"]:
        """Cosines of these rows; an example without gradient gets 0."""
        products, lengths = products_and_lengths(state.fitted, problem.train.take(rows), state.side)
        return products / np.where(lengths > 0, lengths, np.inf)[:, None].astype(products.dtype)

    def split(self, problem: Problem, state: Sided, rows: Int[np.ndarray, " row"], by: By) -> Split:
        """Cosines of these rows part by part: each part's product over the length of the whole gradient."""
        part = problem.train.take(rows)
        state.fitted.run.spend(gradients=len(part))
        lengths = np.sqrt(state.fitted.gradients.self_products(part))
        return split_products(
            state.fitted, part, state.side, by, 1.0 / np.where(lengths > 0, lengths, np.inf)
        )


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Query sides along a training.

    Attributes:
        points: Per checkpoint the model with its query side, and the step size of every training example: 0 for
            those that took no part.
    """

    points: tuple[tuple[Sided, Float[np.ndarray, " train"]], ...]


@dataclass(frozen=True)
class TracIn:
    """TracInCP: ``sum_c eta_c g_q(theta_c)^T g_i(theta_c)`` over checkpoints of the training.

    The step size of a checkpoint is the sum of the learning rates since the one before, divided by the number
    of training examples: each step moves the parameters by the learning rate times the *mean* gradient of a
    batch, in which an example takes part once per epoch. So the score is in the measurement's unit: how much
    training on i improved q. Momentum multiplies every step by ``1 / (1 - momentum)`` in the long run, which
    is not included; Adam's preconditioner is not included either, which the record notes. In a training in stages
    an example counts in the stages that it takes part in.

    Deviation: the paper sums ``eta_c`` at the checkpoints alone and leaves the batch size in its unit.

    Source: Pruthi et al. (2020), "Estimating Training Data Influence by Tracing Gradient Descent", section 3.3.
    """

    card: ClassVar[MethodCard] = MethodCard(
        paper="Pruthi et al. 2020, Estimating Training Data Influence by Tracing Gradient Descent",
        needs="gradients, checkpoints",
        cost="(n + q) gradients per checkpoint",
        good_for="how training got there, not only where it ended",
    )
    __call__ = score_all
    unit = measured_unit
    queries_at_once = whole_queries

    def prepare(self, problem: Problem, run: Run) -> Trajectory:
        """Query gradients at every checkpoint.

        Raises:
            CapabilityError: If the learner keeps no checkpoints.
        """
        require(problem.learner, HasGradients, method="TracIn", instead=_INSTEAD)
        learner = require(problem.learner, HasCheckpoints, method="TracIn", instead="grad_dot or ekfac")
        points: list[tuple[Sided, np.ndarray]] = []
        for model, steps in _visited(problem, learner, explained(problem, run), run):
            fitted = gradients_at(problem, model, run)
            run.spend(gradients=len(problem.query))
            points.append((Sided(fitted, fitted.gradients.prepare(problem.query)), steps))
        return Trajectory(tuple(points))

    def score(self, problem: Problem, state: Trajectory, rows: slice) -> Float[np.ndarray, "row query"]:
        """Step-weighted dot products of these rows, summed over the checkpoints."""
        total = np.zeros((len(problem.train.ids[rows]), len(problem.query)))
        for point, steps in state.points:
            total += steps[rows, None] * training_products(problem, point.fitted, point.side, rows)
        return total


def _visited(
    problem: Problem, learner: HasCheckpoints, fitted: Any, run: Run
) -> Iterator[tuple[Any, Float[np.ndarray, " train"]]]:
    """States along the training, and the step that every training example took towards each."""
    if not isinstance(learner, HasSpans):
        present = problem.train.weights() != 0
        for model, rates in learner.checkpoints(fitted):
            yield model, present * (rates / present.sum())
        return
    for span in learner.spans(fitted, problem.train):
        if isinstance(span.recipe, Adam | AdamW):
            run.note(
                "TracIn takes plain gradient steps, but training was by Adam; source and replay follow it."
            )
        steps = np.zeros(len(problem.train))
        steps[span.rows] = span.learning_rate / len(span.rows)
        yield span.fitted, steps
