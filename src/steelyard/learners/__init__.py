"""Learners: one adapter per framework, which trains models of that kind and answers for them.

A learner satisfies the protocols of :mod:`steelyard.problem`. Everything that is particular to a framework
lives here (or, for backward passes, in ``gradients/`` and ``collect/``); no method, plan or report may. The
names below are loaded when they are first used, so that a framework is imported only by those who use it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from steelyard.errors import CapabilityError
from steelyard.learners.recipes import SGD as SGD
from steelyard.learners.recipes import Adam as Adam
from steelyard.learners.recipes import AdamW as AdamW

if TYPE_CHECKING:
    from steelyard.learners.sklearn import Sklearn as Sklearn
    from steelyard.learners.torch import Torch as Torch
    from steelyard.learners.torch_losses import Loss as Loss

_HOMES = {
    "Loss": "steelyard.learners.torch_losses",
    "Sklearn": "steelyard.learners.sklearn",
    "Torch": "steelyard.learners.torch",
}

__all__ = ["SGD", "Adam", "AdamW", "Loss", "Sklearn", "Torch"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise CapabilityError(
            f"{name} needs PyTorch, which is not installed.", fix="pip install 'steelyard[torch]'."
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
