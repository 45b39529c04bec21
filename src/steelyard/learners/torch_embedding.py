"""One vector per example from inside a network, read with a hook."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steelyard.errors import CapabilityError, SettingError
from steelyard.learners.torch_losses import Batch


def embeddings(
    model: nn.Module, run: Callable[[nn.Module, Batch], Any], batch: Batch, *, module: str | None
) -> Tensor:
    """``[example, feature]``: what the last linear layer reads, or what a named module gives.

    Where the vectors stand in a sequence or a grid (``[example, position, feature]`` into a linear layer),
    the mean over the positions is taken; the output of a named module is flattened instead.

    Args:
        model: In evaluation mode.
        run: Runs the model on a batch.
        batch: A batch.
        module: Name of a submodule whose output is wanted; None for the input of the last ``Linear`` called.

    Raises:
        CapabilityError: If no linear layer is called.
        SettingError: If there is no module of that name, it is not called, or it gives no tensor.
    """
    seen: list[Tensor] = []
    with torch.no_grad(), _listening(model, module, seen):
        run(model, batch)
    if not seen and module is None:
        raise CapabilityError(
            "the model calls no torch.nn.Linear, so there is no last layer to read embeddings from.",
            fix="name the module whose output is the embedding: Torch(..., embedding='encoder.norm').",
        )
    if not seen:
        raise SettingError(
            f"embedding={module!r} is not called, or gives no tensor.", fix="name a submodule that gives one."
        )
    found = seen[-1]
    if module is None and found.ndim > 2:
        found = found.flatten(1, -2).mean(dim=1)
    return found.reshape(len(found), -1)


def last_linear(
    model: nn.Module, run: Callable[[nn.Module, Batch], Tensor], batch: Batch
) -> tuple[str, Tensor]:
    """Name of the linear layer that gives the model's outputs, and ``[example, feature]`` what it reads.

    Raises:
        CapabilityError: If the outputs are not those of a linear layer that reads one vector per example.
    """
    seen: list[tuple[str, Tensor, Tensor]] = []
    names: dict[nn.Module, str] = {
        layer: name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)
    }

    def listen(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen[:] = [(names[layer], inputs[0].detach(), output.detach())]

    handles = [layer.register_forward_hook(listen) for layer in names]
    try:
        with torch.no_grad():
            outputs = run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if seen and seen[0][1].ndim == 2 and torch.equal(outputs.reshape(seen[0][2].shape), seen[0][2]):
        return seen[0][:2]
    raise CapabilityError(
        "the outputs of this model are not those of a torch.nn.Linear that reads one vector per example.",
        fix="use ekfac or knn_shapley, or let the model end in nn.Linear.",
    )


@contextmanager
def _listening(model: nn.Module, module: str | None, seen: list[Tensor]) -> Iterator[None]:
    def read_input(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen[:] = [inputs[0].detach()]

    def read_output(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor):
            seen[:] = [first.detach()]

    if module is None:
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        handles = [layer.register_forward_pre_hook(read_input) for layer in layers]
    else:
        handles = [_named(model, module).register_forward_hook(read_output)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _named(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if name not in modules:
        shown = ", ".join(repr(found) for found in list(modules)[1:9])
        raise SettingError(
            f"the model has no module {name!r}.", fix=f"name one of its modules, such as {shown}."
        )
    return modules[name]
