"""Where fits start: new parameters under a seed, or the module as it was given."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from steelyard.errors import CapabilityError, ModelError, SettingError
from steelyard.learners.torch_training import seeded

Start = str | Callable[[], nn.Module]


@dataclass(frozen=True, eq=False)
class Origin:
    """The model as given, and how to begin a fit from it.

    Attributes:
        net: A copy of the module that was given; a new one where only a function was given.
        factory: The function that makes new modules, if one was given.
        start: ``"fresh"``, ``"given"`` or ``"made"`` (by the function).
    """

    net: nn.Module
    factory: Callable[[], nn.Module] | None
    start: str

    def draw(self) -> nn.Module:
        """A module to train; random numbers come from torch's generator as it stands."""
        if self.factory is not None:
            return self.factory().to(next(self.net.parameters()).device)
        module = copy.deepcopy(self.net)
        if self.start == "fresh":
            _reset(module)
        return module


def origin_of(net: Any, start: Any, *, trained: bool) -> Origin:
    """The origin of a module, of a function that makes one, or of both.

    Args:
        net: A module, or a function that makes one.
        start: ``"fresh"``, ``"given"``, or a function that makes a module.
        trained: Whether ``net`` is to be explained as it is.

    Raises:
        SettingError: If these contradict one another, or are something else.
    """
    if not (start in ("fresh", "given") or (callable(start) and not isinstance(start, nn.Module))):
        raise SettingError(
            f"Torch: start={start!r}.", fix="give 'fresh', 'given', or a function that makes a new module."
        )
    factory: Any = start if isinstance(net, nn.Module) else net
    if isinstance(net, nn.Module):
        copied = copy.deepcopy(net)
        return Origin(copied, None, start) if isinstance(start, str) else Origin(copied, factory, "made")
    if not callable(net):
        raise SettingError(
            f"net={net!r} is no module.", fix="give a torch.nn.Module, or a function that makes one."
        )
    if trained or start != "fresh":
        raise SettingError(
            "Torch: net is a function that makes modules, so there are no parameters that are trained or given.",
            fix="give the module itself as net; a function for fresh starts can then be given as start=.",
        )
    with seeded(0, torch.device("cpu")):
        module = net()
    if not isinstance(module, nn.Module):
        raise SettingError(
            f"the function given as net returned a {type(module).__name__}.", fix="return a torch.nn.Module."
        )
    return Origin(module, factory, "made")


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
                fix="pass a function that makes new models (start=lambda: Net()), or start='given' to start from "
                "the parameters as they are.",
            )


def wider(origin: Origin, outputs: int) -> nn.Module | Callable[[], nn.Module]:
    """The model with one output more in its last linear layer; a function that makes it, where one made the model.

    Parameters that were given stay; the new output starts at zero.

    Args:
        origin: The model.
        outputs: How many it has.

    Raises:
        CapabilityError: If the last linear layer does not have so many outputs.
    """
    if origin.factory is None:
        return _widened(copy.deepcopy(origin.net), outputs)
    factory = origin.factory
    return lambda: _widened(factory(), outputs)


def _widened(net: nn.Module, outputs: int) -> nn.Module:
    linear = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1][1].out_features != outputs:
        raise CapabilityError(
            f"the last layer of {type(net).__name__} is no nn.Linear with {outputs} outputs, so no class can be added.",
            fix="use aum with threshold='none'.",
        )
    name, last = linear[-1]
    like = {"dtype": last.weight.dtype, "device": last.weight.device}
    new = nn.Linear(last.in_features, outputs + 1, bias=last.bias is not None, **like)
    with torch.no_grad():
        for parameter, given in zip(new.parameters(), last.parameters(), strict=True):
            parameter.zero_()
            parameter[:outputs] = given
    if not name:
        return new
    owner, _, attribute = name.rpartition(".")
    setattr(net.get_submodule(owner), attribute, new)
    return net


def _reset(module: nn.Module) -> None:
    # Children first, because a parent may set what its children drew: attention zeroes the bias of its output.
    for child in module.children():
        _reset(child)
    reset = _resetter(module)
    if reset is not None and _owns_state(module):
        reset()


def _resetter(module: nn.Module) -> Callable[[], Any] | None:
    # Attention keeps the method private, alone among the layers of torch.nn.
    name = "_reset_parameters" if isinstance(module, nn.MultiheadAttention) else "reset_parameters"
    found = getattr(module, name, None)
    return found if callable(found) else None


def _owns_state(module: nn.Module) -> bool:
    own = (next(module.parameters(recurse=False), None), next(module.buffers(recurse=False), None))
    return own != (None, None)
