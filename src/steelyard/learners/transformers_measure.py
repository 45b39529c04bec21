"""Loss and query measurement of texts: sums over the tokens that count, or one label per text.

The loss of an example is the sum of its tokens' losses in nats (or their mean, where asked for); tokens of a
prompt, of the user's turns and of padding take no part.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from steelyard.errors import CapabilityError, DataError, ModelError, SettingError
from steelyard.learners.torch_losses import (
    NAMED_LOSSES,
    Batch,
    NamedLoss,
    drawn_classes,
    log_probability,
    margin,
)
from steelyard.learners.transformers_settings import Task
from steelyard.learners.transformers_spans import SPAN
from steelyard.learners.transformers_table import IGNORED
from steelyard.records import Measurement

Reduction = Literal["sum", "mean"]
OwnMeasure = tuple[Callable[..., Any], Measurement]
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_LARGEST_OUTPUT = 2**26

MEASUREMENTS = ("loss", "log_probability", "margin", "span")


@dataclass(frozen=True)
class TextMeasure:
    """How queries are measured.

    Attributes:
        measurement: Name, unit and direction.
        name: One of ``MEASUREMENTS``; empty for the user's own.
        function: The user's ``(model, batch) -> [batch]``.
    """

    measurement: Measurement
    name: str = ""
    function: Callable[[nn.Module, Batch], Tensor] | None = None


@dataclass(frozen=True)
class TextFunctions:
    """Training loss and query measurement of a language model or classifier.

    Attributes:
        task: What the model does.
        reduction: Whether an example's loss is the sum or the mean over its tokens.
        measure: The measurement.
        labelled: The loss of a classifier: cross-entropy, or squared error where it has one output.
    """

    task: Task
    reduction: Reduction
    measure: TextMeasure
    labelled: NamedLoss

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """``[batch]`` training losses."""
        logits = run(model, batch).logits
        if self.task == "classifier":
            return self.labelled.per_example(_wide(logits), _label(batch))
        return self._reduced(token_losses(logits, batch["labels"]), batch["labels"])

    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        """``[batch]`` query measurements."""
        if self.measure.function is not None:
            return self.measure.function(model, batch)
        if self.measure.name == "loss":
            return self.loss(model, batch)
        logits = run(model, batch).logits
        if self.task == "classifier":
            found = margin if self.measure.name == "margin" else log_probability
            return found(_wide(logits), _label(batch))
        if self.measure.name == "margin":
            return token_margins(logits, batch["labels"]).sum(1)
        if self.measure.name == "span" and "measured" not in batch:
            raise DataError(
                f"measurement='span' needs a column {SPAN!r} that says what to measure.",
                fix="give every query a piece of its completion, or [first, last + 1] characters of it.",
            )
        labels = batch["measured"] if self.measure.name == "span" else batch["labels"]
        return -token_losses(logits, labels).sum(1)

    def sampled(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """``[batch]`` losses at labels drawn from the model's predictions, each token on its own.

        Draws are independent, so that the mean outer product of the gradients of their sum is the sum of the
        tokens' Gauss-Newton matrices. A mean over T tokens has T times less of it than its gradients' outer
        products have of T squared: hence the factor sqrt(T).
        """
        logits = _wide(run(model, batch).logits)
        if self.task == "classifier":
            return self.labelled.sampled(logits, generator)
        shifted = following(batch["labels"])
        counted = shifted != IGNORED
        drawn = torch.full_like(shifted, IGNORED)
        drawn[counted] = drawn_classes(logits[counted], generator)
        losses = _cross_entropy(logits, drawn).sum(1)
        return losses if self.reduction == "sum" else losses / counted.sum(1).sqrt()

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """``[batch, output]``: the logits of every token, one after another; what the loss is convex in."""
        return _wide(run(model, batch).logits).flatten(1)

    def hessian_factor(self, outputs: Tensor, batch: Batch) -> Tensor:
        """``[batch, output, rank]``: R with R Rᵀ the Hessian of each loss in the outputs.

        Raises:
            CapabilityError: If a language model's vocabulary and texts make it too large to hold.
        """
        if self.task == "classifier":
            return self.labelled.hessian_factor(outputs)
        shifted = following(batch["labels"])
        count, positions = shifted.shape
        if outputs.shape[1] ** 2 * count > _LARGEST_OUTPUT:
            raise CapabilityError(
                f"the exact curvature has {outputs.shape[1]:,} outputs per example ({positions} tokens times the "
                "vocabulary), too many to hold.",
                fix="use fisher='sampled' or fisher='empirical'.",
            )
        wide = outputs.view(count, positions, -1)
        factor = NAMED_LOSSES["cross_entropy"].hessian_factor(wide.flatten(0, 1)).view(*wide.shape, -1)
        factor = factor * (shifted != IGNORED)[:, :, None, None]
        if self.reduction == "mean":
            factor = factor / (shifted != IGNORED).sum(1).sqrt()[:, None, None, None]
        return torch.stack([torch.block_diag(*one) for one in factor])

    def hessian_product(self, outputs: Tensor, tangents: Tensor, batch: Batch) -> Tensor:
        """``[vector, batch, output]``: the Hessian of each loss in the outputs, times tangents of that shape.

        A softmax's Hessian is diag(p) - p pᵀ token by token, so that no factor of it need ever be held.
        """
        if self.task == "classifier":
            factor = self.labelled.hessian_factor(outputs)
            return torch.einsum("bor,vbr->vbo", factor, torch.einsum("bor,vbo->vbr", factor, tangents))
        shifted = following(batch["labels"])
        chances = outputs.view(*shifted.shape, -1).softmax(-1)
        along = tangents.view(len(tangents), *chances.shape)
        curved = chances * (along - (chances * along).sum(-1, keepdim=True))
        share = (shifted != IGNORED).to(outputs)
        if self.reduction == "mean":
            share = share / share.sum(1, keepdim=True)
        return (curved * share[:, :, None]).flatten(2)

    def _reduced(self, losses: Tensor, labels: Tensor) -> Tensor:
        total = losses.sum(1)
        return total if self.reduction == "sum" else total / (following(labels) != IGNORED).sum(1)


def functions_for(
    task: Task, reduction: str, measurement: OwnMeasure | str, outputs: int | None
) -> TextFunctions:
    """Loss and measurement as they were named or given.

    Args:
        task: What the model does.
        reduction: ``"sum"`` or ``"mean"`` over tokens.
        measurement: One of ``MEASUREMENTS``, or ``(function, Measurement)``.
        outputs: Outputs of a classifier.

    Raises:
        SettingError: If there is none of that name, or it has no meaning for this task.
    """
    if reduction not in ("sum", "mean"):
        raise SettingError(f"Transformers: reduction={reduction!r}.", fix="give 'sum' or 'mean'.")
    labelled = NAMED_LOSSES["mse" if task == "classifier" and outputs == 1 else "cross_entropy"]
    checked: Reduction = "sum" if reduction == "sum" else "mean"
    return TextFunctions(task, checked, _measure(task, checked, measurement, labelled), labelled)


def _measure(
    task: Task, reduction: Reduction, measurement: OwnMeasure | str, labelled: NamedLoss
) -> TextMeasure:
    if isinstance(measurement, tuple):
        function, meaning = measurement
        return TextMeasure(meaning, function=function)
    allowed = MEASUREMENTS if task == "causal" else MEASUREMENTS[:3] if labelled.classification else ("loss",)
    if measurement not in allowed:
        raise SettingError(
            f"Transformers: measurement={measurement!r} for a model that is a {task} model.",
            fix=f"choose one of {', '.join(allowed)}, or give (function, Measurement(...)).",
        )
    unit = labelled.unit + (" per token" if task == "causal" and reduction == "mean" else "")
    meanings = {
        "loss": Measurement("loss", unit, lower_is_better=True),
        "log_probability": Measurement("log_probability", "nats", lower_is_better=False),
        "margin": Measurement("margin", "logits", lower_is_better=False),
        "span": Measurement("log_probability of the span", "nats", lower_is_better=False),
    }
    return TextMeasure(meanings[measurement], measurement)


def run(model: nn.Module, batch: Batch, **options: bool) -> Any:
    """What the model makes of the batch's tokens."""
    return model(**{name: batch[name] for name in _INPUTS if name in batch}, **options)


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """``[batch, position]`` cross-entropy of the token after each position, in nats; 0 where none counts.

    Args:
        logits: ``[batch, position, vocabulary]``.
        labels: ``[batch, position]`` Tokens, -100 where one does not count.
    """
    return _cross_entropy(_wide(logits), following(labels))


