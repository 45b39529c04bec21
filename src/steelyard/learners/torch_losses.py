"""Losses and query measurements of single examples: those known by name, and the user's own.

A named loss is a function of the model's outputs and the label, so its curvature and its predictive
distribution are known. A user's loss is any function of model and batch; what else it can answer, the user
says in :class:`Loss`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from steelyard.errors import ModelError, SettingError
from steelyard.records import Measurement

Batch = Mapping[str, Tensor]
"""Tensors by column name, one entry per example on the first axis of each."""


@dataclass(frozen=True)
class Loss:
    """A user's training loss, with what else is known about it.

    Attributes:
        function: ``(model, batch) -> [batch]``: the loss of every example, not averaged.
        unit: Unit of the loss, for reports.
        outputs: ``(model, batch) -> [batch, outputs]``: what the loss is a convex function of, for
            Gauss-Newton.
        hessian_factor: ``(outputs, batch) -> [batch, outputs, rank]``: R with R Rᵀ the Hessian of the loss
            with respect to the outputs.
        sampled: ``(model, batch, generator) -> [batch]``: the loss at labels drawn from the model's own
            predictive distribution, scaled so that its gradients' outer products have the Gauss-Newton matrix
            as their mean.
    """

    function: Callable[[nn.Module, Batch], Tensor]
    unit: str = "loss"
    outputs: Callable[[nn.Module, Batch], Tensor] | None = None
    hessian_factor: Callable[[Tensor, Batch], Tensor] | None = None
    sampled: Callable[[nn.Module, Batch, torch.Generator], Tensor] | None = None


@dataclass(frozen=True)
class NamedLoss:
    """A loss that is known by name, as functions of outputs and label.

    Attributes:
        name: As given to ``Torch(loss=...)``.
        unit: Unit of the loss.
        per_example: ``(outputs, label) -> [batch]``.
        hessian_factor: ``(outputs) -> [batch, outputs, rank]``.
        sampled: ``(outputs, generator) -> [batch]``; differentiable in the outputs, not in the draw.
        classification: Whether labels are classes.
    """

    name: str
    unit: str
    per_example: Callable[[Tensor, Tensor], Tensor]
    hessian_factor: Callable[[Tensor], Tensor]
    sampled: Callable[[Tensor, torch.Generator], Tensor]
    classification: bool


def cross_entropy(outputs: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy in nats of ``[batch, class]`` logits at ``[batch]`` class numbers."""
    if outputs.ndim != 2 or label.ndim != 1:
        raise ModelError(
            "cross_entropy reads logits [batch, class] and labels [batch]; the model gave "
            f"{list(outputs.shape)} for "
            f"labels {list(label.shape)}.",
            fix="return one row of logits per example, or give loss= a function (model, batch) -> [batch].",
        )
    return functional.cross_entropy(outputs, label, reduction="none")


def _cross_entropy_factor(outputs: Tensor) -> Tensor:
    # R = diag(sqrt p) - p sqrt(p)ᵀ, because R Rᵀ = diag(p) - p pᵀ where p sums to one.
    probability = outputs.softmax(dim=1)
    root = probability.sqrt()
    return torch.diag_embed(root) - probability.unsqueeze(2) * root.unsqueeze(1)


def drawn_classes(logits: Tensor, generator: torch.Generator) -> Tensor:
    """``[row]`` One class per row of ``[row, class]`` logits, drawn from their softmax.

    By inverting the distribution function: one random number per row, where ``torch.multinomial`` takes one per class.
    """
    logits = logits.detach()
    summed = logits.softmax(dim=1, dtype=torch.promote_types(logits.dtype, torch.float32)).cumsum(dim=1)
    least = torch.rand(len(logits), 1, generator=generator, dtype=summed.dtype, device=logits.device)
    # The last sum is 1 up to rounding. A class of probability 0 adds nothing, and is passed over on the right.
    found = torch.searchsorted(summed, least * summed[:, -1:], right=True)
    return found.squeeze(1).clamp_max(logits.shape[1] - 1)


def _cross_entropy_sampled(outputs: Tensor, generator: torch.Generator) -> Tensor:
    drawn = drawn_classes(outputs, generator)
    return functional.cross_entropy(outputs, drawn, reduction="none")


