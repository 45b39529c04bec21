"""Copies of one model that share what is not trained, where fits start, and what is kept of them."""

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from steelyard.errors import ModelError, SettingError
from steelyard.learners.transformers_adapters import draw_again

Start = str | Callable[[], nn.Module]


@dataclass(frozen=True, eq=False)
class Beginning:
    """Where fits start.

    Attributes:
        net: The model as it was opened.
        start: ``"given"``: from its parameters. ``"fresh"``: adapters, or all parameters, drawn anew. Or a
            function that makes a model.
        adapted: Whether only adapters are trained.
        checkpointing: Whether activations are computed again in the backward pass instead of being kept.
    """

    net: nn.Module
    start: Start
    adapted: bool
    checkpointing: bool

    def draw(self) -> nn.Module:
        """A model to train; random numbers come from torch's generator as it stands."""
        if not isinstance(self.start, str):
            module = self.start()
            check_trainable(trainable(module), self.net)
        elif self.start == "fresh" and not self.adapted:
            module = _initialised(self.net)
        else:
            module = sharing_copy(self.net)
            if self.start == "fresh":
                draw_again(module)
        if self.checkpointing:
            with warnings.catch_warnings():
                # The name that every version since 4.35 knows; the newest call it by another.
                warnings.filterwarnings("ignore", "`gradient_checkpointing_enable`", FutureWarning)
                cast(Any, module).gradient_checkpointing_enable({"use_reentrant": False})
        return module


def beginning(
    net: nn.Module, start: Start | None, *, adapted: bool, trained: bool, refits: bool, checkpointing: bool
) -> Beginning:
    """Where fits start, with the default that fits the model.

    Raises:
        SettingError: If a trained model is to be trained again and nothing says from where.
    """
    if start is None and trained and refits and not adapted:
        raise SettingError(
            "Transformers: the model is trained and has a recipe, but nothing says where fits start.",
            fix="give start='given' (from the trained parameters), 'fresh' (new ones) or a function that returns "
            "the model as it was before its training.",
        )
    if not (start is None or start in ("given", "fresh") or callable(start)):
        raise SettingError(
            f"Transformers: start={start!r}.", fix="give 'given', 'fresh' or a function that makes a model."
        )
    return Beginning(net, start or ("fresh" if adapted else "given"), adapted, checkpointing)


def sharing_copy(net: nn.Module) -> nn.Module:
    """A model with parameters of its own where they are trained; the others are the same tensors.

    Cost: memory of the trained parameters and of the buffers. With adapters, many fits of a large model fit into
    memory because there is one base.
    """
    shared = {id(value): value for value in net.parameters() if not value.requires_grad}
    return copy.deepcopy(net, cast(dict[int, Any], shared))


def trainable(net: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters that are trained, by name."""
    return {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in net.named_parameters()
        if value.requires_grad
    }


def filled(net: nn.Module, parameters: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model that holds these parameters, in evaluation mode."""
    module = sharing_copy(net)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if value.requires_grad:
                value.copy_(parameters[name])
    return module.eval()


def check_trainable(parameters: Mapping[str, Tensor], net: nn.Module) -> None:
    """Refuse parameters of another model, or of other adapters.

    Raises:
        ModelError: Naming the first that is missing, surplus or of another shape.
    """
    wanted = {name: tuple(value.shape) for name, value in net.named_parameters() if value.requires_grad}
    given = {name: tuple(value.shape) for name, value in parameters.items()}
    for name in sorted({*wanted, *given}):
        if wanted.get(name) != given.get(name):
            raise ModelError(
                f"{name}: the fitted model has {given.get(name) or 'no such parameter'}, this learner trains "
                f"{wanted.get(name) or 'no such parameter'}.",
                fix="use the learner with the model and the adapters that were fitted.",
            )


def is_half(net: nn.Module) -> bool:
    """Whether the model computes in float16, whose largest number is 65,504."""
    return any(value.dtype == torch.float16 for value in net.parameters())


def widened(net: nn.Module) -> tuple[nn.Module, str]:
    """The model in a number type that does not overflow, and its name: bfloat16 on a GPU, else float32."""
    device = next(net.parameters()).device
    wide = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return net.to(wide), str(wide).removeprefix("torch.")


def check_half(net: nn.Module, recipe: object) -> None:
    """Refuse parameters that float16 cannot hold, and to train any in it.

    Raises:
        SettingError: If a parameter is infinite in float16, or trained parameters are in float16.
    """
    half = {name: value for name, value in net.named_parameters() if value.dtype == torch.float16}
    for name, value in half.items():
        if not torch.isfinite(value).all():
            raise SettingError(
                f"Transformers: the parameter {name} has values beyond 65,504, which float16 cannot hold.",
                fix="give dtype='bfloat16' or 'float32'.",
            )
    if recipe is not None and any(value.requires_grad for value in half.values()):
        raise SettingError(
            "Transformers: a recipe, and parameters in float16, in which small updates vanish.",
            fix="give dtype='bfloat16' or 'float32', or train LoRA adapters, which are kept in float32.",
        )


def _initialised(net: nn.Module) -> nn.Module:
    given: Any = net
    like = next(net.parameters())
    module = type(given)(copy.deepcopy(given.config)).to(device=like.device, dtype=like.dtype)
    frozen = {name for name, value in net.named_parameters() if not value.requires_grad}
    for name, value in module.named_parameters():
        value.requires_grad_(name not in frozen)
    return cast(nn.Module, module)
