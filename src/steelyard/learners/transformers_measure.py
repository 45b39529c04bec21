"""Loss and query measurement of texts: sums over the tokens that count, or one label per text.

The loss of an example is the sum of its tokens' losses in nats (or their mean, where asked for); tokens of a
prompt, of the user's turns and of padding take no part.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as functional
from jaxtyping import Int
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
from steelyard.learners.transformers_frozen import INPUTS, STATES, Lower, other_forward
from steelyard.learners.transformers_settings import Task
from steelyard.learners.transformers_spans import SPAN
from steelyard.learners.transformers_table import IGNORED, attended
from steelyard.records import Measurement

Reduction = Literal["sum", "mean"]
OwnMeasure = tuple[Callable[..., Any], Measurement]
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
        lower: Frozen layers that a pass need not go through; None if there are none.
        head: Name of the output layer, where it is frozen and so need only be run at tokens that count; else empty.
    """

    task: Task
    reduction: Reduction
    measure: TextMeasure
    labelled: NamedLoss
    lower: Lower | None = None
    head: str = ""

    def run(self, model: nn.Module, batch: Batch, **options: bool) -> Any:
        """What the model makes of the batch's tokens."""
        inputs = {name: batch[name] for name in INPUTS if name in batch}
        if "position_ids" in batch:
            inputs["position_ids"] = batch["position_ids"]
            inputs["attention_mask"] = attended(batch["position_ids"], next(model.parameters()).dtype)
        if self.lower is None or not self.lower.serves(model, batch):
            return model(**inputs, **options)
        with self.lower.resumed(model, batch[STATES]):
            return model(**inputs, **options)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """``[batch]`` training losses."""
        if self.task == "classifier":
            return self.labelled.per_example(_wide(self.run(model, batch).logits), _label(batch))
        labels = batch["labels"]
        total = self._per_token(model, batch, labels, _cross_entropy).sum(1)
        return total if self.reduction == "sum" else total / (following(labels) != IGNORED).sum(1)

    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        """``[batch]`` query measurements."""
        if self.measure.function is not None:
            return self.measure.function(model, {k: v for k, v in batch.items() if k != STATES})
        if self.measure.name == "loss":
            return self.loss(model, batch)
        if self.task == "classifier":
            found = margin if self.measure.name == "margin" else log_probability
            return found(_wide(self.run(model, batch).logits), _label(batch))
        if self.measure.name == "margin":
            return self._per_token(model, batch, batch["labels"], _log_odds).sum(1)
        if self.measure.name == "span" and "measured" not in batch:
            raise DataError(
                f"measurement='span' needs a column {SPAN!r} that says what to measure.",
                fix="give every query a piece of its completion, or [first, last + 1] characters of it.",
            )
        labels = batch["measured"] if self.measure.name == "span" else batch["labels"]
        return -self._per_token(model, batch, labels, _cross_entropy).sum(1)

    def sampled(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """``[batch]`` losses at labels drawn from the model's predictions, each token on its own.

        Draws are independent, so that the mean outer product of the gradients of their sum is the sum of the
        tokens' Gauss-Newton matrices. A mean over T tokens has T times less of it than its gradients' outer
        products have of T squared: hence the factor sqrt(T).
        """
        if self.task == "classifier":
            return self.labelled.sampled(_wide(self.run(model, batch).logits), generator)

        def drawn(logits: Tensor, targets: Tensor) -> Tensor:
            counted, labels = targets != IGNORED, targets.clone()
            labels[counted] = drawn_classes(logits[counted], generator)
            return _cross_entropy(logits, labels)

        losses = self._per_token(model, batch, batch["labels"], drawn).sum(1)
        counts = (following(batch["labels"]) != IGNORED).sum(1)
        return losses if self.reduction == "sum" else losses / counts.sqrt()

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """``[batch, output]``: the logits of every token, one after another; what the loss is convex in."""
        return _wide(self.run(model, batch).logits).flatten(1)

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

    def _per_token(
        self, model: nn.Module, batch: Batch, labels: Tensor, value: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """``[batch, position]`` A value of the prediction after each position; 0 where none counts.

        Args:
            model: Whose predictions.
            batch: Its inputs.
            labels: ``[batch, position]`` Tokens, -100 where one does not count.
            value: From ``[token, vocabulary]`` logits and ``[token]`` labels to ``[token]``.
        """
        shifted = following(labels)
        places = _places(shifted) if self.head else None
        if places is None:
            logits = _wide(self.run(model, batch).logits)
            return value(logits.flatten(0, 1), shifted.flatten()).view(shifted.shape)
        with only_at(model, self.head, places):
            logits = _wide(self.run(model, batch).logits)
        found = value(logits.flatten(0, 1), shifted.flatten()[places])
        return found.new_zeros(shifted.numel()).index_copy(0, places, found).view(shifted.shape)


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


def following(labels: Tensor) -> Tensor:
    """Labels moved one place to the left: what each position predicts."""
    # Moving the labels costs nothing; cutting the last logits off would copy all others.
    return functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def pooled(functions: TextFunctions, model: nn.Module, batch: Batch) -> Tensor:
    """``[batch, feature]`` Last hidden states, averaged over the tokens that are no padding.

    Raises:
        ModelError: If the model gives no hidden states.
    """
    # The output layer has no part in it; where it can be, it is run at one token instead of at all.
    first = torch.zeros(1, dtype=torch.int64, device=batch["input_ids"].device)
    with only_at(model, functions.head, first) if functions.head else nullcontext():
        states = functions.run(model, batch, output_hidden_states=True).hidden_states
    if not states:
        raise ModelError(
            f"{type(model).__name__} gives no hidden states.",
            fix="use a transformers model that offers output_hidden_states.",
        )
    mask = batch["attention_mask"].to(states[-1].dtype)[:, :, None]
    return (states[-1] * mask).sum(1) / mask.sum(1)


def frozen_head(net: nn.Module) -> str:
    """Name of the output layer, if it is a frozen linear layer with no other output layer; else empty."""
    head = cast(Any, net).get_output_embeddings()
    plain = isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward
    if not plain or any(p.requires_grad for p in head.parameters()):
        return ""
    return next(name for name, module in net.named_modules() if module is head)


def head_agrees(functions: TextFunctions, net: nn.Module, batch: Batch) -> bool:
    """Whether the output layer may be run at tokens that count alone: losses of two examples are as with all tokens."""
    few = {name: value[:2] for name, value in batch.items() if name != STATES}
    with torch.no_grad():
        whole = replace(functions, head="").loss(net, few)
        try:
            short = functions.loss(net, few)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return False
    tolerance = 1e-3 if whole.dtype in (torch.float32, torch.float64) else 5e-2
    return torch.allclose(whole, short, rtol=tolerance, atol=tolerance)


@contextmanager
def only_at(model: nn.Module, head: str, places: Int[Tensor, " token"]) -> Iterator[None]:
    """Within the context, the output layer is run at these tokens alone; its output is ``[1, token, vocabulary]``.

    Args:
        model: A causal model.
        head: Name of its output layer.
        places: Positions in the flattened batch.
    """
    layer = cast(nn.Linear, model.get_submodule(head))

    def forward(states: Tensor) -> Tensor:
        return nn.Linear.forward(layer, states.flatten(0, 1).index_select(0, places)[None])

    with other_forward(layer, forward):
        yield


def _places(shifted: Tensor) -> Tensor | None:
    """Where tokens count; None where torch cannot say: within ``torch.func.vmap`` sizes may not depend on values."""
    try:
        return (shifted != IGNORED).flatten().nonzero().squeeze(1)
    except RuntimeError:
        return None


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")


def _log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    index = labels.clamp(min=0)[:, None]
    others = logits.scatter(1, index, -torch.inf).logsumexp(1)
    return (logits.gather(1, index).squeeze(1) - others).masked_fill(labels == IGNORED, 0.0)


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