def mean_squared_error(outputs: Tensor, label: Tensor) -> Tensor:
    """Squared error, averaged over the outputs of an example, as ``torch.nn.MSELoss`` does."""
    predicted, wanted = _aligned("mse", outputs, label)
    return (predicted - wanted).square().mean(dim=1)


def _mean_squared_error_factor(outputs: Tensor) -> Tensor:
    rows = outputs.reshape(len(outputs), -1)
    width = rows.shape[1]
    root = (2.0 / width) ** 0.5
    return (root * torch.eye(width, dtype=rows.dtype, device=rows.device)).expand(len(rows), width, width)


def _mean_squared_error_sampled(outputs: Tensor, generator: torch.Generator) -> Tensor:
    # With noise e of variance K/2 the gradient in the outputs is -(2/K) e, whose second moment is (2/K) I:
    # the Hessian of the mean over K outputs.
    rows = outputs.reshape(len(outputs), -1)
    noise = torch.randn(rows.shape, generator=generator, dtype=rows.dtype, device=rows.device)
    drawn = rows.detach() + noise * (rows.shape[1] / 2.0) ** 0.5
    return (rows - drawn).square().mean(dim=1)


def binary_cross_entropy(outputs: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy in nats at logits, averaged over the outputs as ``BCEWithLogitsLoss`` does."""
    logits, wanted = _aligned("binary_cross_entropy", outputs, label)
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=1)


def _binary_cross_entropy_factor(outputs: Tensor) -> Tensor:
    rows = outputs.reshape(len(outputs), -1)
    probability = rows.sigmoid()
    return torch.diag_embed((probability * (1 - probability) / rows.shape[1]).sqrt())


def _binary_cross_entropy_sampled(outputs: Tensor, generator: torch.Generator) -> Tensor:
    # The mean over K outputs has gradients (p - y) / K with second moment p (1 - p) / K²; the Hessian is
    # p (1 - p) / K, hence the factor sqrt(K).
    rows = outputs.reshape(len(outputs), -1)
    drawn = torch.bernoulli(rows.detach().sigmoid(), generator=generator)
    loss = functional.binary_cross_entropy_with_logits(rows, drawn, reduction="none").mean(dim=1)
    return loss * rows.shape[1] ** 0.5


NAMED_LOSSES: Mapping[str, NamedLoss] = {
    "cross_entropy": NamedLoss(
        "cross_entropy",
        "nats",
        cross_entropy,
        _cross_entropy_factor,
        _cross_entropy_sampled,
        classification=True,
    ),
    "mse": NamedLoss(
        "mse",
        "squared error",
        mean_squared_error,
        _mean_squared_error_factor,
        _mean_squared_error_sampled,
        classification=False,
    ),
    "binary_cross_entropy": NamedLoss(
        "binary_cross_entropy",
        "nats",
        binary_cross_entropy,
        _binary_cross_entropy_factor,
        _binary_cross_entropy_sampled,
        classification=True,
    ),
}


def margin(outputs: Tensor, label: Tensor) -> Tensor:
    """Correct logit minus logsumexp of the others: the log-odds of the correct class."""
    others = outputs.scatter(1, label.unsqueeze(1), -torch.inf).logsumexp(dim=1)
    return outputs.gather(1, label.unsqueeze(1)).squeeze(1) - others


def binary_margin(outputs: Tensor, label: Tensor) -> Tensor:
    """Log-odds of the correct answer; the mean over the outputs where there are several."""
    logits, wanted = _aligned("margin", outputs, label)
    return (logits * (2 * wanted - 1)).mean(dim=1)


def lead(outputs: Tensor, label: Tensor) -> Tensor:
    """Correct logit minus the highest other: above 0 exactly where the prediction is correct."""
    others = outputs.scatter(1, label.unsqueeze(1), -torch.inf).amax(dim=1)
    return outputs.gather(1, label.unsqueeze(1)).squeeze(1) - others


def binary_lead(outputs: Tensor, label: Tensor) -> Tensor:
    """Log-odds of the correct answer; the lowest over the outputs where there are several."""
    logits, wanted = _aligned("lead", outputs, label)
    return (logits * (2 * wanted - 1)).amin(dim=1)


def log_probability(outputs: Tensor, label: Tensor) -> Tensor:
    """Log-probability of the correct class, in nats."""
    return -cross_entropy(outputs, label)


def binary_log_probability(outputs: Tensor, label: Tensor) -> Tensor:
    """Log-probability of the label, in nats; summed over the outputs where there are several."""
    logits, wanted = _aligned("log_probability", outputs, label)
    return -functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(dim=1)


OutputMeasure = Callable[[Tensor, Tensor], Tensor]
ModelMeasure = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Measure:
    """How queries are measured.

    Attributes:
        measurement: Name, unit and direction.
        of_outputs: ``(outputs, label) -> [batch]`` for a named measurement other than the loss.
        of_model: ``(model, batch) -> [batch]`` for the user's own. Neither of the two: the training loss.
    """

    measurement: Measurement
    of_outputs: OutputMeasure | None = None
    of_model: ModelMeasure | None = None


def resolve_loss(loss: Any) -> NamedLoss | Loss:
    """The loss that was named or given.

    Raises:
        SettingError: If there is none of that name, or it is no function.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str) and loss in NAMED_LOSSES:
        return NAMED_LOSSES[loss]
    if callable(loss) and not isinstance(loss, nn.Module):
        function: Any = loss
        return Loss(function)
    hint = (
        " A module such as CrossEntropyLoss averages over the batch." if isinstance(loss, nn.Module) else ""
    )
    raise SettingError(
        f"loss={loss!r} is neither a named loss nor a function (model, batch) -> [batch].{hint}",
        fix=f"choose one of {', '.join(NAMED_LOSSES)}, or write a function that returns one loss per "
        "example.",
    )


