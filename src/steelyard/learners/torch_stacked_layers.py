"""Networks of plain layers run side by side by batched matrix products, without ``torch.func.vmap``.

For an ``nn.Sequential`` of linear layers, layer norms and elementwise functions there is nothing for ``vmap`` to
find out: a layer of K models is one ``baddbmm``. Saying so directly spares the transform's own work, a quarter of
the time of a stack of small perceptrons, and gives the same numbers up to rounding.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

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
        found = [_layer(name, module) for name, module in _flat(net, "")]
        known = [layer for layer in found if layer is not None]
        return tuple(known) if len(known) == len(found) else None
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
