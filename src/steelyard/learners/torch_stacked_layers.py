"""Networks of plain layers run side by side by batched matrix products, without ``torch.func.vmap``.

For an ``nn.Sequential`` of linear layers, layer norms and elementwise functions there is nothing for ``vmap`` to
find out: a layer of K models is one ``baddbmm``. Saying so directly spares the transform's own work, a quarter of
the time of a stack of small perceptrons, and gives the same numbers up to rounding. Perceptrons of linear layers
with tanh or ReLU between them also have their backward pass written out: activations are made in place, and no
gradient is laid out twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_ELEMENTWISE = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Tanh,
    nn.Hardtanh,
    nn.Sigmoid,
    nn.LogSigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Identity,
)

_Layer = Callable[[Tensor, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class _Dense:
    """A linear layer and what comes after it.

    Attributes:
        names: Of its weight and, if it has one, its bias.
        after: ``nn.Tanh``, ``nn.ReLU`` or nothing.
    """

    names: tuple[str, ...]
    after: type[nn.Module] | None


class SideBySide(nn.Module):
    """K networks as one module: it reads K batches one after the other and answers in the same order.

    A function of a model and a batch that treats examples one by one can be given this module and K batches
    laid end to end.

    Args:
        layers: From :func:`plain_layers`.
        state: Parameters by name, ``[model, ...]``.
        count: K.
    """

    def __init__(self, layers: tuple[_Layer, ...], state: Mapping[str, Tensor], count: int) -> None:
        super().__init__()
        self._layers, self._state, self._count = layers, state, count

    def forward(self, inputs: Tensor) -> Tensor:
        """``[model * example, output]`` from ``[model * example, ...]``."""
        hidden = inputs.unflatten(0, (self._count, -1))
        for layer in self._layers:
            hidden = layer(hidden, self._state)
        return hidden.flatten(0, 1)


def plain_layers(net: nn.Module) -> tuple[_Layer, ...] | None:
    """The layers of a network as functions of ``[model, example, feature]`` and state; None if it has others.

    Only the exact classes count, without hooks and parametrisations: a subclass may do anything.
    """
    if type(net) is nn.Sequential:
        if _hooked(net):
            return None
        modules = _flat(net, "")
        found = [_layer(name, module) for name, module in modules]
        known = [layer for layer in found if layer is not None]
        if len(known) < len(found):
            return None
        dense = _perceptron(modules)
        return tuple(known) if dense is None else (_written_out(dense, known),)
    layer = _layer("", net)
    return None if layer is None else (layer,)


def _flat(net: nn.Sequential, prefix: str) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    for name, module in net.named_children():
        if type(module) is nn.Sequential and not _hooked(module):
            found += _flat(module, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}.", module))
    return found


def _layer(prefix: str, module: nn.Module) -> _Layer | None:
    if _hooked(module):
        return None
    if type(module) is nn.Linear:
        return _linear(prefix, bias=module.bias is not None)
    if type(module) is nn.LayerNorm:
        return _layer_norm(prefix, module)
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return lambda hidden, state: hidden.flatten(2)
    if type(module) in _ELEMENTWISE:
        return lambda hidden, state: module(hidden)
    return None


def _linear(prefix: str, *, bias: bool) -> _Layer:
    def run(hidden: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        weight = state[f"{prefix}weight"].transpose(1, 2)
        rows = hidden.flatten(1, -2)
        if not bias:
            return torch.bmm(rows, weight).unflatten(1, hidden.shape[1:-1])
        found = torch.baddbmm(state[f"{prefix}bias"].unsqueeze(1), rows, weight)
        return found.unflatten(1, hidden.shape[1:-1])

    return run


def _layer_norm(prefix: str, module: nn.LayerNorm) -> _Layer:
    shape, eps = module.normalized_shape, module.eps

    def run(hidden: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        found = nn.functional.layer_norm(hidden, shape, eps=eps)
        aside = (-1, *[1] * (hidden.ndim - 1 - len(shape)), *shape)
        if module.weight is not None:
            found = found * state[f"{prefix}weight"].view(aside)
        return found if module.bias is None else found + state[f"{prefix}bias"].view(aside)

    return run


def _hooked(module: nn.Module) -> bool:
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return any(hooks) or torch.nn.utils.parametrize.is_parametrized(module)


def _perceptron(modules: Sequence[tuple[str, nn.Module]]) -> tuple[_Dense, ...] | None:
    """The layers of linear maps with tanh or ReLU after them; None if there are others."""
    found: list[_Dense] = []
    for prefix, module in modules:
        if type(module) is nn.Linear:
            names = ("weight", "bias") if module.bias is not None else ("weight",)
            found.append(_Dense(tuple(prefix + name for name in names), None))
        elif type(module) in (nn.Tanh, nn.ReLU) and found and found[-1].after is None:
            found[-1] = _Dense(found[-1].names, type(module))
        else:
            return None
    return tuple(found) or None


def _written_out(dense: tuple[_Dense, ...], layers: Sequence[_Layer]) -> _Layer:
    names = [name for layer in dense for name in layer.names]

    def run(hidden: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        # A loss that differentiates by the inputs, and inputs of more axes, go the general way.
        if hidden.ndim == 3 and torch.is_grad_enabled() and not hidden.requires_grad:
            return _Perceptron.apply(hidden, dense, *[state[name] for name in names])
        for layer in layers:
            hidden = layer(hidden, state)
        return hidden

    return run


class _Perceptron(torch.autograd.Function):
    """``[model, example, output]`` of perceptrons side by side."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, dense: tuple[_Dense, ...], *parameters: Tensor) -> Tensor:
        given = iter(parameters)
        hidden, kept, weights = inputs, [inputs], []
        for layer in dense:
            weight = next(given)
            turned = weight.transpose(1, 2)
            # A power of two changes no rounding: tanh wants twice the sum, and gets it without a pass of its own.
            scale = 2 if layer.after is nn.Tanh else 1
            if len(layer.names) == 2:
                bias = next(given).unsqueeze(1)
                hidden = torch.baddbmm(bias, hidden, turned, beta=scale, alpha=scale)
            else:
                hidden = torch.bmm(hidden, turned)
                hidden = hidden.mul_(2) if scale == 2 else hidden
            if layer.after is nn.Tanh:
                # tanh x = 2 / (1 + exp(-2x)) - 1: vectorised better, and off by one rounding of a number near 1.
                hidden = hidden.sigmoid_().mul_(2).sub_(1)
            elif layer.after is nn.ReLU:
                hidden = hidden.relu_()
            kept.append(hidden)
            weights.append(weight)
        ctx.dense = dense
        ctx.save_for_backward(*kept, *weights)
        return hidden

    @staticmethod
    @once_differentiable  # hidden layers are kept without their own graph
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator renames ctx
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        kept, weights = ctx.saved_tensors[: len(ctx.dense) + 1], ctx.saved_tensors[len(ctx.dense) + 1 :]
        found: list[Tensor | None] = []
        for place in reversed(range(len(ctx.dense))):
            layer, inputs, outputs = ctx.dense[place], kept[place], kept[place + 1]
            if layer.after is nn.ReLU:
                gradient = torch.ops.aten.threshold_backward(gradient, outputs, 0)
            elif layer.after is nn.Tanh:
                gradient = torch.ops.aten.tanh_backward(gradient, outputs)
            if len(layer.names) == 2:
                found.append(gradient.sum(dim=1))
            found.append(torch.bmm(gradient.transpose(1, 2), inputs))
            if place:
                gradient = torch.bmm(gradient, weights[place])
        return (None, None, *reversed(found))