def resolve_measure(measurement: Any, loss: NamedLoss | Loss) -> Measure:
    """The query measurement that was named or given, for a learner with this loss.

    Raises:
        SettingError: If there is none of that name, it does not fit the loss, or a function comes without its
            ``Measurement``.
    """
    if measurement == "loss":
        return Measure(Measurement("loss", loss.unit, lower_is_better=True))
    if measurement in ("margin", "lead", "log_probability"):
        return _named_measure(measurement, loss)
    if isinstance(measurement, tuple) and len(measurement) == 2:
        function: Any = measurement[0]
        if callable(measurement[0]) and isinstance(measurement[1], Measurement):
            return Measure(measurement[1], of_model=function)
    raise SettingError(
        f"measurement={measurement!r} is neither 'loss', 'margin', 'lead', 'log_probability' nor a pair "
        "(function, Measurement).",
        fix="a function (model, batch) -> [batch] needs its name, unit and direction: measurement=(function, "
        'Measurement("accuracy", "accuracy", lower_is_better=False)).',
    )


def _named_measure(name: str, loss: NamedLoss | Loss) -> Measure:
    if isinstance(loss, NamedLoss) and not loss.classification:
        raise SettingError(
            f"measurement={name!r} needs classes, but the loss is {loss.name!r}.",
            fix="use measurement='loss'.",
        )
    binary = isinstance(loss, NamedLoss) and loss.name == "binary_cross_entropy"
    if name == "margin":
        meaning = Measurement("margin", "logits", lower_is_better=False)
        return Measure(meaning, of_outputs=binary_margin if binary else margin)
    if name == "lead":
        meaning = Measurement("lead", "logits", lower_is_better=False)
        return Measure(meaning, of_outputs=binary_lead if binary else lead)
    meaning = Measurement("log_probability", "nats", lower_is_better=False)
    return Measure(meaning, of_outputs=binary_log_probability if binary else log_probability)


def _aligned(name: str, outputs: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    # [batch, 1] against [batch] would broadcast to [batch, batch].
    rows, wanted = outputs.reshape(len(outputs), -1), label.reshape(len(label), -1)
    if rows.shape != wanted.shape:
        raise ModelError(
            f"{name}: the model gave outputs {list(outputs.shape)} for labels {list(label.shape)}.",
            fix="return as many outputs per example as there are labels, or give loss= a function.",
        )
    return rows, wanted.to(rows.dtype)
