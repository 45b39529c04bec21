"""Loss, measurement, outputs and curvature of a model at a batch, whichever way the loss was given."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steelyard.errors import CapabilityError, DataError, ModelError
from steelyard.learners.torch_batches import LabelKind, Layout
from steelyard.learners.torch_losses import Batch, Loss, Measure, NamedLoss

_KINDS: dict[str, LabelKind] = {"cross_entropy": "class", "binary_cross_entropy": "binary", "mse": "number"}


@dataclass(frozen=True)
class Functions:
    """A training loss and a query measurement as functions of model and batch.

    Attributes:
        given: The loss, named or the user's.
        measure: The measurement.
    """

    given: NamedLoss | Loss
    measure: Measure

    @property
    def kind(self) -> LabelKind:
        """What labels are taken for."""
        if isinstance(self.given, NamedLoss):
            return _KINDS[self.given.name]
        return "any" if self.measure.of_outputs is None else "class"

    def loss(self, model: nn.Module, batch: Batch, layout: Layout) -> Tensor:
        """``[batch]`` training losses."""
        if isinstance(self.given, Loss):
            return self.given.function(model, batch)
        return self.given.per_example(self.outputs(model, batch, layout), _label(batch, layout))

    def measurement(self, model: nn.Module, batch: Batch, layout: Layout) -> Tensor:
        """``[batch]`` query measurements."""
        if self.measure.of_model is not None:
            return self.measure.of_model(model, batch)
        if self.measure.of_outputs is not None:
            return self.measure.of_outputs(self.outputs(model, batch, layout), _label(batch, layout))
        return self.loss(model, batch, layout)

    def sampled(
        self, model: nn.Module, batch: Batch, layout: Layout, generator: torch.Generator
    ) -> Tensor | None:
        """``[batch]`` losses at labels drawn from the model's predictions; None where those are not known."""
        if isinstance(self.given, NamedLoss):
            return self.given.sampled(self.outputs(model, batch, layout), generator)
        return None if self.given.sampled is None else self.given.sampled(model, batch, generator)

    def outputs(self, model: nn.Module, batch: Batch, layout: Layout) -> Tensor:
        """What the model gives for the input columns in order; the user's ``outputs`` where there are any.

        Raises:
            ModelError: If the model does not return one tensor.
        """
        if isinstance(self.given, Loss) and self.given.outputs is not None:
            return self.given.outputs(model, batch)
        outputs = model(*[batch[name] for name in layout.inputs])
        if not isinstance(outputs, Tensor):
            raise ModelError(
                f"the model returns a {type(outputs).__name__}, but a named loss or measurement reads one "
                "tensor.",
                fix="give loss= and measurement= as functions (model, batch) -> [batch] that pick what they "
                "need.",
            )
        return outputs

    def flat_outputs(self, model: nn.Module, batch: Batch, layout: Layout) -> Tensor:
        """``[batch, outputs]``: what the loss is a convex function of.

        Raises:
            CapabilityError: If the loss is the user's and does not say.
        """
        if isinstance(self.given, Loss) and self.given.outputs is None:
            raise _unknown("outputs")
        outputs = self.outputs(model, batch, layout)
        return outputs.reshape(len(outputs), -1)

    def hessian_factor(self, outputs: Tensor, batch: Batch) -> Tensor:
        """``[batch, outputs, rank]``: R with R Rᵀ the Hessian of each loss with respect to the outputs.

        Raises:
            CapabilityError: If the loss is the user's and does not say.
        """
        if isinstance(self.given, NamedLoss):
            return self.given.hessian_factor(outputs)
        if self.given.hessian_factor is None:
            raise _unknown("hessian_factor")
        return self.given.hessian_factor(outputs, batch)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """``[example, class]`` from the outputs.

        Raises:
            CapabilityError: If the loss is not a named classification loss with one answer per example.
        """
        name = self.given.name if isinstance(self.given, NamedLoss) else "the user's own"
        if name == "cross_entropy":
            return outputs.softmax(dim=1)
        rows = outputs.reshape(len(outputs), -1)
        if name == "binary_cross_entropy" and rows.shape[1] == 1:
            return torch.cat([(-rows).sigmoid(), rows.sigmoid()], dim=1)
        raise CapabilityError(
            f"class probabilities need loss='cross_entropy' or a single binary output; the loss is {name}.",
            fix="use a method without probabilities, or a named loss.",
        )


def _label(batch: Batch, layout: Layout) -> Tensor:
    if layout.label is None or layout.label not in batch:
        raise DataError(
            "these examples have no label, which the loss or measurement needs.",
            fix="name the label column when reading them: label=....",
        )
    return batch[layout.label]


def _unknown(field: str) -> CapabilityError:
    return CapabilityError(
        f"the curvature of this loss is not known: Loss.{field} is missing.",
        fix=f"give loss=Loss(function, outputs=..., hessian_factor=...) with {field}=, or use a named loss, "
        "or the "
        "empirical Fisher.",
    )
