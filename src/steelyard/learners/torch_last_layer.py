"""The last linear layer of a network with a named loss, read with a hook."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
from torch import Tensor, nn

from steelyard.errors import CapabilityError
from steelyard.learners.last_layer import LastLayer
from steelyard.learners.sklearn_objectives import Linear
from steelyard.learners.torch_embedding import last_linear
from steelyard.learners.torch_losses import Batch, Loss, NamedLoss
from steelyard.learners.torch_training import TorchFitted
from steelyard.records import Examples

_AT_ONCE = 256
_KINDS: dict[str, Literal["softmax", "logistic", "squared"]] = {
    "cross_entropy": "softmax",
    "binary_cross_entropy": "logistic",
    "mse": "squared",
}


def linear_layer(
    fitted: TorchFitted,
    loss: NamedLoss | Loss,
    model: nn.Module,
    outputs: Callable[[nn.Module, Batch], Tensor],
    batches: Callable[[Examples, int], Iterator[Batch]],
) -> LastLayer:
    """The layer, in float64, and what it reads.

    Raises:
        CapabilityError: If the loss is the user's own or has several binary or numeric outputs, or the network does
            not end in a linear layer.
    """
    if not isinstance(loss, NamedLoss):
        raise CapabilityError(
            "what the last layer is trained to is not known: the loss is your own.",
            fix="give loss='cross_entropy', 'binary_cross_entropy' or 'mse'; or use ekfac.",
        )
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise CapabilityError("the network has no torch.nn.Linear.", fix="use ekfac or knn_shapley.")

    name, weights, constant = _last(fitted, layers)

    def features(examples: Examples) -> np.ndarray:
        rows = []
        for batch in batches(examples, _AT_ONCE):
            called, read = last_linear(model, outputs, batch)
            if called != name:
                raise CapabilityError(
                    f"the network ends in layer {called!r}, but the last one defined is {name!r}.",
                    fix="define the output layer last.",
                )
            rows.append(read.double().cpu().numpy())
        table = np.concatenate(rows)
        return np.column_stack([table, np.ones(len(table))]) if constant else table

    kind = _KINDS[loss.name]
    if kind != "softmax" and len(weights) > 1:
        raise CapabilityError(
            f"the network has {len(weights)} outputs for {loss.name}.", fix="use ekfac, or one output."
        )
    classes = {"softmax": np.arange(len(weights)), "logistic": np.arange(2), "squared": None}[kind]
    if kind == "softmax" and fitted.classes is not None:
        classes = np.asarray(fitted.classes)
    linear = Linear(kind, weights, np.zeros_like(weights), 1.0 if constant else None, classes)
    return LastLayer(linear, features, whole=False)


def _last(fitted: TorchFitted, layers: Sequence[tuple[str, nn.Linear]]) -> tuple[str, np.ndarray, bool]:
    name, layer = layers[-1]
    weight = fitted.parameters[f"{name}.weight" if name else "weight"].double().cpu().numpy()
    if layer.bias is None:
        return name, weight, False
    bias = fitted.parameters[f"{name}.bias" if name else "bias"].double().cpu().numpy()
    return name, np.column_stack([weight, bias]), True
