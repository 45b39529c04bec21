"""Where fits start: new parameters under a seed, or the module as it was given."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from steelyard.errors import ModelError, SettingError
from steelyard.learners.torch_training import seeded

Start = Literal["fresh", "given"]


@dataclass(frozen=True, eq=False)
class Origin:
    """The model as given, and how to begin a fit from it.

    Attributes:
        net: A copy of the module that was given; a new one where a function was given.
        factory: The function that was given, if one was.
        start: ``"fresh"`` or ``"given"``.
    """

    net: nn.Module
    factory: Callable[[], nn.Module] | None
    start: Start

    def draw(self) -> nn.Module:
        """A module to train; random numbers come from torch's generator as it stands."""
        if self.factory is not None:
            return self.factory().to(next(self.net.parameters()).device)
        module = copy.deepcopy(self.net)
        if self.start == "fresh":
            for part in module.modules():
                reset = _resetter(part)
                if reset is not None and _owns_state(part):
                    reset()
        return module


def origin_of(net: Any, start: Start) -> Origin:
    """The origin of a module, or of a function that makes one.

    Raises:
        SettingError: If it is neither, or a function is to start from given parameters.
    """
    if isinstance(net, nn.Module):
        return Origin(copy.deepcopy(net), None, start)
    if not callable(net):
        raise SettingError(
            f"net={net!r} is no module.", fix="give a torch.nn.Module, or a function that makes one."
        )
    if start == "given":
        raise SettingError(
            "Torch: start='given', but a function that makes modules has no given parameters.",
            fix="give the module itself, or start='fresh'.",
        )
    with seeded(0, torch.device("cpu")):
        module = net()
    if not isinstance(module, nn.Module):
        raise SettingError(
            f"the function given as net returned a {type(module).__name__}.", fix="return a torch.nn.Module."
        )
    factory: Any = net
    return Origin(module, factory, start)


def check_resettable(net: nn.Module) -> None:
    """Refuse to start fresh from a module whose parameters cannot be drawn anew.

    Raises:
        ModelError: Naming the first submodule that owns parameters but has no ``reset_parameters``.
    """
    for name, module in net.named_modules():
        if next(module.parameters(recurse=False), None) is not None and _resetter(module) is None:
            raise ModelError(
                f"{name or 'the model'} ({type(module).__name__}) owns parameters but has no "
                "reset_parameters(), "
                "so a fit cannot start from new ones.",
                fix="pass a function that makes the model (Torch(lambda: Net(), ...)), or start='given' to "
                "start "
                "from the parameters as they are.",
            )


def _resetter(module: nn.Module) -> Callable[[], Any] | None:
    found = getattr(module, "reset_parameters", None)
    return found if callable(found) else None


def _owns_state(module: nn.Module) -> bool:
    own = (next(module.parameters(recurse=False), None), next(module.buffers(recurse=False), None))
    return own != (None, None)
