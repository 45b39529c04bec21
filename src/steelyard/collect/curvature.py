"""K-FAC and EK-FAC curvature of a problem, kept in the run folder."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch

from steelyard.collect.gradients import Fitted, present_examples
from steelyard.errors import CapabilityError, SettingError
from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.fisher import Fisher, HasOutputs, fisher_gradients
from steelyard.gradients.kronecker import (
    KroneckerMetric,
    Weighted,
    eigen_blocks,
    fit_bases,
    fit_eigenvalues,
    resolve_damping,
)
from steelyard.problem import Problem
from steelyard.run import Run
from steelyard.run.seeds import stream

_MOST_EXACT_OUTPUTS = 16
Kind = Literal["kfac", "ekfac"]


@dataclass(frozen=True, eq=False)
class FittedMetric:
    """A damped inverse curvature, and what its ``"auto"`` settings became.

    Attributes:
        metric: To hand to ``Gradients.prepare`` or ``self_products``.
        resolved: Plain values for the record.
    """

    metric: KroneckerMetric
    resolved: Mapping[str, Any]


def kronecker_metric(
    problem: Problem,
    fitted: Fitted,
    run: Run,
    *,
    kind: Kind,
    fisher: Fisher | Literal["auto"],
    damping: float | int | str,
) -> FittedMetric:
    """The damped inverse (E)K-FAC curvature of the summed training loss.

    Eigenvectors and eigenvalues are kept in the run folder, without the damping, so that another damping costs
    nothing.

    Cost: K-FAC one, EK-FAC two passes over the training examples, each one forward pass and as many backward
    passes as the model has outputs (exact Fisher) or one (sampled, empirical); one eigendecomposition per side
    and block.

    Args:
        problem: Whose training examples define the curvature.
        fitted: Where to evaluate it.
        run: Where factors are kept.
        kind: ``"kfac"`` or ``"ekfac"``.
        fisher: Which gradients; ``"auto"`` is exact up to 16 outputs, else sampled, else empirical.
        damping: ``"auto"``, or a number added to the eigenvalues of the mean curvature.

    Raises:
        CapabilityError: If the learner's gradients have no layers.
        SettingError: If the loss does not offer the Fisher asked for.
    """
    engine = fitted.gradients
    if not isinstance(engine, TorchGradients):
        raise CapabilityError(
            f"{kind.upper()} needs the layers of a network, which {type(problem.learner).__name__} does not have.",
            fix="use gauss_newton (exact for linear models) or leave_one_out.",
        )
    learner = cast(HasOutputs, problem.learner)
    fisher, why = _resolve_fisher(problem, fitted, fisher)
    train = present_examples(problem)
    weights = None if bool((train.weights() == 1).all()) else train.weights()
    seed = stream(problem.seed, "fisher")
    key = f"curvature/{fisher}-{problem.seed}"

    def captured(what: str) -> Callable[[], Iterator[Weighted]]:
        def gradients() -> Iterator[Weighted]:
            with run.progress(what, len(train)) as progress:
                for batch in fisher_gradients(
                    engine, learner, train, kind=fisher, weights=weights, seed=seed
                ):
                    # A further backward pass through a graph that exists costs two thirds of a gradient.
                    run.spend(gradients=len(batch) * (1 if batch.first else 2 / 3))
                    if batch.first:
                        progress.advance(len(batch))
                    yield batch

        return gradients

    arrays = dict(run.keep(f"{key}/bases", lambda: fit_bases(captured("covariances"))))
    if kind == "ekfac":
        arrays |= run.keep(f"{key}/eigenvalues", lambda: fit_eigenvalues(captured("eigenvalues"), arrays))
    blocks = eigen_blocks(arrays, kind)
    resolved_damping, reason = resolve_damping(blocks, damping)
    decay = _decay(problem, fitted)
    metric = KroneckerMetric(blocks, resolved_damping, decay, float(len(train)))
    resolved = {
        "fisher": fisher,
        "fisher_reason": why,
        "damping": resolved_damping,
        "damping_reason": reason,
        "l2": decay,
    }
    return FittedMetric(metric, resolved)


@runtime_checkable
class _Regularised(Protocol):
    def regularisation(self, fitted: Any) -> float: ...


def _decay(problem: Problem, fitted: Fitted) -> float:
    learner = problem.learner
    return float(learner.regularisation(fitted.model)) if isinstance(learner, _Regularised) else 0.0


def _resolve_fisher(problem: Problem, fitted: Fitted, fisher: Fisher | Literal["auto"]) -> tuple[Fisher, str]:
    engine = cast(TorchGradients, fitted.gradients)
    learner = cast(HasOutputs, problem.learner)
    if fisher == "empirical":
        return fisher, "as given"
    batch = next(engine.batches(problem.train.take(slice(0, 2))))
    if fisher in ("auto", "exact"):
        try:
            outputs = learner.output_function(engine.model, batch)
            columns = learner.output_hessian_factor(outputs.detach(), batch).shape[2]
            if fisher == "exact" or columns <= _MOST_EXACT_OUTPUTS:
                return "exact", f"the loss has {columns} outputs per example with known curvature"
        except CapabilityError:
            if fisher == "exact":
                raise
    try:
        drawn = learner.sampled_loss_function(engine.model, batch, torch.Generator().manual_seed(0))
    except CapabilityError:
        drawn = None
    if drawn is not None:
        return "sampled", "labels can be drawn from the model" if fisher == "auto" else "as given"
    if fisher == "sampled":
        raise SettingError(
            "fisher='sampled', but labels cannot be drawn from a model with this loss.",
            fix="use fisher='empirical', a named loss, or tell the loss how to draw labels.",
        )
    return "empirical", "the loss is a function without a known predictive distribution"