def token_margins(logits: Tensor, labels: Tensor) -> Tensor:
    """``[batch, position]`` log-odds of the token after each position; 0 where none counts."""
    shifted = following(labels)
    index = shifted.clamp(min=0)[..., None]
    wide = _wide(logits)
    others = wide.scatter(2, index, -torch.inf).logsumexp(2)
    return (wide.gather(2, index).squeeze(2) - others).masked_fill(shifted == IGNORED, 0.0)


def following(labels: Tensor) -> Tensor:
    """Labels moved one place to the left: what each position predicts."""
    # Moving the labels costs nothing; cutting the last logits off would copy all others.
    return functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def pooled(model: nn.Module, batch: Batch) -> Tensor:
    """``[batch, feature]`` Last hidden states, averaged over the tokens that are no padding.

    Raises:
        ModelError: If the model gives no hidden states.
    """
    states = run(model, batch, output_hidden_states=True).hidden_states
    if not states:
        raise ModelError(
            f"{type(model).__name__} gives no hidden states.",
            fix="use a transformers model that offers output_hidden_states.",
        )
    mask = batch["attention_mask"].to(states[-1].dtype)[:, :, None]
    return (states[-1] * mask).sum(1) / mask.sum(1)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    flat = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return flat.view(labels.shape)


def _wide(logits: Tensor) -> Tensor:
    # Sums over a vocabulary lose too much in half precision.
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _label(batch: Batch) -> Tensor:
    if "labels" not in batch:
        raise DataError(
            "these examples have no label, which the loss or measurement of a classifier needs.",
            fix="name the label column when reading them: label=....",
        )
    return batch["labels"]
