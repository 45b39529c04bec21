"""Per-example gradients of parameters that no tap covers, by ``torch.func`` over those parameters alone."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.attention
from jaxtyping import Float
from torch import Tensor, nn

Batch = Mapping[str, Tensor]
Function = Callable[[nn.Module, Batch], Tensor]


class _Wrapped(nn.Module):
    """A model together with a function of it, so that ``functional_call`` can swap the model's parameters."""

    def __init__(self, model: nn.Module, function: Function) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, batch: Batch) -> Tensor:
        return self.function(self.model, batch)


def row_gradients(
    model: nn.Module, function: Function, batch: Batch, names: Sequence[str]
) -> tuple[dict[str, Float[Tensor, "example param"]], bool]:
    """Gradient of each example's own value with respect to the named parameters.

    Cost: one vectorised forward and backward over the batch; where the model cannot be vectorised by
    ``torch.func.vmap`` (data-dependent control flow), one forward and backward per example.

    Args:
        model: In evaluation mode.
        function: Gives one value per example: a loss, a measurement, one output.
        batch: Tensors with the example on the first axis.
        names: Parameters to differentiate by.

    Returns:
        One matrix per name, and whether it was vectorised.
    """
    wrapped = _Wrapped(model, function)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    chosen = {f"model.{name}": parameters[name].detach() for name in names}

    def value(candidates: dict[str, Tensor], example: dict[str, Tensor]) -> Tensor:
        single = {key: tensor.unsqueeze(0) for key, tensor in example.items()}
        return torch.func.functional_call(wrapped, candidates, (single,), tie_weights=True).sum()

    gradient = torch.func.grad(value)
    tensors = {key: tensor for key, tensor in batch.items()}
    try:
        # The fused attention kernels have no batching rule and would run one example at a time.
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            found = torch.func.vmap(gradient, in_dims=(None, 0))(chosen, tensors)
        vectorised = True
    except (RuntimeError, ValueError):
        count = len(next(iter(tensors.values())))
        singles = [gradient(chosen, {key: t[i] for key, t in tensors.items()}) for i in range(count)]
        found = {key: torch.stack([single[key] for single in singles]) for key in chosen}
        vectorised = False
    return {name: found[f"model.{name}"].detach().flatten(1) for name in names}, vectorised
